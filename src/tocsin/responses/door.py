"""``Door``: the managed paths under ``/v1/``, by method and path."""

from collections.abc import Awaitable, Callable
from urllib.parse import unquote

import msgspec

from tocsin.core.call import Headers, Principal
from tocsin.core.errors import BadRequest, CallError, InputError, NotFound, TocsinError
from tocsin.core.operations import Operation
from tocsin.core.wire.responses import deleted, item_list
from tocsin.responses import conversations, items
from tocsin.responses.compact import compact
from tocsin.responses.create import answer, create, follow
from tocsin.responses.deps import Answer, Deps, Request, Wire, missing, off, query_of, window_of
from tocsin.responses.history import asked_of, own_response
from tocsin.responses.kind import Responses
from tocsin.responses.tokens import input_tokens
from tocsin.runtime.intake import ERROR_HEADER, feature_of

Serves = Callable[[Deps, Request], Awaitable[Answer]]

_PREFIXES = ("/v1/responses/", "/v1/conversations/")
_PATHS = frozenset({"/v1/responses", "/v1/conversations"})

_ROUTES: dict[tuple[str, tuple[str, ...]], Serves] = {
    ("POST", ("responses", "compact")): compact,
    ("POST", ("responses", "input_tokens")): input_tokens,
    ("POST", ("conversations",)): conversations.create,
    ("GET", ("conversations", "*")): conversations.retrieve,
    ("POST", ("conversations", "*")): conversations.update,
    ("DELETE", ("conversations", "*")): conversations.delete,
    ("POST", ("conversations", "*", "items")): items.add,
    ("GET", ("conversations", "*", "items")): items.listed,
    ("GET", ("conversations", "*", "items", "*")): items.retrieve,
    ("DELETE", ("conversations", "*", "items", "*")): items.delete,
}
"""Routes that give whole answers; ``*`` stands for an id."""


class Door:
    """The front door of responses and conversations (``gateway.server.Managed``)."""

    def __init__(self, deps: Deps, responses: Responses) -> None:
        self._deps = deps
        self._responses = responses
        self._routes: dict[tuple[str, tuple[str, ...]], Serves] = {
            **_ROUTES,
            ("DELETE", ("responses", "*")): self._delete,
            ("POST", ("responses", "*", "cancel")): self._cancel,
            ("GET", ("responses", "*", "input_items")): self._input_items,
        }

    def takes(self, path: str) -> bool:
        """Whether a path is answered here, as it is set now."""
        if path not in _PATHS and not path.startswith(_PREFIXES):
            return False
        return self._deps.config().operations.responses == "managed"

    async def serve(
        self,
        method: str,
        path: str,
        query: bytes,
        headers: Headers,
        principal: Principal,
        body: bytes,
        wire: Wire,
    ) -> None:
        """Answer one request, errors included."""
        try:
            request = Request(
                method=method,
                path=path,
                parts=tuple(unquote(part) for part in path.split("/")[2:]),
                query=query_of(query),
                headers=headers,
                principal=principal,
                body=body,
                feature=feature_of(headers, query, principal),
                now=self._deps.clock.now_us(),
            )
            await self._serve(request, wire)
        except TocsinError as error:
            said = _as_call_error(error)
            await wire.error("openai", said, [(ERROR_HEADER, said.code.encode("latin-1"))])

    async def _serve(self, request: Request, wire: Wire) -> None:
        method, parts = request.method, request.parts
        if method == "POST" and parts == ("responses",):
            await create(self._deps, self._responses, request, wire)
        elif method == "GET" and len(parts) == 2 and parts[0] == "responses":
            await self._retrieve(request, wire)
        else:
            await answer(wire, await self._route(request)(self._deps, request))

    def _route(self, request: Request) -> Serves:
        parts = request.parts
        exact = self._routes.get((request.method, parts))
        if exact is not None:
            return exact
        shape = tuple("*" if at % 2 else part for at, part in enumerate(parts))
        found = self._routes.get((request.method, shape)) if all(parts) else None
        if found is None and len(parts) == 3:
            found = self._routes.get((request.method, (parts[0], "*", parts[2])))
        if found is not None:
            return found
        raise BadRequest(
            f"Invalid URL ({request.method} {request.path}).", status=404, code="unknown_url"
        )

    # -- responses --

    async def _own(self, request: Request) -> Operation:
        name = request.parts[1]
        book = self._deps.store.operations
        found = await off(own_response, book, request.principal, name, request.now)
        if found is None:
            raise missing("Response", name)
        return found

    async def _retrieve(self, request: Request, wire: Wire) -> None:
        """A response as it stands, or its events."""
        operation = await self._own(request)
        after = _after(request)
        headers = ((b"tocsin-operation-id", operation.id.encode()),)
        if after is None:
            body = await self._responses.standing(operation)
            await answer(wire, Answer(body=body, headers=headers))
            return
        with self._deps.operations.attending(operation.id):
            await follow(self._deps, operation.id, wire, after=after, headers=headers)

    async def _delete(self, deps: Deps, request: Request) -> Answer:
        operation = await self._own(request)
        await deps.operations.delete(operation.id)
        return Answer(body=deleted(operation.id, "response"))

    async def _cancel(self, deps: Deps, request: Request) -> Answer:
        operation = await self._own(request)
        if operation.status != "ended":
            operation = await deps.operations.cancel(operation.id, request.principal.name)
        return Answer(body=await self._responses.standing(operation))

    async def _input_items(self, deps: Deps, request: Request) -> Answer:
        operation = await self._own(request)
        window = window_of(request)
        body = await off(deps.store.operations.body, operation.id)
        found = list(asked_of(body, operation.id).items)
        if window.descending:
            found.reverse()
        if window.after is not None:
            names = [item.get("id") for item in found]
            if window.after not in names:
                raise missing("Item", window.after, param="after")
            found = found[names.index(window.after) + 1 :]
        page = found[: window.limit]
        return Answer(body=item_list(page, has_more=len(found) > len(page)))


def _after(request: Request) -> int | None:
    """The number of the last event that the client has; ``None``: it wants no events."""
    said = request.query.get("starting_after")
    header = request.header(b"last-event-id")
    if request.query.get("stream") != "true" and header is None:
        # With stream=false it means nothing; without a word about the stream it was forgotten.
        if said is not None and "stream" not in request.query:
            raise BadRequest("starting_after: needs stream=true.", param="starting_after")
        return None
    if said is None:
        said = header.decode("latin-1") if header is not None else "-1"
    digits = said.removeprefix("-")
    if not digits.isdigit() or len(digits) > 12:
        raise BadRequest(
            "starting_after: must be the sequence number of an event.", param="starting_after"
        )
    return int(said)


def _as_call_error(error: TocsinError) -> CallError:
    if isinstance(error, CallError):
        return error
    if isinstance(error, NotFound):
        return BadRequest(str(error), status=404, code="not_found")
    if isinstance(error, InputError | msgspec.ValidationError):
        return BadRequest(str(error))
    return CallError(str(error), status=503, code="store_unavailable", retryable=True)


__all__ = ["Door"]
