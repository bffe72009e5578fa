"""Full-text search, on both engines."""

import pytest

from store_world import SECOND, START, Conversation, entry, ids, message, problems
from tocsin.store import Filter, Store


def found(store: Store, text: str) -> set[str]:
    return {row.id for row in store.runs(Filter(text=text)).rows}


def test_content_is_found_once_it_is_indexed(store: Store) -> None:
    talk = Conversation("run_words")
    store.append([talk.call(1, "Where is the marmalade?"), entry(2)])
    assert found(store, "marmalade") == set()
    assert store.index() > 0
    assert found(store, "marmalade") == {"run_words"}
    assert store.index() == 0


def test_all_words_must_be_in_one_message_and_the_last_may_be_begun(store: Store) -> None:
    store.append([Conversation("run_a").call(1, "red apples and green pears")])
    store.append([Conversation("run_b").call(2, "red cherries")])
    store.index()
    assert found(store, "red") == {"run_a", "run_b"}
    assert found(store, "RED app") == {"run_a"}
    assert found(store, "red pears green") == {"run_a"}
    assert found(store, "cherries pears") == set()


def test_a_word_that_runs_share_finds_all_of_them(store: Store) -> None:
    for number in range(3):
        store.append([Conversation(f"run_{number}").call(number, "the same question")])
    store.index()
    assert found(store, "same question") == {"run_0", "run_1", "run_2"}
    assert found(store, "careful assistant") == {"run_0", "run_1", "run_2"}, "the system prompt"


def test_tool_arguments_and_results_are_found(store: Store) -> None:
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "find", "arguments": '{"q":"yak"}'},
    }
    asks = message("assistant", None, tool_calls=[call])
    result = message("tool", "zebra stripes", tool_call_id="c1")
    store.append([entry(1, run="run_tool", answer=asks)])
    store.append([entry(2, run="run_tool", history=(message("user", "?"), asks, result))])
    store.index()
    assert found(store, "yak") == {"run_tool"}
    assert found(store, "zebra") == {"run_tool"}


def test_bodies_and_image_data_are_not_searched(store: Store) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,secretpixels"}}
    asked = message("user", [{"type": "text", "text": "caption"}, image])
    store.append([entry(1, run="run_image", history=(asked,), body=b'{"content":"bodytext"}')])
    store.index()
    assert found(store, "caption") == {"run_image"}
    assert found(store, "secretpixels") == set()
    assert found(store, "bodytext") == set()


@pytest.mark.parametrize(
    "text",
    [
        '"',
        "'",
        "*",
        'un"balanced',
        "a AND",
        "NEAR(a b, 2)",
        "col:word",
        "-word",
        "a* ^b",
        "%_",
        "\0",
        "(((",
        "&|!<->",
        ":*",
        "a & !b",
        "e\u0301le\u0300ve",
        "𝔘𝔫𝔦",
        "x" * 5000,
        "word " * 500,
        "日本語",
        "\u2028",
    ],
)
def test_odd_queries_find_something_or_nothing_but_never_fail(store: Store, text: str) -> None:
    store.append([entry(1)])
    store.index()
    assert len(store.runs(Filter(text=text)).rows) <= 1
    assert len(store.interactions(Filter(text=text)).rows) <= 1
    assert store.overview(Filter(text=text), buckets=2).total.calls <= 1


def test_a_query_without_words_finds_nothing_and_an_empty_one_restricts_nothing(
    store: Store,
) -> None:
    store.append([entry(1)])
    store.index()
    assert found(store, "?!") == set()
    assert len(found(store, "  ")) == 1


def test_search_joins_other_filters_and_other_questions(store: Store) -> None:
    store.append([entry(1, history=(message("user", "the walrus"),), feature="a")])
    store.append([entry(2, history=(message("user", "a walrus again"),), feature="b")])
    store.append([entry(3, feature="b")])
    store.index()
    assert len(store.runs(Filter(text="walrus", feature="b")).rows) == 1
    assert ids(store, Filter(text="walrus", feature="b")) == ["call_" + "2".zfill(24)]
    assert store.overview(Filter(text="walrus")).total.calls == 2
    assert store.spend(Filter(text="walrus", since=START + 2 * SECOND), "feature").total.calls == 1


def test_deleted_content_is_found_no_more(store: Store) -> None:
    store.append([Conversation("run_old").call(1, "ephemeral thought")])
    store.append([Conversation("run_new").call(9, "lasting thought")])
    store.index()
    store.sweep(older_than=START + 5 * SECOND)
    assert found(store, "ephemeral") == set()
    assert found(store, "thought") == {"run_new"}
    assert problems(store) == []


def test_rebuild_makes_the_index_again(store: Store) -> None:
    store.append([Conversation("run_r").call(1, "phoenix")])
    store.index()
    store.append([Conversation("run_s").call(2, "sparrow")])
    store.rebuild()
    assert found(store, "phoenix") == {"run_r"}
    assert found(store, "sparrow") == {"run_s"}
    assert store.index() == 0
