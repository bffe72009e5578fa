"""A real webhook receiver on loopback that does what a test says, and remembers what came."""

import asyncio
from typing import NamedTuple


class Came(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    """``status`` is what it answers; ``extra`` are header lines; ``down()`` closes its port."""

    def __init__(self) -> None:
        self.status = 204
        self.extra = ""
        self.came: list[Came] = []
        self.port = 0
        self.hang = False
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Receiver":
        await self.up()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.down()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks?to=me"

    @property
    def ids(self) -> list[str]:
        """The ``webhook-id`` of everything that came."""
        return [came.headers["webhook-id"] for came in self.came]

    async def up(self) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Refuse connections."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.split("\r\n")
                headers = {
                    name.lower(): value.strip()
                    for name, _, value in (line.partition(":") for line in lines if line)
                }
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.came.append(Came(first.split()[1], headers, body))
                if self.hang:
                    await asyncio.sleep(3600)
                writer.write(
                    f"HTTP/1.1 {self.status} X\r\n{self.extra}content-length: 0\r\n\r\n".encode()
                    if self.status != 204
                    else b"HTTP/1.1 204 X\r\n\r\n"
                )
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
