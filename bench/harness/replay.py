"""An upstream that gives recorded answers, one request at a time."""

from __future__ import annotations

import http.server
import json
import threading

from harness.traces import Call


class Replay:
    """Answers every POST with what ``expect`` was told last; ends with the ``with`` block."""

    def __init__(self) -> None:
        outer = self
        self.answer = b"{}"

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                head = (
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(outer.answer)}\r\n\r\n"
                )
                self.wfile.write(head.encode() + outer.answer)

            def log_message(self, *_: object) -> None:
                """A line per request would cost more than the request."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def expect(self, call: Call) -> None:
        """The next request is this call."""
        self.answer = json.dumps(call.response()).encode()

    def __enter__(self) -> Replay:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
