"""Toy gateways that show that the race finds what it looks for: one strict, the others wrong.

Each forwards bytes to the upstream, retries, and holds every account named in ``x-accounts``
(``name=nano US dollars``, comma-separated) to its limit. Its book is a file of lines.

``strict``: reserves the worst case first, settles after; what was cut counts in full.
``late``: reads the spend before and writes it after. ``forgets``: its spend dies with it.
``blind-cut``: a cut answer counts nothing. ``blind-retry``: only the last attempt counts.
``blind-route``: paths that it does not know go through. ``stingy``: never gives anything back.
``twice``: counts every answer twice.

  python bench/harness/race_toys.py --port 9001 --upstream 9000 --book FILE --kind strict
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.race_plan import CEILING, EMBED_NANO, INPUT_NANO, OUTPUT_NANO, ROUTES

KINDS = (
    "strict",
    "late",
    "forgets",
    "blind-cut",
    "blind-retry",
    "blind-route",
    "stingy",
    "twice",
)
TRIES = 4
_COUNTS = re.compile(rb'"(prompt_tokens|input_tokens|completion_tokens|output_tokens)": ?(\d+)')


class Refused(Exception):
    """An account has not enough left."""


@dataclass
class Book:
    """What each account has spent and holds, as lines of a file: ``+`` takes, ``=`` settles."""

    path: Path
    forgets: bool
    taken: collections.Counter[str] = field(default_factory=collections.Counter)
    out: TextIO = field(init=False)

    def __post_init__(self) -> None:
        if not self.forgets and self.path.exists():
            # Open reservations count in full: nothing takes their lines back.
            for line in self.path.read_text().splitlines():
                name, _, amount = line.rpartition(" ")
                self.taken[name] += int(amount)
        self.out = self.path.open("a")

    def add(self, accounts: dict[str, int], amount: int) -> None:
        """Take (or give back) from every account; survives the process, not the machine."""
        for name in accounts:
            self.taken[name] += amount
            self.out.write(f"{name} {amount}\n")
        self.out.flush()

    def refuse(self, accounts: dict[str, int], worst: int) -> None:
        """Raises ``Refused`` when an account cannot take ``worst`` more."""
        for name, limit in accounts.items():
            if self.taken[name] + worst > limit:
                raise Refused(name)


@dataclass(kw_only=True)
class Request:
    """One request of a client."""

    head: bytes
    path: str
    body: bytes
    accounts: dict[str, int]

    @property
    def embeds(self) -> bool:
        return self.path.endswith("/embeddings")

    @property
    def worst(self) -> int:
        """Most that one attempt may cost, as the race itself reckons it."""
        if self.embeds:
            return len(self.body) * EMBED_NANO
        asked = json.loads(self.body)
        most = int(asked.get("max_tokens") or asked.get("max_output_tokens") or CEILING)
        return len(self.body) * INPUT_NANO + most * int(asked.get("n", 1)) * OUTPUT_NANO

    def cost(self, answer: bytes) -> int | None:
        """What an answer says that it cost; None where it does not say."""
        counts: dict[bytes, int] = {}
        for name, number in _COUNTS.findall(answer):
            counts[name] = int(number)
        asked = counts.get(b"prompt_tokens", counts.get(b"input_tokens"))
        if asked is None:
            return None
        if self.embeds:
            return asked * EMBED_NANO
        said = counts.get(b"completion_tokens", counts.get(b"output_tokens", 0))
        return asked * INPUT_NANO + said * OUTPUT_NANO


@dataclass(frozen=True)
class Result:
    """How an attempt ended: whether the client needs no other, its cost, its last bytes."""

    answered: bool
    cost: int | None
    tail: bytes


class Toy:
    """The gateway."""

    def __init__(self, kind: str, upstream: int, book: Path) -> None:
        self.kind = kind
        self.upstream = upstream
        self.book = Book(book, kind == "forgets")

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one request."""
        try:
            request = await _read(reader)
            if request is not None:
                gone = asyncio.create_task(reader.read(1))
                work = asyncio.create_task(self._serve(request, writer))
                await asyncio.wait({gone, work}, return_when=asyncio.FIRST_COMPLETED)
                gone.cancel()
                work.cancel()
                await asyncio.wait({work})
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _serve(self, request: Request, writer: asyncio.StreamWriter) -> None:
        try:
            for number in range(TRIES):
                if await self._attempt(request, writer, last=number == TRIES - 1):
                    return
        except Refused as error:
            body = b'{"error":{"code":"budget_exceeded","message":"%b"}}' % str(error).encode()
            writer.write(_plain(429, body))
            await writer.drain()

    async def _attempt(self, request: Request, writer: asyncio.StreamWriter, *, last: bool) -> bool:
        """One attempt; whether the client has its answer now."""
        accounts, worst = self._accounts(request), request.worst
        held = 0 if self.kind == "late" else worst
        self.book.refuse(accounts, held or 1)
        self.book.add(accounts, held)
        result: Result | None = None
        try:
            result = await self._forward(request, writer, last=last)
        finally:
            self._settle(accounts, held, worst, result)
        if result.answered:
            writer.write(result.tail)
            await writer.drain()
        return result.answered

    def _accounts(self, request: Request) -> dict[str, int]:
        known = request.path in ROUTES.values() and request.path != ROUTES["other"]
        return {} if self.kind == "blind-route" and not known else request.accounts

    def _settle(
        self, accounts: dict[str, int], held: int, worst: int, result: Result | None
    ) -> None:
        """Count what the attempt cost, each kind in its own way, and give back the rest."""
        counts = None if result is None else result.cost
        if counts is None:
            counts = 0 if self.kind in ("blind-cut", "late") else worst
        if self.kind == "blind-retry" and not (result is not None and result.answered):
            counts = 0
        if self.kind == "twice":
            counts *= 2
        if self.kind != "stingy":
            self.book.add(accounts, counts - held)

    async def _forward(
        self, request: Request, writer: asyncio.StreamWriter, *, last: bool
    ) -> Result:
        """Send it to the upstream; an error is passed on if it is the last try."""
        reader, up = await asyncio.open_connection("127.0.0.1", self.upstream)
        try:
            up.write(request.head + b"\r\n\r\n" + request.body)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            if length is None:
                return await self._relay(request, head, reader, writer)
            body = await reader.readexactly(int(length[1]))
            if int(head[9:12]) < 400:
                return Result(True, request.cost(body), head + body)
            return Result(last, 0, head + body)
        except asyncio.IncompleteReadError:
            return Result(last, None, _plain(502, b'{"error":{"message":"no answer"}}'))
        finally:
            up.transport.abort()

    async def _relay(
        self,
        request: Request,
        head: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> Result:
        """Pass a stream on, all but its end."""
        writer.write(head)
        seen, data = bytearray(), b""
        while not seen.endswith(b"\r\n0\r\n\r\n"):
            writer.write(data)
            await writer.drain()
            data = await reader.read(65536)
            if not data:
                # Nothing can be said any more to a client that has had a part.
                writer.close()
                return Result(True, None, b"")
            seen += data
        return Result(True, request.cost(bytes(seen)), data)


def _plain(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        status,
        len(body),
        body,
    )


async def _read(reader: asyncio.StreamReader) -> Request | None:
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    method, path, _ = lines[0].split(" ")
    fields = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
    body = await reader.readexactly(int(fields.get("content-length", 0)))
    accounts = {}
    for part in filter(None, fields.get("x-accounts", "").split(",")):
        name, _, limit = part.partition("=")
        accounts[name] = int(limit)
    onward = f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
    onward += f"content-length: {len(body)}"
    return Request(head=onward.encode(), path=path, body=body, accounts=accounts)


async def serve(port: int, toy: Toy) -> None:
    """Listen until the process is ended."""
    server = await asyncio.start_server(toy.connected, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", type=int, required=True)
    parser.add_argument("--book", type=Path, required=True)
    parser.add_argument("--kind", choices=KINDS, required=True)
    given = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(given.port, Toy(given.kind, given.upstream, given.book)))


if __name__ == "__main__":
    main()
