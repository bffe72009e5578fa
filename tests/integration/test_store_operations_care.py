"""Operations proved, forgotten and deleted."""

import os
from pathlib import Path
from typing import Any

import pytest

from operations_world import delivery, event, events, item, key_row, operation, step
from store_world import DAY, HOUR, START, entry, problems
from tocsin.store import Store, Swept, conversations
from tocsin.store.operations_api import ConversationRow, Written

NOTHING = Swept(interactions=0, runs=0, contents=0, freed_bytes=0)


def everything(store: Store, name: str = "op_1", **changes: object) -> None:
    """An operation with all that may belong to one."""
    book = store.operations
    book.create(operation(name, **changes), b"asked " * 60, events(0, 4))
    book.write(
        [
            Written(
                operation_id=name,
                events=events(4, 4),
                result=b"came of it " * 40,
                deliveries=(delivery(f"whd_{name}", operation_id=name),),
            )
        ]
    )
    book.begin_step(step(f"step_{name}", scope=name, arguments=b"x" * 500))
    book.claim_key(key_row(f"key_{name}", call_id=name, body=b"answer " * 50), START)


def conversation(store: Store, name: str, *items: tuple[str, str | None]) -> None:
    made = ConversationRow(id=name, created_at=START)
    rows = [item(one, operation_id=by) for one, by in items]
    assert store.operations.create_conversation(made, rows)


DAMAGE = [
    ("UPDATE operations SET status = 'ended' WHERE number = 1", "op_1", "different things"),
    ("UPDATE operations SET end_user = 'eve' WHERE number = 1", "op_1", "different things"),
    ("UPDATE operations SET events = 9 WHERE number = 1", "op_1", "counts 9 events, but has 8"),
    ("UPDATE operations SET record = substr(record, 1, 20)", "1", ""),
    ("DELETE FROM operation_events WHERE place = 16777216 + 4", "op_1", "but has 4"),
    ("DELETE FROM operation_events WHERE place = 16777216", "op_1", "event 4 where 0 is due"),
    ("UPDATE operation_events SET events = 3 WHERE place = 16777216", "op_1", "event 4 where 3"),
    ("UPDATE operation_events SET data = substr(data, 1, 30)", "op_1", "damaged"),
    ("UPDATE operation_bodies SET data = substr(data, 1, 20)", "op_1", "damaged"),
    ("DELETE FROM operation_bodies", "op_1", "asked for is missing"),
    ("UPDATE operation_results SET data = substr(data, 1, 20)", "op_1", "damaged"),
    ("DELETE FROM operations", "1", "belong to no operation"),
    ("UPDATE operation_results SET operation = 7", "7", "belongs to no operation"),
    ("UPDATE operation_steps SET arguments = substr(arguments, 1, 9)", "step_op_1", "damaged"),
    ("UPDATE deliveries SET payload = substr(payload, 1, 0)", "whd_op_1", "damaged"),
    ("UPDATE conversation_items SET data = substr(data, 1, 0)", "a", "damaged"),
    ("UPDATE conversations SET items = 0", "a", "counts 0"),
    ("DELETE FROM conversations", "a", "no conversation"),
    ("UPDATE idempotency_keys SET body = substr(body, 1, 9)", "key_op_1", "damaged"),
]


@pytest.mark.parametrize(("damage", "name", "says"), DAMAGE)
def test_verify_finds_what_is_not_whole(store: Store, damage: str, name: str, says: str) -> None:
    everything(store)
    conversation(store, "conv_1", ("a", None))
    assert problems(store) == []
    with store._database.write() as session:  # type: ignore[attr-defined]
        session.script([damage])
    found = [problem for problem in problems(store) if problem.kind == "operation"]
    assert [p for p in found if p.id in (name, "op_1") and says in p.message], found


def test_verify_reads_every_operation_of_many(store: Store) -> None:
    book = store.operations
    for n in range(450):
        book.create(operation(f"op_{n}"), b"", events(0, n % 3))
    assert problems(store) == []
    with store._database.write() as session:  # type: ignore[attr-defined]
        session.script(["DELETE FROM operation_events WHERE place / 16777216 IN (2, 201, 450)"])
    assert [p.id for p in problems(store)] == ["op_1", "op_200", "op_449"]


def test_an_end_users_operations_go_whole_and_nobody_elses(store: Store) -> None:
    everything(store, "op_ann", end_user="ann", conversation_id="conv_anns")
    everything(store, "op_child", parent_id="op_ann")
    everything(store, "op_grandchild", parent_id="op_child")
    everything(store, "op_bob", end_user="bob", conversation_id="conv_shared")
    everything(store, "op_nobody")
    conversation(store, "conv_anns", ("a", "op_ann"), ("b", None))
    conversation(store, "conv_shared", ("c", "op_ann"), ("d", "op_bob"), ("e", None))
    conversation(store, "conv_bobs", ("f", "op_bob"))
    conversation(store, "conv_plain", ("g", None))
    book = store.operations
    swept = store.delete_end_user("ann")
    assert swept.operations == 3
    for name in ("op_ann", "op_child", "op_grandchild"):
        assert book.operation(name) is None
        assert book.events(name) == []
        assert book.body(name) is book.result(name) is book.step(f"step_{name}") is None
        assert book.deliveries(operation_id=name) == []
        assert book.claim_key(key_row(f"key_{name}"), START)[1]
    for name in ("op_bob", "op_nobody"):
        assert len(book.events(name)) == 8
        assert book.body(name)
        assert book.result(name)
        assert book.step(f"step_{name}")
        assert book.delivery(f"whd_{name}")
        assert not book.claim_key(key_row(f"key_{name}"), START)[1]
    assert book.conversation("conv_anns") is None
    assert [one.id for one in book.items("conv_shared", descending=False)] == ["d", "e"]
    assert [one.id for one in book.items("conv_bobs")] == ["f"]
    assert [one.id for one in book.items("conv_plain")] == ["g"]
    assert problems(store) == []
    assert store.delete_end_user("ann") == NOTHING


def test_many_operations_of_one_end_user_all_go(store: Store) -> None:
    for n in range(50):
        store.operations.create(
            operation(f"op_{n}", end_user="ann", conversation_id="conv_1"), b"", events(0, 2)
        )
    conversation(store, "conv_1", *[(f"item_{n}", f"op_{n}") for n in range(50)])
    assert store.delete_end_user("ann").operations == 50
    assert store.operations.conversation("conv_1") is None
    assert problems(store) == []


def test_kept_answers_and_steps_of_an_end_users_calls_go_with_them(store: Store) -> None:
    book = store.operations
    store.append([entry(1, end_user="ann"), entry(2, end_user="bob")])
    for n, name in ((1, "ann"), (2, "bob")):
        call = entry(n).interaction
        book.claim_key(key_row(name, call_id=call.id, state="answered", body=b"secret"), START)
        book.begin_step(step(f"step_{name}", scope=call.run_id, state="done"))
    store.delete_end_user("ann")
    assert book.claim_key(key_row("ann"), START)[1]
    assert not book.claim_key(key_row("bob"), START)[1]
    assert book.step("step_ann") is None
    assert book.step("step_bob") is not None


def test_no_byte_of_a_deleted_end_user_is_left_in_the_file(tmp_path: Path, open_it, engine) -> None:
    if engine != "sqlite":
        pytest.skip("a server keeps its own files")
    store = open_it()
    secret = b"canary-" + os.urandom(8).hex().encode()
    book = store.operations
    book.create(operation(end_user="ann"), secret, (event(0, secret),))
    book.write([Written(operation_id="op_1", result=secret)])
    book.begin_step(step(arguments=secret))
    conversation(store, "conv_1", ("a", "op_1"))
    book.add_items("conv_1", [item("b", data=secret, operation_id="op_1")])
    store.delete_end_user("ann")
    store.close()
    files = list((tmp_path / "data").glob("tocsin.db*"))
    assert files
    assert not [path for path in files if secret in path.read_bytes()]


def test_a_sweep_by_age_takes_what_is_done_with(store: Store) -> None:
    book = store.operations
    book.create(operation(), b"")
    old = {"begun_at": START - DAY}
    book.begin_step(step("inside", **old, state="done"))
    book.begin_step(step("outside", **old, state="done", scope="shop"))
    book.begin_step(step("going_on", **old, scope="shop"))
    book.begin_step(step("young", scope="shop", state="done"))
    book.add_deliveries(
        [
            delivery("old", created_at=START - DAY, state="delivered"),
            delivery("stuck", created_at=START - DAY),
            delivery("young", state="delivered"),
        ]
    )
    book.claim_key(key_row("old", expires_at=START - 1), START - DAY)
    book.beat("gone", START - DAY)
    book.beat("here", START)
    store.sweep(older_than=START)
    kept = [name for name in ("inside", "outside", "going_on", "young") if book.step(name)]
    assert kept == ["inside", "going_on", "young"]
    assert {one.id for one in book.deliveries()} == {"stuck", "young"}
    assert not book.alive("gone", 0)
    assert book.alive("here", 0)
    with store._database.read() as session:  # type: ignore[attr-defined]
        assert session.all("idempotency_blobs", ("", "", 9)) == []
    assert book.operation("op_1") is not None


def old_conversation(store: Store, name: str, at: int, items: int, **changes: Any) -> None:
    made = ConversationRow(id=name, created_at=at, **changes)
    rows = [item(f"{name}_{n}", at=at) for n in range(items)]
    assert store.operations.create_conversation(made, rows)


def conversations_left(store: Store) -> set[str]:
    with store._database.read() as session:  # type: ignore[attr-defined]
        return {row[1] for row in session.all("item_blobs", (-1, 10_000))}


def test_a_sweep_by_age_takes_conversations_that_nobody_uses(store: Store) -> None:
    book = store.operations
    for name, at, items in (
        ("idle", START - DAY, 3),
        ("young", START, 1),
        ("used", START - DAY, 2),
        ("answered", START - DAY, 1),
    ):
        old_conversation(store, name, at, items)
    book.add_items("used", [item("new", at=START)])
    book.create(operation(conversation_id="answered"), b"")
    book.create_conversation(ConversationRow(id="empty", created_at=START - DAY), [])
    store.sweep(older_than=START)
    names = ("idle", "empty", "young", "used", "answered")
    assert [n for n in names if book.conversation(n)] == ["young", "used", "answered"]
    assert conversations_left(store) == {"young_0", "used_0", "used_1", "new", "answered_0"}
    book.delete_operation("op_1")
    store.sweep(older_than=START)
    assert book.conversation("answered") is None
    store.sweep(older_than=START + 1)
    assert conversations_left(store) == set()
    assert problems(store) == []


def test_many_conversations_and_long_ones_go_in_slices(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    slices: list[int] = []
    whole = conversations.delete_idle

    def watched(session: Any, numbers: Any, before: int, room: int) -> int:
        left = session.all("conversations_idle", (1, 1 << 62, before, before, 1000))
        slices.append(len(left))
        return whole(session, numbers, before, 10)

    monkeypatch.setattr(conversations, "delete_idle", watched)
    old_conversation(store, "long", START - DAY, 35)
    for n in range(30):
        old_conversation(store, f"short_{n}", START - DAY, 1)
    store.sweep(older_than=START)
    assert conversations_left(store) == set()
    assert not [n for n in ("long", "short_0", "short_29") if store.operations.conversation(n)]
    assert slices == sorted(slices, reverse=True)
    assert len(slices) >= 7, "no transaction takes more than its share"
    assert problems(store) == []


def test_a_conversation_that_is_half_deleted_is_not_found_and_goes_next_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies in the middle of a long one."""
    whole = conversations.delete_idle

    def dies(session: Any, numbers: Any, before: int, room: int) -> int:
        if store.operations.conversation("long") is None:
            raise KeyboardInterrupt
        return whole(session, numbers, before, 10)

    old_conversation(store, "long", START - DAY, 25)
    monkeypatch.setattr(conversations, "delete_idle", dies)
    with pytest.raises(KeyboardInterrupt):
        store.sweep(older_than=START)
    monkeypatch.setattr(conversations, "delete_idle", whole)
    assert store.operations.conversation("long") is None
    assert store.operations.items("long") == []
    assert len(conversations_left(store)) == 15
    assert problems(store) == []
    old_conversation(store, "long", START, 1)
    store.sweep(older_than=START)
    assert conversations_left(store) == {"long_0"}


def test_a_conversation_that_is_used_again_in_the_last_moment_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = conversations.idle

    def used(session: Any, before: int, **more: Any) -> list[int]:
        found = whole(session, before, **more)
        if found:
            store.operations.add_items("conv", [item("new", at=START)])
        return found

    old_conversation(store, "conv", START - DAY, 3)
    monkeypatch.setattr(conversations, "idle", used)
    store.sweep(older_than=START)
    assert len(store.operations.items("conv")) == 4


def test_a_size_ceiling_takes_the_oldest_of_both(store: Store) -> None:
    book = store.operations
    for n in range(200):
        status = "running" if n == 3 else "ended"
        made = operation(f"op_{n}", created_at=START + n * HOUR, status=status)
        book.create(made, os.urandom(8_000))
    store.append([entry(n, started_at=START + n * HOUR) for n in (60, 190)])

    def left() -> tuple[list[int], int]:
        ours = [n for n in range(200) if book.operation(f"op_{n}")]
        return ours, store.stats().interactions

    with store._database.read() as session:  # type: ignore[attr-defined]
        used = store._database.used_bytes(session)  # type: ignore[attr-defined]
    swept = store.sweep(max_bytes=used - 200_000)
    assert left() == ([3, *range(51, 200)], 2), "first operations, oldest first, none that runs"
    assert (swept.operations, swept.interactions) == (50, 0)
    store.sweep(max_bytes=used - 1_000_000)
    ours, interactions = left()
    assert ours[0] == 3
    assert 60 < ours[1] < 190
    assert interactions < 2, "calls go when they are older than the operations that are left"
    store.sweep(max_bytes=1)
    assert left() == ([3], 0)
    assert problems(store) == []
