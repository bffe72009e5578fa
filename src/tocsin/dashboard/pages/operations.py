"""Operations: what works, what waits for a person, what nobody can tell; and one, live."""

from typing import Any, cast, get_args

from starlette.responses import RedirectResponse, Response

from tocsin.core.errors import InputError, NotFound
from tocsin.core.operations import Operation, Status
from tocsin.core.outcome import OUTCOMES
from tocsin.dashboard import fmt, render, working
from tocsin.dashboard.filters import segment
from tocsin.dashboard.view import View
from tocsin.store.api import Store
from tocsin.store.operations_api import OperationFilter

_PAGE = 50
_WAITING = 20
_EVENTS = 5000
_LIVE_S = 2
_RESULT = 8000


async def operations(view: View) -> Response:
    """The list, and on top what needs somebody."""
    context = await view.read(_list, view)
    return await view.page("operations.html", section="operations", live=_LIVE_S, **context)


def _list(view: View) -> dict[str, Any]:
    book, asked = view.deps.store.operations, view.request.query_params
    status, outcome = asked.get("status", ""), asked.get("outcome", "")
    where = OperationFilter(
        kind=asked.get("kind") or None,
        feature=asked.get("feature") or None,
        run_id=asked.get("run_id") or None,
        parent_id=asked.get("parent_id") or None,
        conversation_id=asked.get("conversation_id") or None,
        status=cast(Status, status) if status in get_args(Status) else None,
        outcome=outcome if outcome in OUTCOMES else None,
    )
    page = book.operations(where, limit=_PAGE, cursor=asked.get("cursor"))
    waiting = book.operations(OperationFilter(status="waiting"), limit=_WAITING).rows
    unknown = book.steps_in("unknown", limit=_WAITING)
    failed = book.deliveries(state="failed", limit=_WAITING)
    kept = {name: value for name, value in asked.items() if name != "cursor" and value}
    return {
        "page": page,
        "rows": [(row, *working.state(row), working.lasted(row, view.now)) for row in page.rows],
        "waiting": waiting,
        "lost": working.steps(unknown),
        "failed": failed,
        "disabled": book.disabled_endpoints(),
        "chosen": [(name, value) for name, value in kept.items() if name != "range"],
        "state": status,
        "statuses": get_args(Status),
        "next_href": _next(kept, page.next),
        "answer": _answer(len(waiting), len(unknown), len(failed)),
        "never": not page.rows and not kept,
    }


def _next(kept: dict[str, str], cursor: str | None) -> str | None:
    if cursor is None:
        return None
    pairs = [*kept.items(), ("cursor", cursor)]
    return "/operations?" + "&".join(f"{segment(n)}={segment(v)}" for n, v in pairs)


def _answer(waiting: int, unknown: int, failed: int) -> str:
    said = [
        f"{fmt.plural(waiting, 'operation')} {'waits' if waiting == 1 else 'wait'} for a person"
        if waiting
        else "",
        f"the fate of {fmt.plural(unknown, 'side effect')} is unknown" if unknown else "",
        f"{fmt.plural(failed, 'message')} reached no webhook" if failed else "",
    ]
    found = "; ".join(text for text in said if text)
    return f"{found[0].upper()}{found[1:]}." if found else "Nothing waits for anybody."


async def operation(view: View) -> Response:
    """One operation, its log live while it lasts."""
    context = await view.read(_one, view)
    return await view.page("operation.html", section="operations", live=_LIVE_S, **context)


def _one(view: View) -> dict[str, Any]:
    store = view.deps.store
    row = _known(store, view.request.path_params["operation_id"])
    book = store.operations
    events = book.events(row.id, limit=_EVENTS)
    found = book.steps(row.id)
    result = book.result(row.id)
    word, tone = working.state(row)
    return {
        "row": row,
        "word": word,
        "tone": tone,
        "lasted": working.lasted(row, view.now),
        "lines": working.lines(events),
        "omitted": row.events - len(events),
        "steps": working.steps(found),
        "question": working.question(book.step(row.waiting_for) if row.waiting_for else None),
        "deliveries": book.deliveries(operation_id=row.id, limit=20),
        "result": fmt.visible(working.answer_text(result))[:_RESULT] if result else "",
        "has_result": result is not None,
        "resume": _resume(row, events[-1].number if events else -1),
        "known_run": row.run_id is not None and store.run(row.run_id) is not None,
    }


def _resume(row: Operation, last: int) -> list[str]:
    """Commands that go on reading behind the last event shown."""
    made = [f"tocsin follow {row.id} --after {last}"]
    if row.kind == "response":
        where = f"$OPENAI_BASE_URL/responses/{row.id}?stream=true\\&starting_after={last}"
        made.append(f'curl -N {where} -H "authorization: Bearer $OPENAI_API_KEY"')
    return made


def _known(store: Store, operation_id: str) -> Operation:
    row = store.operations.operation(operation_id)
    if row is None:
        raise NotFound(
            f"There is no operation {fmt.one_line(operation_id, 80)}. It may be older than "
            "operations.keep_days."
        )
    return row


async def operation_json(view: View) -> Response:
    """Its result as JSON, for programs and for copying."""

    def load() -> bytes:
        row = _known(view.deps.store, view.request.path_params["operation_id"])
        return view.deps.store.operations.result(row.id) or b"null"

    return render.respond(await view.read(load), "application/json")


async def cancel(view: View) -> Response:
    """End it."""
    await view.form()
    operation_id = view.request.path_params["operation_id"]
    await view.deps.cancel_operation(operation_id, _actor(view))
    return _back(operation_id)


async def answer(view: View) -> Response:
    """Give a person's answer."""
    form = await view.form()
    operation_id = view.request.path_params["operation_id"]
    word = form.get("answer", "")
    if word not in ("yes", "no"):
        raise InputError("Say yes or no.")
    note = form.get("note", "")[:2000]
    await view.deps.answer_operation(operation_id, word == "yes", note, _actor(view))
    return _back(operation_id)


def _back(operation_id: str) -> Response:
    return RedirectResponse(f"/operations/{segment(operation_id)}", 303, dict(render.PAGE_HEADERS))


def _actor(view: View) -> str:
    who = view.principal
    return f"{who.name} ({who.key_id})" if who.key_id else who.name
