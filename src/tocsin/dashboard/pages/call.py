"""One call: what was asked and answered, what was tried, decided, used and paid."""

from typing import Any

import msgspec
from starlette.responses import Response

from tocsin.core.errors import NotFound
from tocsin.core.interaction import Interaction
from tocsin.core.messages import Message
from tocsin.dashboard import conversation, exports, fmt, render, story
from tocsin.dashboard.pages.feedback import said_of
from tocsin.dashboard.view import View, key_names
from tocsin.store.api import Store

_LAST = 12
"""Messages of the request that are shown at first."""
_MOST = 2_000
"""Messages that one page carries at most."""
_PARAMS_SHOWN = 60_000


async def call(view: View) -> Response:
    """A call's page; ``?messages=all`` shows the whole request."""
    context = await view.read(_context, view)
    return await view.page("call.html", section="runs", **context)


def _interaction(store: Store, call_id: str) -> Interaction:
    found = store.interaction(call_id)
    if found is None:
        raise NotFound(
            f"There is no call {fmt.one_line(call_id, 80)}. It may have been deleted by age or "
            "size, or not be written yet."
        )
    return found


def _context(view: View) -> dict[str, Any]:
    store = view.deps.store
    step = _interaction(store, view.request.path_params["call_id"])
    everything = view.request.query_params.get("messages") == "all"
    wanted = _MOST if everything else max(_LAST, min(step.new_messages, 4 * _LAST))
    request, answer = _messages(store, step, wanted)
    hashes = [h for h in (step.params, step.request_body, step.response_body) if h is not None]
    blobs = store.content(hashes)
    run = store.run(step.run_id)
    keys = key_names(store) if step.key_id else {}
    whole = conversation.SHOWN_WHOLE if not everything else conversation.SHOWN
    return {
        "step": step,
        "run": run,
        "label": story.step_label(step),
        "key_name": keys.get(step.key_id or ""),
        "turns": [conversation.read(m, shown=whole) for m in request],
        "answer": conversation.read(answer, shown=whole) if answer is not None else None,
        "earlier": max(0, step.input_messages - len(request)),
        "everything": everything,
        "most": _MOST,
        "params": _pretty(blobs.get(step.params or b"")),
        "request_body": _pretty(blobs.get(step.request_body or b"")),
        "response_body": _pretty(blobs.get(step.response_body or b"")),
        **said_of(store, view.deps.catalogue(), step.id, step.feature),
        "lost": step.input_node is not None and step.input_messages > 0 and not request,
    }


def _messages(store: Store, step: Interaction, wanted: int) -> tuple[list[Message], Message | None]:
    """The last ``wanted`` messages of the request, and the answer."""
    request: list[Message] = []
    if step.input_node is not None:
        request = store.history(step.input_node, last=wanted)
    answer = None
    if step.output_node is not None:
        last = store.history(step.output_node, last=1)
        answer = last[0] if last else None
    return request, answer


def _pretty(data: bytes | None) -> conversation.Part | None:
    """A stored body for reading."""
    if not data:
        return None
    try:
        text = msgspec.json.format(data, indent=2).decode("utf-8", "replace")
    except (msgspec.DecodeError, RecursionError):
        text = data[:_PARAMS_SHOWN].decode("utf-8", "replace")
    head, rest = conversation.fold(fmt.visible(text[:_PARAMS_SHOWN]))
    return conversation.Part(
        kind="other",
        head=head,
        rest=rest,
        omitted=max(0, len(text) - _PARAMS_SHOWN),
        code=True,
    )


# -- copies --


async def call_json(view: View) -> Response:
    """Everything stored of the call, as JSON."""
    entry = await view.read(_entry, view)
    return render.respond(await view.read(exports.call_json, entry), "application/json")


async def call_curl(view: View) -> Response:
    """A command that makes the call again."""
    entry = await view.read(_entry, view)
    base_url = view.deps.settings().base_url
    text = await view.read(exports.curl, entry, base_url)
    return render.respond(text, "text/plain; charset=utf-8")


async def call_markdown(view: View) -> Response:
    """The call as Markdown."""
    return render.respond(await view.read(_markdown, view), "text/plain; charset=utf-8")


def _entry(view: View) -> Any:
    call_id = view.request.path_params["call_id"]
    entry = view.deps.store.entry(call_id)
    if entry is None:
        _interaction(view.deps.store, call_id)
        raise NotFound(f"The content of call {fmt.one_line(call_id, 80)} is no longer stored.")
    return entry


def _markdown(view: View) -> str:
    store = view.deps.store
    step = _interaction(store, view.request.path_params["call_id"])
    request, answer = _messages(store, step, _MOST)
    said = story.StepMessages(new=tuple(request), output=answer)
    return exports.call_markdown(step, said)
