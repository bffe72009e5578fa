"""``/healthz``: the process runs. ``/readyz``: it can take calls and record them."""

from collections.abc import Callable

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

Trouble = Callable[[], str | None]
"""What is wrong just now, in words without secrets; ``None`` when all is well. May block."""


def routes(trouble: Trouble) -> list[BaseRoute]:
    """Both routes, to be put behind ``Access.guard``."""

    async def healthz(_request: Request) -> Response:
        return _answer(200, {"status": "ok"})

    async def readyz(_request: Request) -> Response:
        wrong = await run_in_threadpool(trouble)
        if wrong is None:
            return _answer(200, {"status": "ok"})
        return _answer(503, {"status": "unavailable", "detail": wrong})

    return [
        Route("/healthz", healthz, methods=["GET"]),
        Route("/readyz", readyz, methods=["GET"]),
    ]


def _answer(status: int, body: dict[str, str]) -> Response:
    return Response(
        msgspec.json.encode(body),
        status,
        headers={"cache-control": "no-store"},
        media_type="application/json",
    )
