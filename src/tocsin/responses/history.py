"""What a response goes on from: the responses before it, or its conversation, as items."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from tocsin.core.call import Principal
from tocsin.core.errors import BadRequest, CallError
from tocsin.core.ids import Prefix
from tocsin.core.operations import Operation
from tocsin.core.wire.responses import (
    ResponseRequest,
    parse_response,
    unfolded,
    upstream_request,
)
from tocsin.providers.ceilings import ceiling_of
from tocsin.providers.tokens import TokenCounter
from tocsin.responses.deps import Tools, is_own, missing, off
from tocsin.store.operations_api import ConversationRow, OperationsBook

Item = dict[str, Any]

RESPONSE = "response"
"""The kind of operation that a response is."""

_PAGE = 1000
_MOST_RESPONSES = 10_000
"""Responses in one chain."""
_MOST_ITEMS = 100_000
_OUTPUTS = {
    "function_call_output": "function_call",
    "custom_tool_call_output": "custom_tool_call",
    "local_shell_call_output": "local_shell_call",
    "shell_call_output": "shell_call",
    "apply_patch_call_output": "apply_patch_call",
    "computer_call_output": "computer_call",
}
_SLACK = 1.05
"""An estimate of tokens may be this much too high."""


class Asked(msgspec.Struct, kw_only=True):
    """What a response operation was asked for, as it is stored."""

    request: dict[str, Any]
    """As the caller sent it."""
    items: list[Item]
    """Its own input, each item with its id; references are resolved."""
    bare: bool = False
    """Whether nothing that its caller sent is needed to ask the upstream again."""


class History(msgspec.Struct, frozen=True, kw_only=True):
    """What came before a request."""

    items: tuple[Item, ...] = ()
    previous: Operation | None = None
    conversation: ConversationRow | None = None

    @property
    def run_id(self) -> str | None:
        """The run that it goes on, where one is known."""
        return None if self.previous is None else self.previous.run_id


_decode = msgspec.json.Decoder(Asked).decode


def asked_of(body: bytes | None, response_id: str) -> Asked:
    """The stored body of a response operation.

    One that other work has started, as its child, was given a plain request.
    """
    try:
        return _decode(body or b"")
    except msgspec.ValidationError:
        request = parse_response(body or b"", ItemIds(response_id))
        return Asked(request=request.raw, items=list(request.items))


class ItemIds:
    """Names the items of one response: an item's id tells which response has it.

    ``restarts``: of work that is begun again; its items get other names.
    """

    def __init__(self, response_id: str, *, restarts: int | None = None) -> None:
        self._stem = response_id.removeprefix("resp_")
        self._round = 0 if restarts is None else restarts + 1
        self._next = 0

    def __call__(self, prefix: Prefix) -> str:
        number = self._next
        self._next += 1
        return f"{prefix}_{self._stem}{self._round & 0xFF:02x}{number:05x}"


def response_of(item_id: str) -> str | None:
    """The response that has an item of this name, if ``ItemIds`` gave it."""
    stem = item_id.partition("_")[2]
    return f"resp_{stem[:-7]}" if len(stem) > 7 else None


async def history_of(
    deps: Tools, principal: Principal, request: ResponseRequest, *, before: str | None = None
) -> History:
    """What ``request`` goes on from. Raises ``BadRequest`` (404) for what is not the caller's.

    ``before``: an operation whose own items in the conversation are left out.
    """
    book = deps.store.operations
    if request.previous_response_id:
        name = request.previous_response_id
        return await off(_chain, book, principal, name, deps.clock.now_us())
    if request.conversation_id:
        row, items = await off(_conversation, book, principal, request.conversation_id, before)
        return History(items=items, conversation=row)
    return History()


def _chain(book: OperationsBook, principal: Principal, name: str, now: int) -> History:
    """The items of a response and of all before it, oldest first."""
    turns: list[list[Item]] = []
    last: Operation | None = None
    at: str | None = name
    while at is not None and len(turns) < _MOST_RESPONSES:
        found = own_response(book, principal, at, now)
        if found is None:
            raise missing("Previous response", at, param="previous_response_id")
        if last is None:
            last = found
            _check_ended(found)
        turns.append([*asked_of(book.body(at), at).items, *output_of(book.result(at))])
        if found.previous_id is None and found.conversation_id is not None:
            turns.append(items_of(book, found.conversation_id, found.id))
        at = found.previous_id
    items = [item for turn in reversed(turns) for item in turn]
    return History(items=tuple(items), previous=last)


def own_response(
    book: OperationsBook, principal: Principal, name: str, now: int
) -> Operation | None:
    """The caller's response of that id, unless its time is over."""
    found = book.operation(name)
    if found is None or found.kind != RESPONSE or not is_own(found.key_id, principal):
        return None
    over = found.status == "ended" and found.expires_at is not None and found.expires_at <= now
    return None if over else found


def _check_ended(previous: Operation) -> None:
    if previous.status != "ended":
        raise BadRequest(
            f"The response '{previous.id}' has not ended yet; wait for its end to continue it.",
            status=409,
            code="previous_response_in_progress",
            param="previous_response_id",
            retryable=True,
        )


def output_of(result: bytes | None) -> list[Item]:
    """The output items of a stored response that a model can be shown again."""
    value = msgspec.json.decode(result) if result else None
    output = value.get("output") if isinstance(value, dict) else None
    if not isinstance(output, list):
        return []
    # What was cut in the middle is no call that can be answered, and no whole thought.
    return [
        item
        for item in output
        if isinstance(item, dict)
        and (item.get("status") in (None, "completed") or item.get("type") == "message")
    ]


def _conversation(
    book: OperationsBook, principal: Principal, name: str, before: str | None
) -> tuple[ConversationRow, tuple[Item, ...]]:
    row = book.conversation(name)
    if row is None or not is_own(row.key_id, principal):
        raise missing("Conversation", name, param="conversation")
    return row, tuple(items_of(book, name, before))


def items_of(book: OperationsBook, name: str, before: str | None = None) -> list[Item]:
    """A conversation's items in order, up to those of the operation ``before``."""
    found: list[Item] = []
    after: str | None = None
    while len(found) < _MOST_ITEMS:
        rows = book.items(name, after=after, descending=False, limit=_PAGE)
        for row in rows:
            if before is not None and row.operation_id == before:
                return found
            found.append(msgspec.json.decode(row.data))
        if len(rows) < _PAGE:
            break
        after = rows[-1].id
    return found


# -- references --


async def resolved(
    deps: Tools, principal: Principal, items: Sequence[Item], history: Sequence[Item]
) -> list[Item]:
    """Items with what they refer to in place of references. Raises ``BadRequest`` (404)."""
    if not any(item.get("type") == "item_reference" for item in items):
        return list(items)
    known = {str(item.get("id")): item for item in (*history, *items) if item.get("id")}
    found = []
    for item in items:
        if item.get("type") == "item_reference":
            name = str(item.get("id") or "")
            target = known.get(name)
            if target is None or target.get("type") == "item_reference":
                book, now = deps.store.operations, deps.clock.now_us()
                target = await off(_item_of, book, principal, name, now)
            if target is None:
                raise missing("Item", name, param="input")
            item = target
        found.append(item)
    return found


def _item_of(book: OperationsBook, principal: Principal, name: str, now: int) -> Item | None:
    """An item of any response of the caller's."""
    response = response_of(name)
    if response is None or own_response(book, principal, response, now) is None:
        return None
    items = (*asked_of(book.body(response), response).items, *output_of(book.result(response)))
    return next((item for item in items if item.get("id") == name), None)


# -- what fits --


def fitted(
    request: ResponseRequest, history: Sequence[Item], model: str, build: Callable[..., bytes]
) -> tuple[ResponseRequest, Sequence[Item]]:
    """The request and its history as far as they fit the model's context.

    Raises ``BadRequest`` where they do not and may not be truncated. A model whose context is not
    known takes everything.
    """
    ceiling = ceiling_of(model)
    if ceiling is None or len(build(request, history)) <= ceiling.context:
        return request, history  # no text has more tokens than bytes
    count = TokenCounter()
    size = count(build(request, history).decode("utf-8", "replace"))
    if request.truncation != "auto":
        if size > ceiling.context * _SLACK:
            raise _too_long(size, ceiling.context)
        return request, history
    room = ceiling.context - min(request.max_output_tokens or ceiling.output, ceiling.context // 2)
    items = unfolded([*history, *request.items])
    sizes = [count(msgspec.json.encode(item).decode("utf-8", "replace")) for item in items]
    kept = _kept(items, sizes, size - room)
    if not kept:
        raise _too_long(size, ceiling.context)
    return msgspec.structs.replace(request, items=()), [items[index] for index in kept]


def _kept(items: Sequence[Item], sizes: Sequence[int], excess: int) -> list[int]:
    """Which items stay when the oldest go until ``excess`` tokens are gone.

    Instructions stay, and the newest item; results of calls that go, go with them.
    """
    gone: set[int] = set()
    for index in range(len(items) - 1):
        if excess <= 0:
            break
        if items[index].get("role") in ("system", "developer"):
            continue
        gone.add(index)
        excess -= sizes[index]
    calls = {
        (item.get("type"), item.get("call_id"))
        for index, item in enumerate(items)
        if index not in gone
    }
    kept = []
    for index, item in enumerate(items):
        made_by = _OUTPUTS.get(str(item.get("type")))
        orphan = made_by is not None and (made_by, item.get("call_id")) not in calls
        if index not in gone and not (gone and orphan):
            kept.append(index)
    return kept if excess <= 0 else []


def _too_long(size: int, context: int) -> CallError:
    return BadRequest(
        f"Your input exceeds the context window of this model: about {size} tokens, and it takes "
        f"{context}. Shorten it, compact it (`/v1/responses/compact`), or send "
        '`"truncation": "auto"`.',
        code="context_length_exceeded",
        param="input",
    )


def body_for(api: str, *, stream: bool) -> Callable[..., bytes]:
    """Makes the body that an upstream is sent, of a request and its history."""

    def build(request: ResponseRequest, history: Sequence[Mapping[str, Any]]) -> bytes:
        return upstream_request(request, history, api, stream=stream)[1]  # type: ignore[arg-type]

    return build


__all__ = [
    "RESPONSE",
    "Asked",
    "History",
    "Item",
    "ItemIds",
    "asked_of",
    "body_for",
    "fitted",
    "history_of",
    "items_of",
    "output_of",
    "own_response",
    "resolved",
    "response_of",
]
