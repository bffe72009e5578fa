"""The store's contract, on SQLite and on PostgreSQL alike."""

import msgspec
import pytest

from store_world import (
    HOUR,
    PARAMS,
    SECOND,
    START,
    SYSTEM,
    Conversation,
    entry,
    ids,
    message,
    problems,
    tool_call,
)
from tocsin.core.errors import InputError
from tocsin.core.interaction import Decision, Entry, Usage
from tocsin.core.messages import ROOT, chain, content_hash
from tocsin.store import AuditRow, Filter, KeyRow, RunSort, Store


def test_an_entry_comes_back_as_it_was_appended(store: Store) -> None:
    made = entry(
        1,
        body=b"an odd body",
        end_user="ann",
        decisions=(Decision(policy="identity", mode="observe", action="warn", detail="why"),),
        attributes={"team": "blue"},
    )
    assert store.append([made]) == 1
    assert store.interaction(made.interaction.id) == made.interaction
    assert store.entry(made.interaction.id) == made


def test_what_is_not_there_is_none(store: Store) -> None:
    assert store.interaction("call_none") is None
    assert store.entry("call_none") is None
    assert store.run("run_none") is None
    assert store.steps("run_none") == []
    assert store.step_points("run_none") == []
    assert store.history(b"x" * 16) == []
    assert store.content([b"x" * 16]) == {}
    assert store.known([b"x" * 16], ["none"]) == []


def test_appending_nothing_changes_nothing(store: Store) -> None:
    assert store.append([]) == 0
    assert store.stats().interactions == 0


def test_an_entry_that_is_known_already_changes_nothing(store: Store) -> None:
    first = entry(1)
    store.append([first])
    before = store.run(first.interaction.run_id)
    assert store.append([first, entry(2), first]) == 1
    assert store.run(first.interaction.run_id) == before
    assert store.stats().interactions == 2
    assert problems(store) == []


def test_the_same_entry_twice_in_one_batch_is_stored_once(store: Store) -> None:
    assert store.append([entry(1), entry(2), entry(1)]) == 2
    assert problems(store) == []


def test_a_history_that_is_sent_again_is_stored_once(store: Store) -> None:
    talk = Conversation("run_talk")
    for number in range(20):
        store.append([talk.call(number)])
    # The system prompt, 20 questions, 20 answers and the parameters.
    assert store.stats().contents == 42
    assert store.history(talk.calls[-1].nodes[-1].hash) == list(talk.messages)
    assert store.history(talk.calls[-1].nodes[-1].hash, last=3) == list(talk.messages[-3:])
    assert problems(store) == []


def test_content_is_found_by_hash_and_what_is_gone_is_missing(store: Store) -> None:
    store.append([entry(1)])
    found = store.content([SYSTEM.hash, content_hash(PARAMS), b"n" * 16])
    assert found == {SYSTEM.hash: SYSTEM.raw, content_hash(PARAMS): PARAMS}


def test_a_body_of_megabytes_and_one_that_does_not_shrink_come_back(store: Store) -> None:
    large = b"x" * 3_000_000
    noise = bytes((i * 7919 + (i >> 3) * 104_729) % 251 for i in range(100_000))
    store.append([entry(1, body=large), entry(2, body=noise)])
    hashes = [content_hash(large), content_hash(noise)]
    assert store.content(hashes) == dict(zip(hashes, (large, noise), strict=True))
    assert problems(store) == []


def test_a_call_without_messages_or_content_is_a_record_too(store: Store) -> None:
    made = entry(1)
    bare = msgspec.structs.replace(
        made.interaction, input_node=None, output_node=None, params=None, outcome="unknown"
    )
    store.append([Entry(interaction=bare)])
    assert store.entry(bare.id) == Entry(interaction=bare)
    assert problems(store) == []


def test_a_call_without_an_answer_keeps_its_question(store: Store) -> None:
    made = entry(1)
    failed = msgspec.structs.replace(made.interaction, output_node=None, outcome="error")
    stored = Entry(interaction=failed, input=made.input, nodes=made.nodes[:-1], blobs=made.blobs)
    store.append([stored])
    assert store.entry(failed.id) == stored
    assert store.known([made.nodes[-2].hash], []) == [], "only answers can be continued"
    assert problems(store) == []


def test_bytes_that_come_after_their_hash_are_kept(store: Store) -> None:
    made = entry(1)
    store.append([msgspec.structs.replace(made, blobs=())])
    assert store.content([content_hash(PARAMS)]) == {}
    store.append([entry(2)])
    assert store.content([content_hash(PARAMS)]) == {content_hash(PARAMS): PARAMS}
    assert problems(store) == []


def test_without_content_histories_are_still_linked(open_it) -> None:
    store = open_it(content="hashes")
    talk = Conversation("run_quiet")
    store.append([talk.call(1), talk.call(2)])
    tip = talk.calls[1].nodes[-1]
    assert store.history(tip.hash) == []
    assert store.content([SYSTEM.hash]) == {}
    assert [known.run_id for known in store.known([tip.hash], [])] == ["run_quiet"]
    row = store.run("run_quiet")
    assert row is not None
    assert (row.title, row.calls) == ("", 2)
    assert problems(store) == []


def test_a_run_adds_up_its_calls(store: Store) -> None:
    talk = Conversation("run_sum")
    store.append([talk.call(1, end_user="ann"), talk.call(2, cost_nano_usd=None)])
    store.append([talk.call(3, outcome="truncated", response_model="gpt-4o-2024")])
    row = store.run("run_sum")
    assert row is not None
    assert (row.calls, row.errors, row.unpriced) == (3, 1, 1)
    assert row.cost_nano_usd == 1001 + 1003
    assert (row.input_tokens, row.output_tokens, row.max_input_tokens) == (306, 30, 103)
    assert (row.outcome, row.model, row.end_user) == ("truncated", "gpt-4o-2024", "ann")
    assert row.title == "run_sum asks 1"
    assert row.started_at == START + SECOND
    assert row.last_at == START + 3 * SECOND + 253_000


def test_a_run_takes_its_verdict_from_the_call_that_ended_last(store: Store) -> None:
    store.append([entry(5, run="run_v", outcome="complete")])
    store.append([entry(2, run="run_v", outcome="error")])
    row = store.run("run_v")
    assert row is not None
    assert row.outcome == "complete"
    assert row.started_at == START + 2 * SECOND


def test_tool_spans_count_as_tool_calls_and_not_as_calls(store: Store) -> None:
    asked = entry(1, run="run_t", answer=tool_call("call_x"))
    ran = entry(2, run="run_t", operation="execute_tool", outcome="error", cost_nano_usd=None)
    again = entry(3, run="run_t", operation="execute_tool")
    agent = entry(4, run="run_t", operation="invoke_agent", usage=Usage(input_tokens=9999))
    store.append([asked, ran, again, agent])
    row = store.run("run_t")
    assert row is not None
    assert (row.calls, row.tool_calls, row.errors, row.unpriced) == (1, 2, 0, 0)
    assert (row.input_tokens, row.outcome) == (101, "complete")
    assert problems(store) == []


def test_steps_come_in_the_order_in_which_they_started(store: Store) -> None:
    store.append([entry(number, run="run_s") for number in (3, 1, 4, 2)])
    store.append([entry(9, run="run_other")])
    started = [one.started_at for one in store.steps("run_s")]
    assert started == [START + number * SECOND for number in (1, 2, 3, 4)]
    assert [one.started_at for one in store.steps("run_s", offset=1, limit=2)] == started[1:3]
    points = store.step_points("run_s")
    assert [point.started_at for point in points] == started
    assert (points[0].input_tokens, points[0].cost_nano_usd) == (101, 1001)


def test_a_continued_call_is_known_by_its_answer_or_its_tool_call(store: Store) -> None:
    asking = entry(1, run="run_k", answer=tool_call("call_weather"), end_user="ann")
    store.append([asking, entry(2)])
    by_node = store.known([asking.nodes[-1].hash, ROOT], [])
    by_call = store.known([], ["call_weather", "call_unheard"])
    assert by_node == by_call
    assert by_node[0].interaction_id == asking.interaction.id
    assert (by_node[0].run_id, by_node[0].end_user) == ("run_k", "ann")
    assert by_node[0].node == asking.nodes[-1].hash


def test_the_outbox_gives_every_append_once_and_in_order(store: Store) -> None:
    appended = [entry(number) for number in (5, 3, 8, 1)]
    store.append(appended[:2])
    store.append(appended[2:])
    first = store.after(0, limit=3)
    rest = store.after(first[-1][0], limit=10)
    assert [one for _, one in first + rest] == [made.interaction for made in appended]
    assert store.after(rest[-1][0], limit=10) == []


def test_a_cursor_stays_where_it_was_set(store: Store) -> None:
    assert store.cursor("alerts") == 0
    store.set_cursor("alerts", 7)
    store.set_cursor("alerts", 9)
    store.set_cursor("scores", 1)
    assert (store.cursor("alerts"), store.cursor("scores")) == (9, 1)


def test_interactions_page_newest_first(store: Store) -> None:
    store.append([entry(number) for number in range(7)])
    seen: list[str] = []
    cursor = None
    while True:
        page = store.interactions(Filter(), limit=3, cursor=cursor)
        seen += [one.id for one in page.rows]
        cursor = page.next
        if cursor is None:
            break
    assert seen == [f"call_{number:024}" for number in reversed(range(7))]


def test_interactions_are_filtered_by_each_fact(store: Store) -> None:
    store.append([entry(number) for number in range(3)])
    odd = entry(
        5,
        feature="search",
        response_model="claude",
        release="r2",
        end_user="bob",
        key_id="key_1",
        upstream="anthropic",
        outcome="refused",
        source="otlp",
        conversation_id="conv_1",
    )
    store.append([odd])
    only = [odd.interaction.id]
    assert ids(store, Filter(feature="search")) == only
    assert ids(store, Filter(model="claude")) == only
    assert ids(store, Filter(release="r2")) == only
    assert ids(store, Filter(end_user="bob")) == only
    assert ids(store, Filter(key_id="key_1")) == only
    assert ids(store, Filter(upstream="anthropic")) == only
    assert ids(store, Filter(outcome="refused")) == only
    assert ids(store, Filter(source="otlp")) == only
    assert ids(store, Filter(conversation_id="conv_1")) == only
    assert ids(store, Filter(since=START + 5 * SECOND)) == only
    assert ids(store, Filter(until=START + SECOND)) == [entry(0).interaction.id]
    assert ids(store, Filter(feature="search", outcome="complete")) == []


def test_filtered_interactions_page_too(store: Store) -> None:
    store.append([entry(n, feature="odd" if n % 2 else "even") for n in range(10)])
    first = store.interactions(Filter(feature="odd"), limit=3)
    second = store.interactions(Filter(feature="odd"), limit=3, cursor=first.next)
    numbers = [int(one.id[5:]) for one in (*first.rows, *second.rows)]
    assert numbers == [9, 7, 5, 3, 1]
    assert second.next is None


SORTS: tuple[tuple[RunSort, list[str]], ...] = (
    ("last_at", ["c", "b", "a"]),
    ("started_at", ["c", "b", "a"]),
    ("cost", ["a", "c", "b"]),
    ("calls", ["b", "c", "a"]),
    ("tokens", ["b", "a", "c"]),
    ("duration", ["b", "c", "a"]),
    ("errors", ["b", "c", "a"]),
)


@pytest.fixture
def three_runs(store: Store) -> Store:
    many = Usage(input_tokens=5000, output_tokens=1)
    store.append([entry(1, run="run_a", cost_nano_usd=9_000_000, duration_us=1, usage=many)])
    for number in (2, 3, 4):
        heavy = Usage(input_tokens=9000)
        store.append([entry(number, run="run_b", outcome="error", cost_nano_usd=1, usage=heavy)])
    store.append([entry(5, run="run_c", duration_us=400_000, outcome="error")])
    store.append([entry(6, run="run_c", duration_us=400_000)])
    return store


@pytest.mark.parametrize(("sort", "order"), SORTS)
def test_runs_are_sorted_and_paged_by_every_order(
    three_runs: Store, sort: RunSort, order: list[str]
) -> None:
    for descending in (True, False):
        seen: list[str] = []
        cursor = None
        while True:
            page = three_runs.runs(
                Filter(), sort=sort, descending=descending, limit=1, cursor=cursor
            )
            seen += [row.id for row in page.rows]
            cursor = page.next
            if cursor is None:
                break
        expected = [f"run_{name}" for name in order]
        assert seen == (expected if descending else expected[::-1])


def test_runs_are_filtered(store: Store) -> None:
    store.append([entry(1), entry(2, feature="search", end_user="bob"), entry(3, outcome="error")])

    def found(where: Filter) -> list[int]:
        return [int(row.id[4:]) for row in store.runs(where).rows]

    assert found(Filter(feature="search")) == [2]
    assert found(Filter(end_user="bob")) == [2]
    assert found(Filter(outcome="error")) == [3]
    assert found(Filter(since=START + 3 * SECOND)) == [3]
    assert found(Filter(until=START + 2 * SECOND)) == [1]
    assert found(Filter(source="otlp")) == []


def test_a_cursor_that_is_none_of_ours_is_refused(store: Store) -> None:
    for bad in ("", "x", "1", "1.2.3", "1.x", "'; DROP TABLE runs"):
        with pytest.raises(InputError, match="cursor"):
            store.runs(Filter(), cursor=bad)
        with pytest.raises(InputError, match="cursor"):
            store.interactions(Filter(), cursor=bad)
        with pytest.raises(InputError, match="cursor"):
            store.interactions(Filter(feature="x"), cursor=bad)


def test_a_sort_that_does_not_exist_is_refused(store: Store) -> None:
    with pytest.raises(InputError, match="last_at"):
        store.runs(Filter(), sort="id; DROP TABLE runs")


def test_keys_are_found_by_digest_and_revoked_once(store: Store) -> None:
    key = KeyRow(
        id="key_1",
        name="app",
        digest=b"d" * 32,
        role="caller",
        features=("support", "search"),
        created_at=START,
        expires_at=START + HOUR,
        hint="wxyz",
    )
    store.add_key(key)
    assert store.key_by_digest(b"d" * 32) == key
    assert store.key_by_digest(b"e" * 32) is None
    assert store.revoke_key("key_1", START + 5) is True
    assert store.revoke_key("key_1", START + 6) is False
    assert store.revoke_key("key_2", START) is False
    (stored,) = store.keys()
    assert stored.revoked_at == START + 5


def test_the_audit_log_is_newest_first(store: Store) -> None:
    rows = [AuditRow(at=n, actor="admin", action="key.create", target=f"k{n}") for n in range(5)]
    for row in rows:
        store.record_audit(row)
    assert store.audit(limit=3) == rows[:1:-1]


def test_text_of_any_kind_survives(store: Store) -> None:
    odd = "nul \0 quote ' percent % question ? snow ☃ rtl \u202e"
    made = entry(1, end_user=odd.replace("\0", ""), error_message=odd, feature="f % ?")
    store.append([made])
    assert store.interaction(made.interaction.id) == made.interaction
    assert [row.end_user for row in store.runs(Filter(feature="f % ?")).rows] == [
        made.interaction.end_user
    ]


def test_a_message_that_is_odd_is_still_stored(store: Store) -> None:
    odd = message("user", [{"type": "image_url", "image_url": {"url": "data:," + "A" * 500}}])
    made = entry(1, history=(odd,), answer=message("assistant", ""))
    store.append([made])
    assert store.entry(made.interaction.id) == made
    assert chain((*made.input, made.output or odd)) == made.nodes


def test_statistics_say_what_is_there(store: Store) -> None:
    talk = Conversation("run_one")
    store.append([talk.call(1), talk.call(2), entry(3)])
    stats = store.stats()
    assert (stats.interactions, stats.runs, stats.last_seq) == (3, 2, 3)
    assert (stats.oldest_at, stats.newest_at) == (START + SECOND, START + 3 * SECOND)
    assert stats.disk_bytes > 0
    assert (stats.segments, stats.folded_seq) == (0, 0)


def test_a_store_that_is_opened_again_has_everything(open_it) -> None:
    first: Store = open_it()
    talk = Conversation("run_again")
    first.append([talk.call(1)])
    first.close()
    second: Store = open_it()
    second.ping()
    second.append([talk.call(2)])
    assert len(second.steps("run_again")) == 2
    assert problems(second) == []
