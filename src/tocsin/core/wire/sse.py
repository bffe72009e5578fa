"""Server-sent events, split as they arrive."""

DEFAULT_MAX_EVENT = 16 * 1024 * 1024
"""Bytes of one event that are kept; a larger one is skipped."""

_BOM = b"\xef\xbb\xbf"


class SseSplitter:
    """Cuts a stream of server-sent events into their data payloads.

    Events may be cut anywhere, lines may end in LF, CRLF or CR, comments and other fields are
    skipped, several ``data`` lines are joined by LF. An event of more than ``max_event`` bytes is
    dropped and sets ``overflowed``: memory stays bounded whatever an upstream sends.
    """

    __slots__ = ("_after_cr", "_buffer", "_max", "_skipping", "_started", "overflowed")

    def __init__(self, max_event: int = DEFAULT_MAX_EVENT) -> None:
        self._buffer = bytearray()
        self._max = max_event
        self._after_cr = False
        self._skipping = False
        self._started = False
        self.overflowed = False

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads of the events that ``data`` completes, in order."""
        if not self._started:
            self._started = bool(data)
            data = data.removeprefix(_BOM)
        if self._after_cr or b"\r" in data:
            data = self._unify(data)
        if self._buffer or self._skipping:
            return self._feed_buffered(data)
        if data.endswith(b"\n\n"):
            # The usual case: whole events, one write each.
            if data.startswith(b"data: ") and data.find(b"\n") == len(data) - 2:
                return [data[6:-2]]
            return _payloads(data)
        cut = data.rfind(b"\n\n") + 2
        if cut == 1:
            self._keep(data)
            return []
        self._keep(data[cut:])
        return _payloads(data[:cut])

    def finish(self) -> list[bytes]:
        """What is left when the stream ends; some upstreams omit the last blank line."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return [] if self._skipping else _payloads(rest)

    def _unify(self, data: bytes) -> bytes:
        """``data`` with LF line ends, also where a CRLF was cut in two."""
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if data.endswith(b"\r"):
            self._after_cr = True
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _feed_buffered(self, data: bytes) -> list[bytes]:
        buffer = self._buffer
        scanned = max(len(buffer) - 1, 0)
        buffer += data
        first = buffer.find(b"\n\n", scanned)
        if first < 0:
            self._bound()
            return []
        if self._skipping:
            del buffer[: first + 2]
            self._skipping = False
        cut = buffer.rfind(b"\n\n") + 2
        if cut == 1:
            self._bound()
            return []
        whole = bytes(buffer[:cut])
        del buffer[:cut]
        self._bound()
        return _payloads(whole)

    def _keep(self, data: bytes) -> None:
        self._buffer += data
        self._bound()

    def _bound(self) -> None:
        if self._skipping or len(self._buffer) > self._max:
            self._skipping = self.overflowed = True
            # One byte stays: the event's end may be cut between its two line feeds.
            del self._buffer[:-1]


def _payloads(data: bytes) -> list[bytes]:
    found = []
    for block in data.split(b"\n\n"):
        if b"\n" not in block:
            if block.startswith(b"data:"):
                found.append(_value(block))
            continue
        if block.startswith(b"event: "):
            # Anthropic's events: a name, which the data repeats, and one line of data.
            at = block.find(b"\n") + 1
            if block.startswith(b"data: ", at) and block.find(b"\n", at) < 0:
                found.append(block[at + 6 :])
                continue
        lines = [_value(line) for line in block.split(b"\n") if line.startswith(b"data:")]
        if lines:
            found.append(b"\n".join(lines) if len(lines) > 1 else lines[0])
    return found


def _value(line: bytes) -> bytes:
    return line[6:] if line.startswith(b"data: ") else line[5:]
