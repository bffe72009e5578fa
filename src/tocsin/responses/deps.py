"""What the managed routes work with, and the shape of their requests and answers."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, ParamSpec, Protocol, TypeVar
from urllib.parse import parse_qsl

import msgspec

from tocsin.config.model import Config
from tocsin.core.call import Headers, Principal
from tocsin.core.clock import Clock
from tocsin.core.errors import BadRequest, CallError
from tocsin.core.interaction import Dialect, Entry, Interaction
from tocsin.operations.engine import Operations
from tocsin.runtime.runtime import Runtime
from tocsin.store import Store

P = ParamSpec("P")
T = TypeVar("T")
Pairs = Sequence[tuple[bytes, bytes]]
"""Headers."""

Api = Literal["chat", "messages", "responses"]
"""What an upstream is spoken to."""

MOST = 100
"""Most items in one page of a list."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where the calls of a feature for a model go."""

    api: Api
    upstream: str = ""
    """Name of the first choice."""
    model: str = ""
    """The model that it is asked for in place of the caller's; empty: the caller's."""
    background: bool = False
    """Whether every choice keeps background responses itself, so that it can be asked for them."""
    own_credential: bool = False
    """Whether every choice has a key of its own, so that no caller's is needed."""


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a running Tocsin that the work of operations uses."""

    store: Store
    runtime: Callable[[], Runtime]
    clock: Clock
    config: Callable[[], Config]
    """As it is now: a reload changes it."""
    place_of: Callable[[str, str], Place]
    """(feature, model) → where such a call goes. Raises ``BadRequest`` or ``Unavailable``."""
    price: Callable[[Interaction], int | None]
    """What a call cost, nano US dollars, where that is known at once."""
    enrich: Callable[[Entry], Entry]
    """Fills in usage and cost as records have them. It may take a while: beside the loop."""


class Deps(Tools, frozen=True, kw_only=True):
    """The parts of a running Tocsin that the routes use."""

    operations: Operations


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request on a managed route."""

    method: str
    path: str
    parts: tuple[str, ...]
    """The path's segments after ``/v1/``, decoded: ``("responses", "resp_1", "cancel")``."""
    query: Mapping[str, str] = {}
    """The last value of each name."""
    headers: Headers = ()
    principal: Principal
    body: bytes = b""
    feature: str = "default"
    now: int
    """Microseconds since the epoch."""

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, ``name`` in lower case."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; no body is an empty one. Raises ``BadRequest``."""
        if not self.body.strip():
            return {}
        try:
            value = msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(
                f"The request body is not valid JSON: {error}.", code="invalid_json"
            ) from None
        if not isinstance(value, dict):
            raise BadRequest("The request body must be a JSON object.", code="invalid_json")
        return value


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer. A body that is no bytes is sent as JSON."""

    status: int = 200
    body: Any = b""
    headers: Headers = ()

    def data(self) -> bytes:
        """The body as it is sent."""
        return self.body if isinstance(self.body, bytes) else msgspec.json.encode(self.body)


class Wire(Protocol):
    """Where an answer goes (``gateway.wire``)."""

    async def whole(self, status: int, headers: Pairs, body: bytes) -> None: ...
    async def start(self, status: int, headers: Pairs) -> None: ...
    async def piece(self, data: bytes) -> None: ...
    async def end(self) -> None: ...
    async def cut(self) -> None: ...
    async def error(self, dialect: Dialect, error: CallError, more: Pairs = ()) -> None: ...


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of a list is asked for."""

    after: str | None = None
    descending: bool = True
    limit: int = 20


def query_of(query: bytes) -> dict[str, str]:
    """The last value of each name in a query string."""
    return dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=100))


def window_of(request: Request) -> Window:
    """``after``, ``order`` and ``limit`` of a list request. Raises ``BadRequest``."""
    order = request.query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise BadRequest("order: must be asc or desc.", param="order")
    text = request.query.get("limit", "20")
    if not text.isdigit() or len(text) > 9 or not 1 <= int(text) <= MOST:
        raise BadRequest(f"limit: must be a whole number from 1 to {MOST}.", param="limit")
    return Window(
        after=request.query.get("after") or None,
        descending=order == "desc",
        limit=int(text),
    )


def missing(what: str, name: str, *, param: str | None = None) -> CallError:
    """The 404 for something that is not there, or not the caller's."""
    return BadRequest(
        f"{what} with id '{name}' not found.", status=404, code="not_found", param=param
    )


def is_own(key_id: str | None, principal: Principal) -> bool:
    """Whether something that ``key_id`` made is the caller's."""
    return key_id == principal.key_id


async def off(act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do something that blocks (the store) beside the event loop."""
    return await asyncio.to_thread(act, *args, **kwargs)
