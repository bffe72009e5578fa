"""Reading the arguments of an admin request; what is wrong is named by its parameter."""

from typing import Any, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import Request

from tocsin.gateway.problems import Fault

MAX_FIELDS = 100
HEADERS = {"last_event_id": "Last-Event-ID"}
"""Arguments that come in a header of the request: the argument's name to the header's."""

A = TypeVar("A", bound=BaseModel)


class BadArguments(Exception):
    """A request that does not fit its route; ``status`` is 400, 413, 415 or 422."""

    def __init__(
        self, status: int, code: str, detail: str, faults: list[Fault] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.faults = faults or []


async def read_args(model: type[A], request: Request, max_body: int) -> A:
    """The arguments of a request, checked; ``max_body`` in bytes. Raises ``BadArguments``."""
    given: dict[str, Any] = _query(request)
    in_path = request.path_params
    twice = given.keys() & (in_path.keys() | HEADERS.keys() | {"body"})
    if twice:
        raise _bad([Fault(where="query", name=sorted(twice)[0], message="is no query parameter")])
    given.update(in_path)
    for name in HEADERS.keys() & model.model_fields.keys():
        said = request.headers.get(HEADERS[name])
        if said is not None:
            given[name] = said
    if "body" in model.model_fields:
        given["body"] = await _body(request, max_body)
    try:
        return model.model_validate(given)
    except ValidationError as error:
        kind = _kind_field(model)
        raise _bad(
            [_fault(e["loc"], e["msg"], e["type"], in_path, kind) for e in error.errors()]
        ) from None


def _kind_field(model: type[BaseModel]) -> str | None:
    """The field that tells which of several shapes a body has, where there are several."""
    body = model.model_fields.get("body")
    found = body.discriminator if body is not None else None
    return found if isinstance(found, str) else None


def _query(request: Request) -> dict[str, Any]:
    raw = request.scope.get("query_string", b"").decode("latin-1")
    try:
        pairs = parse_qsl(raw, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise BadArguments(400, "invalid_query", f"more than {MAX_FIELDS} parameters") from None
    given: dict[str, Any] = {}
    for name, value in pairs:
        if name in given:
            raise _bad([Fault(where="query", name=name[:100], message="is given twice")])
        given[name] = value
    return given


async def _body(request: Request, most: int) -> Any:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise BadArguments(415, "unsupported_media_type", "content-type: application/json")
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise BadArguments(413, "too_large", f"the body is larger than {most} bytes")
        parts.append(part)
    try:
        return from_json(b"".join(parts), allow_inf_nan=False)
    except ValueError as error:
        raise BadArguments(400, "invalid_json", f"the body is no JSON: {error}") from None


def _fault(
    loc: tuple[int | str, ...],
    message: str,
    kind: str,
    in_path: dict[str, Any],
    kind_field: str | None,
) -> Fault:
    first = str(loc[0]) if loc else ""
    if first == "body":
        inside = loc[1:]
        if kind_field is not None:
            # The shape's own word stands first in such a place; no field has that name.
            inside = inside[1:] or ((kind_field,) if kind.startswith("union_tag") else ())
        name = ".".join(str(part) for part in inside) or "body"
        return Fault(where="body", name=name[:100], message=message)
    if kind == "extra_forbidden":
        message = "is no parameter of this route"
    if first in HEADERS:
        return Fault(where="header", name=HEADERS[first], message=message)
    return Fault(where="path" if first in in_path else "query", name=first[:100], message=message)


def _bad(faults: list[Fault]) -> BadArguments:
    detail = "; ".join(f"{fault.name}: {fault.message}" for fault in faults[:5])
    return BadArguments(422, "invalid_parameter", detail, faults)
