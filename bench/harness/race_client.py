"""A client of a race: makes planned calls over plain sockets, leaves when the plan says so."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from dataclasses import dataclass
from typing import Literal

from harness.race_plan import Planned

PATIENCE_S = 60.0
Ended = Literal["answered", "denied", "failed", "left", "lost", "unsent"]
"""``answered``: a whole answer below status 400. ``denied``: refused because of a budget.
``failed``: any other whole answer. ``left``: the client went. ``lost``: the connection broke
before the answer's end. ``unsent``: nobody listened."""
BUDGET = re.compile(rb"budget", re.IGNORECASE)
"""What the refusal of any gateway says, and no answer or error of the upstream."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """One call that was made. Times are seconds of the machine's monotonic clock."""

    id: str
    accounts: tuple[str, ...]
    route: str
    stream: bool
    worst: int
    began: float
    ended: float
    how: Ended
    status: int = 0
    said: str = ""

    @property
    def regular(self) -> bool:
        """Whether the client had the whole answer, so that the gateway had it too."""
        return self.how in ("answered", "denied", "failed")


class _Gone(Exception):
    """The plan says that the client leaves now."""


class _Broken(Exception):
    """The connection ended before the answer did."""


async def make(
    plan: Planned, port: int, headers: dict[str, str], accounts: tuple[str, ...]
) -> Made:
    """Make one call and say how it ended; nothing is raised for what a gateway may do."""
    began = time.monotonic()
    how: Ended = "lost"
    status, body = 0, b""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            began = time.monotonic()
            writer.write(_request(plan, port, headers))
            status, body = await _answer(plan, reader, writer)
        refused = 400 <= status < 500 and BUDGET.search(body) is not None
        how = "denied" if refused else "failed" if status >= 400 else "answered"
    except _Gone:
        how = "left"
    except (OSError, _Broken, asyncio.IncompleteReadError, TimeoutError, ValueError):
        how = "unsent" if writer is None else "lost"
    finally:
        if writer is not None:
            writer.transport.abort()
    return Made(
        id=plan.id,
        accounts=accounts,
        route=plan.route,
        stream=plan.stream,
        worst=plan.worst,
        began=began,
        ended=time.monotonic(),
        how=how,
        status=status,
        said=body[:600].decode(errors="replace") if status >= 400 else "",
    )


def _request(plan: Planned, port: int, headers: dict[str, str]) -> bytes:
    lines = [
        f"POST {plan.path} HTTP/1.1",
        f"host: 127.0.0.1:{port}",
        "content-type: application/json",
        "connection: close",
        f"content-length: {len(plan.body)}",
    ]
    if plan.route == "messages":
        lines.append("anthropic-version: 2023-06-01")
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + plan.body


async def _answer(
    plan: Planned, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> tuple[int, bytes]:
    """Status and body of the whole answer. Raises ``_Gone`` where the plan says to leave."""
    await writer.drain()
    if plan.leave == "sent":
        raise _Gone
    if plan.leave == "head":
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(plan.leave_after):
                return await _whole(plan, reader)
        raise _Gone
    return await _whole(plan, reader)


async def _whole(plan: Planned, reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    status = int(first.split(" ")[1])
    fields = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    if "chunked" in fields.get("transfer-encoding", ""):
        return status, await _chunks(plan, reader, leaves=status < 400)
    if "content-length" in fields:
        return status, await reader.readexactly(int(fields["content-length"]))
    return status, await reader.read()


async def _chunks(plan: Planned, reader: asyncio.StreamReader, *, leaves: bool) -> bytes:
    """A chunked body. A 200 whose stream has no end of its own is one that broke off."""
    pieces: list[bytes] = []
    while True:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        data = await reader.readexactly(size + 2)
        if size == 0:
            break
        pieces.append(data[:-2])
        if leaves and plan.leave == "stream" and len(pieces) >= plan.leave_after:
            raise _Gone
    return b"".join(pieces)
