"""The upstream of a race: it tells the truth about what it bills. Runs as its own process.

Whatever a call's mark says (see ``race_plan``) is done and written down: one row per attempt, with
the tokens that were really worked on. The input is billed at once, the output as far as it was
generated when the caller's leaving was noticed. An error status is not billed, as with the large
providers, unless ``--bill-errors`` says so.
``GET /race/attempts`` gives all rows so far.

  python bench/harness/race_upstream.py --port 9000
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import race_wire
from harness.race_plan import EMBED_NANO, INPUT_NANO, MARK, OUTPUT_NANO


@dataclass(kw_only=True)
class Attempt:
    """What one request cost. Times are seconds of the machine's monotonic clock."""

    call: str
    number: int
    path: str
    began: float
    ended: float | None = None
    how: str = "open"
    """``ok``, ``limited``, ``broken``, ``drop``, ``cut``, ``left`` (the caller did), ``open``."""
    reported: bool = False
    """Whether the usage was sent, to the last byte of the answer."""
    input: int = 0
    output: int = 0
    nano: int = 0


BROKEN = {"error": {"message": "the model broke", "type": "server_error"}}


class Left(Exception):
    """The caller closed the connection."""


class Connection(asyncio.Protocol):
    """One connection from the gateway: requests one after the other, kept alive."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.gone = asyncio.Event()
        self._buffer = bytearray()
        self._task: asyncio.Task[None] | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._next()

    def eof_received(self) -> bool:
        self.gone.set()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.gone.set()

    def _next(self) -> None:
        """Begin the next request once it is here whole and the one before is done."""
        if self._task is not None:
            return
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._buffer[:end])
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if len(self._buffer) < end + 4 + length:
            return
        body = bytes(self._buffer[end + 4 : end + 4 + length])
        del self._buffer[: end + 4 + length]
        self._task = asyncio.get_running_loop().create_task(self._serve(head, body))

    async def _serve(self, head: bytes, body: bytes) -> None:
        method, target, _ = head.split(b"\r\n", 1)[0].split(b" ", 2)
        try:
            await self.server.answer(self, method.decode(), target.decode(), body)
        except Left:
            self.transport.abort()
        finally:
            self._task = None
        if not self.gone.is_set():
            self._next()

    async def wait(self, milliseconds: float, *, deaf: bool = False) -> None:
        """Work for a while. Raises ``Left`` as soon as the caller leaves, unless ``deaf``."""
        if deaf:
            await asyncio.sleep(milliseconds / 1000)
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.gone.wait(), milliseconds / 1000)
        if self.gone.is_set():
            raise Left

    def send(self, data: bytes) -> None:
        """Write, unless nobody is there any more."""
        if not self.gone.is_set():
            self.transport.write(data)

    def reply(self, status: int, payload: Any, extra: str = "") -> None:
        """A whole JSON reply."""
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.send(
            f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{extra}"
            f"content-length: {len(data)}\r\n\r\n".encode()
            + data
        )


class Server:
    """Does what the marks say, and remembers every attempt."""

    def __init__(self, *, bill_errors: bool) -> None:
        self.bill_errors = bill_errors
        self.attempts: list[Attempt] = []
        self._tries: collections.Counter[str] = collections.Counter()

    async def answer(self, at: Connection, method: str, target: str, body: bytes) -> None:
        """One request."""
        found = MARK.search(body)
        if target.startswith("/race/attempts"):
            at.reply(200, [asdict(attempt) for attempt in self.attempts])
        elif found is None:
            # Health checks of the gateway and lists of models cost nothing.
            at.reply(200, {"object": "list", "data": []})
        else:
            await self._work(at, target, body, race_wire.Mark.read(found))

    async def _work(self, at: Connection, path: str, body: bytes, mark: race_wire.Mark) -> None:
        number = self._tries[mark.call]
        self._tries[mark.call] += 1
        now = time.monotonic()
        attempt = Attempt(call=mark.call, number=number, path=path, began=now)
        self.attempts.append(attempt)
        words = mark.script.split(",")
        do = words[min(number, len(words) - 1)]
        try:
            if do == "limited":
                attempt.how = "limited"
                error = {"error": {"message": "slow down", "type": "rate_limit", "code": "rpm"}}
                at.reply(429, error, "retry-after-ms: 15\r\n")
            else:
                await self._generate(at, attempt, json.loads(body), mark, do)
        except Left:
            attempt.how = "left"
            raise
        finally:
            attempt.ended = time.monotonic()

    async def _generate(
        self, at: Connection, attempt: Attempt, asked: Any, mark: race_wire.Mark, do: str
    ) -> None:
        """Generate piece by piece; what is done when something goes wrong stays billed."""
        answer = race_wire.answer_for(attempt.path, asked, mark)
        embeds, deaf = answer.kind == "embeddings", do == "deaf"
        if do == "broken" and not self.bill_errors:
            await at.wait(mark.first)
            attempt.how = "broken"
            at.reply(500, BROKEN)
            return
        attempt.input = mark.input
        self._bill(attempt, embeds)
        await at.wait(mark.first, deaf=deaf)
        if do == "ok" or deaf or do == "cut":
            at.send(answer.head())
        pieces = 1 if embeds else mark.pieces
        for index in range(pieces):
            if not embeds:
                attempt.output = mark.output * (index + 1) // pieces
                self._bill(attempt, embeds)
            if do in ("broken", "drop", "cut") and index >= pieces // 2:
                break
            if do in ("ok", "deaf", "cut"):
                at.send(answer.piece(index, pieces))
            await at.wait(mark.pause, deaf=deaf)
        if do == "broken":
            attempt.how = "broken"
            at.reply(500, BROKEN)
        elif do in ("drop", "cut"):
            attempt.how = do
            if do == "cut" and not answer.stream:
                whole = answer.end()
                at.send(whole[: len(whole) - 20])
            at.transport.close()
        elif at.gone.is_set():
            raise Left
        else:
            at.send(answer.end())
            attempt.how, attempt.reported = "ok", answer.reports

    def _bill(self, attempt: Attempt, embeds: bool) -> None:
        """What the attempt costs so far."""
        if embeds:
            attempt.nano = attempt.input * EMBED_NANO
        else:
            attempt.nano = attempt.input * INPUT_NANO + attempt.output * OUTPUT_NANO


async def serve(port: int, *, bill_errors: bool) -> None:
    """Listen until the process is ended."""
    server = Server(bill_errors=bill_errors)
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(
        lambda: Connection(server), "127.0.0.1", port, backlog=1024
    )
    await listening.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--bill-errors", action="store_true", help="work that ends in a 500, too")
    given = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(given.port, bill_errors=given.bill_errors))


if __name__ == "__main__":
    main()
