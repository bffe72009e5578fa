"""What happens at most once: steps, idempotency keys, turns on conversations, deliveries."""

import msgspec
import pytest

from operations_world import delivery, item, key_row, operation, step
from store_world import HOUR, SECOND, START
from tocsin.core.errors import NotFound
from tocsin.store import Store
from tocsin.store.operations_api import ConversationRow, EndpointRow, ItemRow, Written

URL = "https://example.com/hook"


# -- steps --


def test_a_step_is_new_once_and_counts_who_asks_again(store: Store) -> None:
    book = store.operations
    assert book.begin_step(step()) == (step(), True)
    again, new = book.begin_step(step(owner="beta", arguments=b"other"))
    assert not new
    assert again == step(asked=2) == book.step("step_1")
    assert book.begin_step(step())[0].asked == 3
    assert book.step("step_2") is None


def test_a_settled_step_stays_as_it_ended(store: Store) -> None:
    book = store.operations
    book.begin_step(step())
    assert not book.settle_step("step_1", "done", b"1", START, owner="beta")
    assert book.settle_step("step_1", "done", b'{"charge":7}', START + 5, owner="alpha")
    done = step(state="done", result=b'{"charge":7}', ended_at=START + 5)
    assert book.step("step_1") == done
    assert not book.settle_step("step_1", "failed", None, START + 9)
    assert book.begin_step(step()) == (msgspec.structs.replace(done, asked=2), False)
    assert not book.settle_step("step_2", "done", None, START)


@pytest.mark.parametrize("before", ["asked", "unknown"])
def test_what_is_asked_or_unknown_can_still_be_settled(store: Store, before: str) -> None:
    book = store.operations
    book.begin_step(step(state=before))
    assert book.settle_step("step_1", "done", b"1", START + 5)


def test_a_step_may_be_asked_about_and_has_not_ended_then(store: Store) -> None:
    book = store.operations
    book.begin_step(step())
    assert book.settle_step("step_1", "asked", None, START + 5)
    assert book.step("step_1") == step(state="asked")


def test_steps_are_listed_in_the_order_in_which_they_began(store: Store) -> None:
    book = store.operations
    states = {"c": "done", "a": "asked", "b": "unknown", "d": "asked"}
    for name, state in states.items():
        book.begin_step(step(name, state=state, scope="op_2" if name == "d" else "op_1"))
    assert [one.key for one in book.steps("op_1")] == ["c", "a", "b"]
    assert [one.key for one in book.steps_in("asked")] == ["a", "d"]
    assert [one.key for one in book.steps_in("asked", limit=1)] == ["a"]
    assert [one.key for one in book.steps_in("done")] == ["c"]
    book.forget_step("c")
    assert [one.key for one in book.steps("op_1")] == ["a", "b"]
    assert book.begin_step(step("c"))[1], "a forgotten one is new again"


def test_a_begun_step_goes_to_the_owner_of_its_operation_only(store: Store) -> None:
    book = store.operations
    book.create(operation(owner="beta"), b"")
    book.begin_step(step(owner="alpha"))
    assert not book.take_step("step_1", "gamma", "begun")
    assert book.take_step("step_1", "beta", "begun")
    assert not book.take_step("step_1", "beta", "begun")
    assert book.step("step_1") == step(owner="beta")
    assert not book.settle_step("step_1", "done", b"1", START, owner="alpha")


def test_a_begun_step_of_no_operation_goes_to_nobody_while_its_owner_may_live(store: Store) -> None:
    book = store.operations
    book.beat("alpha", START)
    book.begin_step(step(scope="shop"))
    assert not book.take_step("step_1", "beta", "begun")
    book.retire("alpha")
    book.beat("beta", START)
    assert book.take_step("step_1", "beta", "begun")
    assert not book.take_step("step_1", "gamma", "begun")


@pytest.mark.parametrize("before", ["unknown", "failed", "asked"])
def test_a_step_is_taken_from_the_state_that_it_is_in(store: Store, before: str) -> None:
    book = store.operations
    book.begin_step(step(state=before, result=b"?", ended_at=START))
    assert not book.take_step("step_1", "beta", "done")
    assert book.take_step("step_1", "beta", before)
    assert book.step("step_1") == step(owner="beta")
    assert not book.take_step("step_1", "gamma", before)


def test_effects_that_died_outside_of_operations_become_unknown(store: Store) -> None:
    book = store.operations
    book.create(operation(), b"")
    book.beat("alive", START)
    book.beat("dead", START - HOUR)
    book.begin_step(step("lost", scope="shop", owner="dead"))
    book.begin_step(step("never_beat", scope="shop", owner="who"))
    book.begin_step(step("living", scope="shop", owner="alive"))
    book.begin_step(step("inside", owner="dead"))
    book.begin_step(step("harmless", scope="shop", owner="dead", effect=False))
    book.begin_step(step("finished", scope="shop", owner="dead", state="done"))
    assert book.lost_steps(START - SECOND, 1) == 1
    assert book.lost_steps(START - SECOND) == 1
    assert book.lost_steps(START - SECOND) == 0
    assert {one.key for one in book.steps_in("unknown")} == {"lost", "never_beat"}


# -- idempotency keys --


def test_a_key_belongs_to_the_first_request(store: Store) -> None:
    book = store.operations
    assert book.claim_key(key_row(), START) == (key_row(), True)
    other = key_row(request_hash=b"other", owner="beta")
    assert book.claim_key(other, START) == (key_row(), False)
    assert book.claim_key(key_row(principal="key_b"), START)[1], "another's key is another key"
    headers = ((b"content-type", b"application/json"), (b"x-a", b"\xff"))
    answer = b'{"id":"resp_1"}' * 50
    book.settle_key("key_a", "k1", "beta", "unknown")
    book.settle_key(
        "key_a",
        "k1",
        "alpha",
        "answered",
        call_id="call_1",
        status=200,
        headers=headers,
        body=answer,
    )
    book.replayed("key_a", "k1")
    book.release_key("key_a", "k1", "alpha")
    kept, new = book.claim_key(other, START + HOUR - 1)
    assert not new
    assert kept == key_row(
        state="answered", call_id="call_1", status=200, headers=headers, body=answer, replays=1
    )


def test_a_released_or_expired_key_is_free(store: Store) -> None:
    book = store.operations
    book.claim_key(key_row(), START)
    book.release_key("key_a", "k1", "beta")
    assert not book.claim_key(key_row(), START)[1]
    book.release_key("key_a", "k1", "alpha")
    assert book.claim_key(key_row(), START)[1]
    later = key_row(created_at=START + HOUR, expires_at=START + 2 * HOUR, owner="beta")
    assert book.claim_key(later, START + HOUR) == (later, True)
    assert book.claim_key(key_row(), START + HOUR) == (later, False)


def test_new_keys_take_expired_ones_out(store: Store) -> None:
    book = store.operations
    for n in range(30):
        book.claim_key(key_row(f"old_{n}"), START)
    for n in range(2):
        at = START + 2 * HOUR
        book.claim_key(key_row(f"new_{n}", expires_at=at + HOUR), at)
    with store._database.read() as session:  # type: ignore[attr-defined]
        names = {row[1] for row in session.all("idempotency_blobs", ("", "", 100))}
    assert names == {"new_0", "new_1"}


def test_keys_of_any_characters_are_kept_apart(store: Store) -> None:
    book = store.operations
    for name in ("k", "K", "k ", "k\n", "ключ", "x" * 5000, "'; --", "%s ? {list}"):
        assert book.claim_key(key_row(name), START)[1], name
    assert book.claim_key(key_row("\ud800"), START)[1]
    assert not book.claim_key(key_row("\ud800"), START)[1]


# -- conversations --


def conversation(**changes: object) -> ConversationRow:
    return msgspec.structs.replace(ConversationRow(id="conv_1", created_at=START), **changes)


def placed(name: str, position: int, **changes: object) -> ItemRow:
    return item(name, position=position, **changes)


def test_a_conversation_keeps_its_items_in_order(store: Store) -> None:
    book = store.operations
    made = conversation(key_id="key_a", metadata={"topic": "seats \ud800"})
    assert book.create_conversation(made, [item("a"), item("b", operation_id="op_1")])
    assert not book.create_conversation(made, [item("z")])
    assert book.add_items("conv_1", [item("c"), item("a", data=b"again"), item("d"), item("d")])
    assert not book.add_items("conv_2", [item("e")])
    assert book.conversation("conv_1") == conversation(
        key_id="key_a", metadata={"topic": "seats ?"}, items=4
    )
    every = [placed("a", 0), placed("b", 1, operation_id="op_1"), placed("c", 2), placed("d", 3)]
    assert book.items("conv_1") == every[::-1]
    assert book.items("conv_1", descending=False) == every
    assert book.items("conv_1", after="c") == [every[1], every[0]]
    assert book.items("conv_1", after="b", descending=False, limit=1) == [every[2]]
    assert book.item("conv_1", "c") == every[2]
    assert book.item("conv_1", "z") is None
    assert book.item("conv_2", "a") is None


def test_a_deleted_item_is_gone_and_its_place_is_not_given_again(store: Store) -> None:
    book = store.operations
    book.create_conversation(conversation(), [item("a"), item("b")])
    book.create_conversation(conversation(id="conv_2"), [item("a")])
    assert book.delete_item("conv_1", "b")
    assert not book.delete_item("conv_1", "b")
    assert not book.delete_item("conv_3", "b")
    book.add_items("conv_1", [item("c")])
    assert book.items("conv_1") == [placed("c", 2), placed("a", 0)]
    for missing in ("b", "c"):
        with pytest.raises(NotFound, match="has no item"):
            book.items("conv_2" if missing == "c" else "conv_1", after=missing)
    with pytest.raises(NotFound):
        book.items("conv_9", after="a")
    assert book.items("conv_9") == []


def test_a_conversation_changes_its_metadata_and_goes_with_its_items(store: Store) -> None:
    book = store.operations
    book.create_conversation(conversation(), [item("a")])
    assert book.set_metadata("conv_1", {"x": "y"})
    assert not book.set_metadata("conv_2", {})
    assert book.conversation("conv_1") == conversation(metadata={"x": "y"}, items=1)
    assert book.delete_conversation("conv_1")
    assert not book.delete_conversation("conv_1")
    assert book.conversation("conv_1") is None
    book.create_conversation(conversation(id="conv_2"), [])
    assert book.items("conv_2") == []


def test_a_conversation_is_held_by_one_operation_until_it_ends(store: Store) -> None:
    book = store.operations
    for name in ("op_1", "op_2"):
        book.create(operation(name), b"")
    book.create_conversation(conversation(), [])
    assert not book.hold_conversation("conv_9", "op_1")
    assert book.hold_conversation("conv_1", "op_1")
    assert book.hold_conversation("conv_1", "op_1")
    assert not book.hold_conversation("conv_1", "op_2")
    book.let_go("conv_1", "op_2")
    assert not book.hold_conversation("conv_1", "op_2")
    book.write([Written(operation_id="op_1", changes={"status": "ended"})])
    assert book.hold_conversation("conv_1", "op_2")
    book.let_go("conv_1", "op_2")
    assert book.conversation("conv_1") == conversation()
    book.hold_conversation("conv_1", "op_2")
    book.delete_operation("op_2")
    assert book.hold_conversation("conv_1", "op_1")


# -- deliveries --


def test_a_delivery_is_added_once_and_comes_when_it_is_due(store: Store) -> None:
    book = store.operations
    first = delivery(operation_id="op_1")
    later = delivery("whd_2", next_at=START + 9)
    book.add_deliveries([first, later, delivery(payload=b"again")])
    book.add_deliveries([delivery(payload=b"again")])
    book.add_deliveries([])
    assert book.deliveries() == [later, first]
    assert book.deliveries(operation_id="op_1") == [first]
    assert book.deliveries(limit=1) == [later]
    assert book.due_deliveries("alpha", START - 1, until=START + 60) == []
    assert book.due_deliveries("alpha", START, until=START + 60) == [first]
    assert book.due_deliveries("beta", START, until=START + 60) == []
    assert book.due_deliveries("beta", START + 59, until=START + 99) == [later]
    assert book.due_deliveries("beta", START + 60, until=START + 99) == [first]


def test_an_attempt_is_saved_and_frees_the_delivery(store: Store) -> None:
    book = store.operations
    book.add_deliveries([delivery()])
    book.due_deliveries("alpha", START, until=START + 60)
    tried = delivery(
        attempts=1, next_at=START + 5, last_at=START, last_status=500, last_error="down \ud800\0"
    )
    book.save_delivery(tried)
    kept = book.delivery("whd_1")
    assert kept is not None
    assert kept.last_error.startswith("down ?")
    assert book.due_deliveries("beta", START + 5, until=START + 60) == [kept]
    done = msgspec.structs.replace(kept, state="delivered", ended_at=START + 6, attempts=2)
    book.save_delivery(done)
    assert book.delivery("whd_1") == done
    assert book.deliveries(state="delivered") == [done]
    assert book.deliveries(state="pending") == []
    assert book.due_deliveries("beta", START + HOUR, until=START + HOUR) == []
    book.save_delivery(delivery("whd_9"))
    assert book.delivery("whd_9") is None


def test_a_disabled_url_is_told_nothing_until_it_is_enabled(store: Store) -> None:
    book = store.operations
    book.add_deliveries([delivery(), delivery("whd_2", url="https://other.example/")])
    book.add_deliveries([delivery("whd_3", state="delivered")])
    stop = EndpointRow(url=URL, disabled_at=START + 1, reason="410 \ud800")
    book.disable_endpoint(stop)
    assert book.disabled_endpoints() == [msgspec.structs.replace(stop, reason="410 ?")]
    book.add_deliveries([delivery("whd_4")])
    book.save_delivery(delivery(attempts=3))  # a process that was at work on it meanwhile
    assert [one.id for one in book.deliveries(state="disabled")] == ["whd_4", "whd_1"]
    due = book.due_deliveries("alpha", START + HOUR, until=START + 2 * HOUR)
    assert [one.id for one in due] == ["whd_2"]
    assert book.enable_endpoint(URL)
    assert not book.enable_endpoint(URL)
    assert book.disabled_endpoints() == []
    due = book.due_deliveries("alpha", START + HOUR, until=START + 2 * HOUR)
    assert {one.id for one in due} == {"whd_1", "whd_4"}
    assert all(one.state == "pending" and one.ended_at is None for one in due)
    assert [one.id for one in book.deliveries(state="delivered")] == ["whd_3"]
