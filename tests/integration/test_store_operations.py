"""Operations in a store: durable, numbered, one process's at a time."""

from typing import Any

import msgspec
import pytest

from operations_world import delivery, event, events, operation, step
from store_world import DAY, HOUR, SECOND, START
from tocsin.core.errors import InputError, StoreError
from tocsin.core.operations import Event
from tocsin.store import Store
from tocsin.store.operations_api import ConversationRow, OperationFilter, Written

BODY = b'{"request":{"input":"How many seats are left?"}}' * 20


def test_what_is_kept_comes_back_whole(store: Store, open_it) -> None:
    book = store.operations
    made = operation(
        title="Seats to Oslo",
        key_id="key_a",
        key_name="ann's",
        end_user="ann",
        run_id="run_1",
        parent_id="op_0",
        previous_id="resp_0",
        conversation_id="conv_1",
        background=True,
        deadline_at=START + HOUR,
        expires_at=START + DAY,
        progress=0.25,
        note="looking",
        cost_nano_usd=12345,
        callback="https://example.com/cb",
        owner="alpha",
    )
    assert book.create(made, BODY, events(0, 3))
    assert not book.create(made, b"another")
    for view in (book, open_it().operations):
        assert view.operation("op_1") == msgspec.structs.replace(made, events=3)
        assert view.body("op_1") == BODY
        assert view.result("op_1") is None
        assert view.events("op_1") == list(events(0, 3))


def test_nothing_is_known_of_an_unknown_id(store: Store) -> None:
    book = store.operations
    assert book.operation("op_1") is None
    assert book.body("op_1") is None
    assert book.result("op_1") is None
    assert book.events("op_1") == []
    assert book.request_cancel("op_1", "ann", START) is None
    assert not book.delete_operation("op_1")
    assert book.write([Written(operation_id="op_1", events=events(0, 1))]) == (False,)
    book.pack("op_1")


def test_a_batch_writes_events_changes_results_and_deliveries_of_many(store: Store) -> None:
    book = store.operations
    for name in ("op_1", "op_2", "op_3"):
        book.create(operation(name, owner="alpha"), BODY)
    done = book.write(
        [
            Written(operation_id="op_1", events=events(0, 2), owner="alpha"),
            Written(
                operation_id="op_2",
                events=events(0, 1),
                changes={"status": "ended", "outcome": "complete", "ended_at": START + 5},
                result=b'{"ok":true}',
                deliveries=(delivery(operation_id="op_2"),),
                owner="alpha",
            ),
            Written(operation_id="op_1", events=events(2, 1), changes={"progress": 0.5}),
        ]
    )
    assert done == (True, True, True)
    first, second, third = (book.operation(f"op_{n}") for n in (1, 2, 3))
    assert first is not None
    assert second is not None
    assert (first.events, first.progress, first.status) == (3, 0.5, "queued")
    assert (second.events, second.status, second.outcome) == (1, "ended", "complete")
    assert third == operation("op_3", owner="alpha")
    assert book.result("op_2") == b'{"ok":true}'
    assert book.events("op_1") == list(events(0, 3))
    assert [one.id for one in book.deliveries(operation_id="op_2")] == ["whd_1"]


def test_who_does_not_own_it_writes_nothing(store: Store) -> None:
    book = store.operations
    book.create(operation("op_1", owner="alpha"), BODY)
    book.create(operation("op_2", owner="beta"), BODY)
    mine, other = (
        Written(
            operation_id=name,
            events=events(0, 1),
            changes={"note": "mine"},
            result=b"{}",
            deliveries=(delivery(f"whd_{name}", operation_id=name),),
            owner="beta",
        )
        for name in ("op_2", "op_1")
    )
    assert book.write([other, mine]) == (False, True)
    assert book.operation("op_1") == operation("op_1", owner="alpha")
    assert book.events("op_1") == []
    assert book.result("op_1") is None
    assert [one.id for one in book.deliveries()] == ["whd_op_2"]


def test_what_has_ended_is_nobodys(store: Store) -> None:
    book = store.operations
    book.create(operation(owner="alpha"), BODY)
    ended = Written(operation_id="op_1", changes={"status": "ended"})
    late = Written(operation_id="op_1", events=events(0, 1), owner="alpha")
    assert book.write([ended, late]) == (True, False)
    assert book.write([late]) == (False,)
    assert book.events("op_1") == []


def test_of_two_that_end_it_one_does(store: Store) -> None:
    book = store.operations
    book.create(operation(status="running", owner="alpha"), BODY)
    first, second = (
        Written(
            operation_id="op_1",
            changes={"status": "ended", "outcome": outcome},
            result=outcome.encode(),
            expect="running",
        )
        for outcome in ("timeout", "cancelled")
    )
    assert book.write([first, second]) == (True, False)
    assert book.write([second]) == (False,)
    assert book.result("op_1") == b"timeout"


@pytest.mark.parametrize("numbers", [(1,), (3,), (4, 6), (4, 4), (5,)])
def test_events_that_do_not_continue_the_log_are_refused(
    store: Store, numbers: tuple[int, ...]
) -> None:
    book = store.operations
    book.create(operation(), BODY, events(0, 4))
    book.create(operation("op_2"), BODY)
    wrong = Written(operation_id="op_1", events=tuple(event(n) for n in numbers))
    with pytest.raises(StoreError, match="does not continue its log"):
        book.write([Written(operation_id="op_2", events=events(0, 1)), wrong])
    assert book.events("op_1") == list(events(0, 4))
    assert book.events("op_2") == [], "all of the batch, or nothing"
    with pytest.raises(StoreError, match="does not continue"):
        book.create(operation("op_3"), BODY, events(1, 2))
    assert book.operation("op_3") is None


@pytest.mark.parametrize("name", ["id", "kind", "events", "no_such_field"])
def test_what_an_operation_is_does_not_change(store: Store, name: str) -> None:
    store.operations.create(operation(), BODY)
    with pytest.raises(StoreError, match=f"{name} of an operation cannot be changed"):
        store.operations.write([Written(operation_id="op_1", changes={name: "x"})])


@pytest.mark.parametrize(
    "change", [{"status": "paused"}, {"calls": 1.5}, {"note": None}, {"note": object()}]
)
def test_what_could_not_be_read_back_is_not_written(store: Store, change: dict[str, Any]) -> None:
    book = store.operations
    book.create(operation(), BODY)
    with pytest.raises(StoreError, match="op_1 cannot be kept"):
        book.write([Written(operation_id="op_1", changes=change, events=events(0, 1))])
    assert book.operation("op_1") == operation()
    with pytest.raises(StoreError, match="cannot be kept"):
        book.create(operation("op_2", **change), BODY)
    assert book.operation("op_2") is None


def test_every_column_follows_a_change(store: Store) -> None:
    book = store.operations
    book.create(operation(), BODY)
    book.create(operation("op_2", owner="x", deadline_at=5, run_id="r"), BODY)
    filled = {
        "feature": "sales",
        "status": "running",
        "outcome": "complete",
        "key_id": "key_b",
        "end_user": "bob",
        "run_id": "run_9",
        "parent_id": "op_0",
        "conversation_id": "conv_9",
        "deadline_at": START + DAY,
        "expires_at": START + DAY,
        "cancel_at": START + DAY,
        "owner": "beta",
    }
    emptied = {"owner": None, "deadline_at": None, "run_id": None}
    book.write(
        [
            Written(operation_id="op_1", changes=filled),
            Written(operation_id="op_2", changes=emptied),
        ]
    )
    assert book.operation("op_1") == operation(**filled)
    assert book.operation("op_2") == operation("op_2")
    with store._database.read() as session:  # type: ignore[attr-defined]
        rows = session.all("operation_columns", (0, 10))
    assert [tuple(row[4:16]) for row in rows] == [
        ("running", *list(filled.values())[2:], 0),
        ("queued", *[None] * 10, 0),
    ]


def test_events_are_read_from_any_point_in_any_amount(store: Store) -> None:
    book = store.operations
    book.create(operation(), BODY, events(0, 7))
    book.create(operation("op_2"), BODY, events(0, 3))
    at = 7
    for size in (1, 2, 30, 1, 5, 64, 1, 9):
        book.write([Written(operation_id="op_1", events=events(at, size))])
        at += size
    every = list(events(0, at))
    for packed in (False, True):
        if packed:
            book.write([Written(operation_id="op_1", changes={"status": "ended"})])
            book.pack("op_1")
        for after in range(-1, at + 2):
            for limit in (1, 2, 10, 1000):
                expected = every[after + 1 :][:limit]
                assert book.events("op_1", after=after, limit=limit) == expected
    assert book.events("op_2") == list(events(0, 3))


def rows_of(store: Store) -> int:
    with store._database.read() as session:  # type: ignore[attr-defined]
        return len(session.all("operation_event_rows", (0, 1 << 62, 100_000)))


def test_packing_leaves_few_rows_and_every_byte(store: Store) -> None:
    book = store.operations
    odd = [b"", b"\x00\xff", b'{"a": 1}  ', bytes(range(256)) * 2000, "ü€😀".encode()]
    book.create(operation(), BODY)
    every = [event(n, odd[n % len(odd)] if n % 50 == 0 else None) for n in range(900)]
    for at in range(0, 900, 3):
        book.write([Written(operation_id="op_1", events=tuple(every[at : at + 3]))])
    book.pack("op_1")
    assert rows_of(store) == 300, "only what has ended is packed"
    book.write([Written(operation_id="op_1", changes={"status": "ended"})])
    book.pack("op_1")
    few = rows_of(store)
    assert few < 12
    book.pack("op_1")
    assert rows_of(store) == few
    assert book.events("op_1") == every
    late = Written(operation_id="op_1", events=(event(900),))
    assert book.write([late]) == (True,)
    assert book.events("op_1", after=898) == [every[899], event(900)]


def test_a_log_longer_than_a_page_of_rows(store: Store) -> None:
    book = store.operations
    book.create(operation(), BODY)
    for n in range(200):
        book.write([Written(operation_id="op_1", events=(event(n),))])
    assert [one.number for one in book.events("op_1")] == list(range(200))
    assert [one.number for one in book.events("op_1", after=63, limit=65)] == list(range(64, 129))


def test_lists_are_newest_first_and_filtered(store: Store) -> None:
    book = store.operations
    for n in range(10):
        book.create(
            operation(
                f"op_{n}",
                created_at=START + (n // 2) * SECOND,
                feature="support" if n % 2 else "sales",
                kind="batch" if n == 4 else "response",
                key_id="key_a" if n < 3 else None,
                end_user="ann" if n == 5 else None,
                run_id=f"run_{n}",
                parent_id="op_0" if n > 7 else None,
                conversation_id="conv_1" if n == 6 else None,
                status="ended" if n == 1 else "queued",
                outcome="refused" if n == 1 else None,
            ),
            BODY,
        )

    def ids(**where: object) -> list[str]:
        chosen = msgspec.convert(where, OperationFilter)
        return [row.id for row in book.operations(chosen).rows]

    newest = [f"op_{n}" for n in reversed(range(10))]
    assert ids() == newest
    assert ids(feature="sales") == newest[1::2]
    assert ids(kind="batch") == ["op_4"]
    assert ids(key_id="key_a") == ["op_2", "op_1", "op_0"]
    assert ids(end_user="ann") == ["op_5"]
    assert ids(run_id="run_3") == ["op_3"]
    assert ids(parent_id="op_0") == ["op_9", "op_8"]
    assert ids(conversation_id="conv_1") == ["op_6"]
    assert ids(status="ended") == ids(outcome="refused") == ["op_1"]
    assert ids(since=START + 3 * SECOND, until=START + 4 * SECOND) == ["op_7", "op_6"]
    seen: list[str] = []
    cursor = None
    while True:
        page = book.operations(OperationFilter(), limit=3, cursor=cursor)
        seen += [row.id for row in page.rows]
        cursor = page.next
        if cursor is None:
            break
    assert seen == newest
    with pytest.raises(InputError):
        book.operations(OperationFilter(), cursor="somewhere")


def test_deleting_takes_everything_of_it_and_nothing_else(store: Store) -> None:
    book = store.operations
    for name in ("op_1", "op_2"):
        book.create(operation(name), BODY, events(0, 5))
        book.write([Written(operation_id=name, result=b"{}")])
        book.begin_step(step(f"step_{name}", scope=name))
    book.create_conversation(ConversationRow(id="conv_1", created_at=START), ())
    assert book.hold_conversation("conv_1", "op_2")
    assert book.delete_operation("op_2")
    assert not book.delete_operation("op_2")
    assert book.operation("op_2") is None
    assert book.step("step_op_2") is None
    conversation = book.conversation("conv_1")
    assert conversation is not None
    assert conversation.held_by is None
    assert book.create(operation("op_3"), b"new"), "its number may be used again"
    assert book.events("op_3") == []
    assert book.result("op_3") is None
    assert book.body("op_3") == b"new"
    assert book.events("op_1") == list(events(0, 5))
    assert book.result("op_1") == b"{}"


def test_only_what_ended_expires(store: Store) -> None:
    book = store.operations
    book.create(operation("op_1", expires_at=START + 5, status="ended"), BODY)
    book.create(operation("op_2", expires_at=START + 3, status="ended"), BODY)
    book.create(operation("op_3", expires_at=START, status="waiting"), BODY)
    book.create(operation("op_4", status="ended"), BODY)
    assert book.expired(START) == []
    assert book.expired(START + 5) == ["op_2", "op_1"]
    assert book.expired(START + 5, 1) == ["op_2"]


def test_the_first_word_of_a_cancel_counts(store: Store) -> None:
    book = store.operations
    book.create(operation(status="running", owner="alpha"), BODY)
    book.create(operation("op_2", status="ended", owner="alpha"), BODY)
    asked = book.request_cancel("op_1", "ann", START + 7)
    assert asked is not None
    assert (asked.cancel_at, asked.cancel_by) == (START + 7, "ann")
    assert book.request_cancel("op_1", "bob", START + 9) == asked == book.operation("op_1")
    assert book.request_cancel("op_2", "ann", START) == book.operation("op_2")
    assert book.cancels("alpha") == ["op_1"]
    assert book.cancels("beta") == []
    book.write([Written(operation_id="op_1", changes={"status": "ended"})])
    assert book.cancels("alpha") == []


def test_due_is_what_is_late_and_what_nobody_will_cancel(store: Store) -> None:
    book = store.operations
    book.beat("alpha", START)
    late = {"deadline_at": START + 5}
    cancelled = {"cancel_at": START}
    book.create(operation("late", status="running", owner="alpha", **late), BODY)
    book.create(operation("in_time", deadline_at=START + 6), BODY)
    book.create(operation("over", status="ended", **late), BODY)
    book.create(operation("with_a_person", status="waiting", **late), BODY)
    book.create(operation("its_owners", status="running", owner="alpha", **cancelled), BODY)
    book.create(operation("nobodys", **cancelled), BODY)
    book.create(operation("retired", status="running", owner="beta", **cancelled), BODY)
    book.create(operation("parked", status="waiting", owner="alpha", **cancelled), BODY)
    due = {one.id for one in book.due(START + 5)}
    assert due == {"late", "nobodys", "retired", "parked"}
    book.retire("alpha")
    assert "its_owners" in {one.id for one in book.due(START + 5)}
    assert len(book.due(START + 5, 2)) == 2


def test_claims_take_what_nobody_alive_has(store: Store) -> None:
    book = store.operations
    book.beat("alive", START)
    book.beat("dead", START - HOUR)
    for name, status, owner in (
        ("queued", "queued", None),
        ("running", "running", "dead"),
        ("retired", "running", "gone"),
        ("taken_before_it_ran", "queued", "dead"),
        ("mine", "running", "alive"),
        ("waiting", "waiting", None),
        ("ended", "ended", None),
    ):
        book.create(operation(name, status=status, owner=owner), BODY)
    taken = book.claim("me", START, dead_before=START - SECOND, limit=3)
    assert [(one.id, one.restarts, one.owner) for one in taken] == [
        ("queued", 0, "me"),
        ("running", 1, "me"),
        ("retired", 1, "me"),
    ]
    rest = book.claim("me", START, dead_before=START - SECOND)
    assert [(one.id, one.restarts) for one in rest] == [("taken_before_it_ran", 0)]
    assert book.claim("me", START, dead_before=START - SECOND) == []
    assert book.operation("running") == taken[1]
    assert book.alive("me", START), "whoever claims is alive"
    assert book.write([Written(operation_id="running", result=b"x", owner="dead")]) == (False,)


def test_an_owner_is_alive_while_it_beats(store: Store) -> None:
    book = store.operations
    assert not book.alive("alpha", START)
    book.beat("alpha", START + 5)
    book.beat("alpha", START)
    assert book.alive("alpha", START + 5)
    assert not book.alive("alpha", START + 6)
    book.retire("alpha")
    assert not book.alive("alpha", 0)
    book.create(operation(owner="beta"), BODY, beat_at=START)
    assert book.alive("beta", START)
    assert book.claim("alpha", START, dead_before=START) == []


def test_text_that_no_database_holds_is_made_readable(store: Store) -> None:
    book = store.operations
    odd = "a\ud800b\0c\U0001f600"
    made = operation(f"op_{odd}", title=odd, end_user=odd, note=odd, owner=odd)
    assert book.create(made, odd.encode("utf-8", "surrogatepass"))
    kept = book.operation(f"op_{odd}")
    assert kept is not None
    assert kept.title == "a?b\0c\U0001f600"
    assert book.body(f"op_{odd}") == odd.encode("utf-8", "surrogatepass")
    said = Event(0, odd, START, b"\xed\xa0\x80 \0")
    change = {"error_message": odd, "end_user": odd + "2", "cancel_by": odd}
    assert book.write([Written(operation_id=f"op_{odd}", events=(said,), changes=change)]) == (
        True,
    )
    assert book.events(f"op_{odd}")[0].data == said.data
    assert book.request_cancel(f"op_{odd}", odd, START) is not None
    assert book.delete_operation(f"op_{odd}")
