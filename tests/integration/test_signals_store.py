"""Scores, sums, feedback and baselines: the store's contract on both engines."""

import math
import threading
from typing import Any

import pytest

from signal_world import CATALOGUE, LENGTH, scored
from store_world import DAY, HOUR, SECOND, START, Conversation, StoppedClock, entry, problems
from tocsin.core.domain import Alert
from tocsin.core.errors import NotFound
from tocsin.core.score import Feedback
from tocsin.core.signals import Change, Estimate, Scored, SliceChange, Sum
from tocsin.store import Store
from tocsin.store.api import BaselineRow, SignalPoint

MINUTES = 60 * SECOND
MIDNIGHT = START - START % DAY


def keep(store: Store, *rows: Scored, records: bool = True) -> None:
    """Append the calls of ``rows``, and their scores."""
    if records:
        store.append(
            [entry_of(row) for row in rows if store.interaction(row.interaction.id) is None]
        )
    assert store.add_scores(rows, CATALOGUE)


def entry_of(row: Scored) -> Any:
    number = int(row.interaction.id.removeprefix("call_"))
    one = row.interaction
    return entry(
        number,
        started_at=one.started_at,
        feature=one.feature,
        release=one.release,
        end_user=one.end_user,
        attributes=one.attributes,
    )


def whole(store: Store, signal: str = "good", **more: Any) -> dict[str, Sum]:
    """Totals of a signal over all time, by slice value."""
    rows = store.signal_totals(since=0, until=START + 500 * DAY, signal=signal, **more)
    return {row.value: row.sum for row in rows}


# -- scores --


def test_scores_come_back_as_they_were_given(store: Store) -> None:
    row = scored(1, value=0.25, explanation="no list", release="v1")
    keep(store, row, scored(2, value=None))
    assert store.scores(row.interaction.id) == row.scores
    ((number, back), (_, other)) = store.scored_after(0, limit=10)
    assert back == row
    assert other.scores[0].value is None
    assert store.scored_after(number, limit=10)[0][1] == other
    assert store.scored_upto() == number + 1
    assert problems(store) == []


@pytest.mark.parametrize("value", [0.1 + 0.2, -5.0, 1e99, float(2**60), 12345.0, 1e-12])
def test_a_value_is_kept_exactly(store: Store, value: float) -> None:
    keep(store, scored(1, value=value, name="unheard_of"))
    assert store.scores(entry(1).interaction.id)[0].value == value


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e200])
def test_what_no_sum_can_hold_counts_as_unjudged(store: Store, value: float) -> None:
    keep(store, scored(1, value=value), scored(2, value=1.0))
    assert whole(store)[""] == Sum(n=1, total=1.0, squares=1.0, unjudged=1)


def test_hostile_text_in_scores_and_slices_is_kept_harmless(store: Store) -> None:
    odd = "a\0b\ud800c" + "x" * 1000
    keep(store, scored(1, explanation=odd, slices={"language": odd, "tool": "ok"}))
    (row,) = store.scored("support")
    assert len(row.slices["language"]) == 120
    assert len(row.scores[0].explanation) == 300
    keep(store, scored(2, slices={"language": odd}))
    ((value, found),) = whole(store, dimension="language").items()
    assert (value, found.n) == (row.slices["language"], 2)
    assert problems(store) == []


def test_scores_of_calls_that_are_gone_are_left_out(store: Store) -> None:
    keep(store, scored(1), records=False)
    assert store.scored_after(0, limit=10) == []
    assert whole(store) == {}


def test_the_last_word_of_a_version_counts_and_sums_count_a_call_once(store: Store) -> None:
    keep(store, scored(1, value=0.0))
    keep(store, scored(1, value=1.0, first=False))
    keep(store, scored(1, value=0.0, version="2", first=False))
    assert [(s.version, s.value) for s in store.scores(entry(1).interaction.id)] == [
        ("1", 1.0),
        ("2", 0.0),
    ]
    assert whole(store)[""] == Sum(n=1, total=0.0, squares=0.0)


def test_two_words_on_one_call_in_one_batch_count_once(store: Store) -> None:
    keep(store, scored(1, value=0.0), scored(1, value=1.0, first=False), scored(2, value=None))
    assert whole(store)[""] == Sum(n=1, total=1.0, squares=1.0, unjudged=1)
    keep(store, scored(2, value=1.0, first=False), scored(2, value=0.0, first=False))
    assert whole(store)[""] == Sum(n=2, total=1.0, squares=1.0)


def test_later_scores_belong_to_the_slices_that_the_first_ones_told(store: Store) -> None:
    keep(store, scored(1, slices={"language": "de", "tool": "search"}))
    keep(store, scored(1, name="rating", slices={"release": "v1"}, first=False))
    assert whole(store, "rating", dimension="language") == {"de": Sum(n=1, total=1.0, squares=1.0)}
    assert store.scored_after(1, limit=5)[0][1].slices["language"] == "de"
    (row,) = store.scored("support")
    assert row.slices == {"language": "de", "tool": "search", "release": "v1"}
    assert [s.name for s in row.scores] == ["good", "rating"]


def test_scored_gives_the_newest_of_a_feature_in_a_time_and_a_slice(store: Store) -> None:
    keep(
        store,
        *(scored(n, release=f"v{n % 2}") for n in range(40)),
        *(scored(n, feature="search") for n in range(40, 50)),
    )
    numbers = [int(row.interaction.id[5:]) for row in store.scored("support", limit=5)]
    assert numbers == [39, 38, 37, 36, 35]
    within = store.scored(
        "support",
        since=START + 10 * SECOND,
        until=START + 20 * SECOND,
        slice=("release", "v1"),
    )
    assert [int(row.interaction.id[5:]) for row in within] == [19, 17, 15, 13, 11]
    assert store.scored("nothing") == []
    assert len(store.scored("support")) == 40


def test_calls_with_many_words_are_whole_at_the_edge_of_a_page(store: Store) -> None:
    keep(store, *(scored(n) for n in range(30)))
    for name in ("rating", "edited", "escalated"):
        keep(store, *(scored(n, name=name, first=False) for n in range(30)))
    for limit in (1, 3, 17, 100):
        rows = store.scored("support", limit=limit)
        assert len(rows) == min(30, limit)
        assert all(len(row.scores) == 4 for row in rows)


# -- the cursor --


def test_scores_are_kept_once_however_often_they_are_given(store: Store) -> None:
    store.append([entry(1), entry(2)])
    rows = [scored(1), scored(2)]
    assert store.add_scores(rows, CATALOGUE, consumer="c", after=0, upto=2)
    assert not store.add_scores(rows, CATALOGUE, consumer="c", after=0, upto=2)
    assert store.cursor("c") == 2
    assert whole(store)[""].n == 2
    assert store.add_scores([], CATALOGUE, consumer="c", after=2, upto=9)
    assert store.cursor("c") == 9


def test_of_two_processes_with_the_same_batch_one_keeps_it(open_it: Any) -> None:
    here, there = open_it(), open_it()
    here.append([entry(n) for n in range(1, 51)])
    kept: list[bool] = []

    def add(store: Store) -> None:
        for at in range(0, 50, 10):
            rows = [scored(n) for n in range(at + 1, at + 11)]
            kept.append(store.add_scores(rows, CATALOGUE, consumer="c", after=at, upto=at + 10))

    threads = [threading.Thread(target=add, args=(store,)) for store in (here, there)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while here.cursor("c") < 50:
        at = here.cursor("c")
        rows = [scored(n) for n in range(at + 1, at + 11)]
        here.add_scores(rows, CATALOGUE, consumer="c", after=at, upto=at + 10)
    assert whole(there)[""].n == 50
    assert len(here.scored_after(0, limit=100)) == 50


# -- sums --


def test_sums_stand_by_five_minutes_hour_and_day(store: Store) -> None:
    at = [MIDNIGHT + 10 * SECOND, MIDNIGHT + 6 * MINUTES, MIDNIGHT + 3 * HOUR, MIDNIGHT + DAY]
    keep(store, *(scored(n, value=n / 10, started_at=t) for n, t in enumerate(at, 1)))
    span: dict[str, Any] = {"since": MIDNIGHT, "until": MIDNIGHT + 2 * DAY}
    by: dict[str, list[SignalPoint]] = {
        grain: store.signal_points(grain=grain, **span)  # type: ignore[arg-type]
        for grain in ("minutes", "hour", "day")
    }
    assert [(p.at - MIDNIGHT) // MINUTES for p in by["minutes"]] == [0, 5, 180, 1440]
    assert [(p.at - MIDNIGHT) // HOUR for p in by["hour"]] == [0, 3, 24]
    assert [(p.at - MIDNIGHT) // DAY for p in by["day"]] == [0, 1]
    first = by["hour"][0].sum
    assert (first.n, first.total) == (2, pytest.approx(0.3))
    assert first.squares == pytest.approx(0.05)
    assert {p.signal for points in by.values() for p in points} == {"good"}


def test_points_can_be_of_one_signal_feature_dimension_and_value(store: Store) -> None:
    keep(
        store,
        *(scored(n, release=f"v{n % 3}") for n in range(9)),
        *(scored(n, name="rating", feature="search") for n in range(9, 12)),
    )
    span: dict[str, Any] = {"grain": "day", "since": MIDNIGHT, "until": MIDNIGHT + DAY}
    assert {(p.feature, p.signal) for p in store.signal_points(**span)} == {
        ("support", "good"),
        ("search", "rating"),
    }
    assert store.signal_points(**span, signal="rating", feature="support") == []
    assert store.signal_points(**span, signal="none") == store.signal_points(**span, feature="x")
    (point,) = store.signal_points(**span, dimension="release", value="v2")
    assert (point.value, point.sum.n) == ("v2", 3)
    assert {p.value for p in store.signal_points(**span, dimension="release")} == {"v0", "v1", "v2"}


def test_levels_are_summed_as_their_inner_values(store: Store) -> None:
    keep(store, *(scored(n, name="length", value=v) for n, v in enumerate((0.0, 90.0, -5.0))))
    found = whole(store, "length")[""]
    assert found.total == pytest.approx(math.log(10))
    assert LENGTH.outer(found.total) == pytest.approx(90.0)


def test_totals_are_the_points_of_the_hours_that_overlap(store: Store) -> None:
    times = [MIDNIGHT + n * 5 * HOUR + 7 * MINUTES for n in range(24)]
    keep(store, *(scored(n, started_at=t, release="v1") for n, t in enumerate(times)))
    for since, until in ((3, 4), (0, 24), (1, 119), (5, 6), (30, 31), (24, 72), (23, 73)):
        first, last = MIDNIGHT + since * HOUR, MIDNIGHT + until * HOUR
        for more in ({}, {"dimension": "release"}):
            points = store.signal_points(grain="hour", since=first, until=last, **more)
            totals = store.signal_totals(since=first + 59 * MINUTES, until=last, **more)
            assert sum(p.sum.n for p in points) == sum(p.sum.n for p in totals), (since, until)


def test_a_dimension_with_too_many_values_ends_in_other(store: Store) -> None:
    keep(store, *(scored(n, slices={"cohort": f"user{n:03}"}) for n in range(90)))
    keep(store, *(scored(n, slices={"cohort": f"user{n % 90:03}"}) for n in range(90, 180)))
    found = whole(store, dimension="cohort")
    assert len(found) == 61
    assert found["user000"].n == 2
    assert found["other"].n == 60
    assert sum(one.n for one in found.values()) == whole(store)[""].n == 180
    keep(store, scored(200, slices={"cohort": "user080"}, started_at=START + DAY))
    assert whole(store, dimension="cohort")["user080"].n == 1, "a new day begins anew"


def test_sums_of_five_minutes_are_kept_for_four_days(store: Store, clock: StoppedClock) -> None:
    keep(store, scored(1, started_at=START))
    clock.now = START + 5 * DAY
    keep(store, scored(2, started_at=START + 5 * DAY))
    span: dict[str, Any] = {"since": 0, "until": START + 9 * DAY}
    assert [p.sum.n for p in store.signal_points(grain="minutes", **span)] == [1]
    assert [p.sum.n for p in store.signal_points(grain="hour", **span)] == [1, 1]


def test_a_call_from_the_future_takes_no_sums_away(store: Store) -> None:
    keep(store, scored(1), scored(2, started_at=START + 300 * DAY))
    points = store.signal_points(grain="minutes", since=0, until=START + DAY)
    assert [p.sum.n for p in points] == [1]


def test_sums_can_be_made_again_from_scores(store: Store) -> None:
    keep(store, *(scored(n, value=n / 40, release=f"v{n % 2}") for n in range(40)))
    keep(store, *(scored(n, value=0.5, first=False) for n in range(0, 40, 3)))
    keep(
        store,
        *(scored(n, name="length", value=n, started_at=START + n * HOUR) for n in range(100, 109)),
    )
    span: dict[str, Any] = {"since": 0, "until": START + 9 * DAY}

    def every() -> dict[Any, Sum]:
        return {
            (grain, dimension, p.signal, p.value, p.at): p.sum
            for grain in ("minutes", "hour", "day")
            for dimension in ("", "release", "hour")
            for p in store.signal_points(grain=grain, dimension=dimension, **span)  # type: ignore[arg-type]
        }

    before = every()
    with store._database.write() as session:  # type: ignore[attr-defined]
        session.script(["UPDATE signal_sums SET data = (SELECT max(data) FROM signal_sums)"])
    assert every() != before
    store.rebuild()
    again = every()
    assert again.keys() == before.keys()
    for key, value in before.items():
        assert (again[key].n, again[key].unjudged) == (value.n, value.unjudged)
        assert again[key].total == pytest.approx(value.total)
        assert again[key].squares == pytest.approx(value.squares)
    assert problems(store) == []


# -- reading entries --


def test_entries_come_in_order_with_their_content(store: Store) -> None:
    given = [entry(n, body=b"{}" if n % 3 else None) for n in range(1, 30)]
    store.append(given)
    rows = store.recorded_after(0, limit=100)
    assert [seq for seq, _ in rows] == list(range(1, 30))
    assert [one for _, one in rows] == given
    assert store.recorded_after(27, limit=1)[0][1] == given[27]
    assert store.recorded_after(29, limit=5) == []


def test_a_long_history_is_its_system_message_and_its_end(store: Store) -> None:
    talk = Conversation("run_long")
    for n in range(1, 60):
        store.append([talk.call(n)])
    for after in (0, 40, 58):
        for _, one in store.recorded_after(after, limit=100, last=8):
            every = store.entry(one.interaction.id)
            assert every is not None
            expected = every.input if len(every.input) <= 8 else every.input[:1] + every.input[-8:]
            assert one.input == expected
            assert one.output == every.output
            assert [node.content for node in one.nodes][:-1] == [m.hash for m in expected]


def test_content_that_was_not_kept_is_left_out(open_it: Any) -> None:
    store = open_it(content="hashes")
    store.append([entry(1)])
    ((_, one),) = store.recorded_after(0, limit=1)
    assert (one.input, one.output, one.blobs) == ((), None, ())


def test_a_batch_of_large_calls_is_shorter_but_never_empty(store: Store) -> None:
    store.append([entry(n, answer=None) for n in range(1, 3)])
    talk = Conversation("run_big")
    store.append([talk.call(n, text="x" * 5_000_000 + str(n)) for n in range(3, 6)])
    seen: list[int] = []
    while rows := store.recorded_after(seen[-1] if seen else 0, limit=100):
        seen += [seq for seq, _ in rows]
    assert seen == [1, 2, 3, 4, 5]


# -- feedback, baselines, states --


def fact(number: int = 1, **changes: Any) -> Feedback:
    made: dict[str, Any] = {
        "id": f"fb_{number}",
        "interaction_id": entry(number).interaction.id,
        "kind": "label",
        "value": 1.0,
        "comment": "as it should be",
        "by": "ann",
        "at": START,
    }
    return Feedback(**{**made, **changes})


def test_feedback_is_kept_once_and_in_order(store: Store) -> None:
    store.append([entry(1), entry(2)])
    assert store.add_feedback(fact(1))
    assert not store.add_feedback(fact(1, value=0.0))
    assert store.add_feedback(fact(2, kind="comment", value=None))
    assert store.feedback(entry(1).interaction.id) == [fact(1)]
    ((first, one), (second, two)) = store.feedback_after(0, limit=10)
    assert (one, two.value, second) == (fact(1), None, first + 1)
    with pytest.raises(NotFound, match="call_missing"):
        store.add_feedback(fact(3, interaction_id="call_missing"))


def test_a_word_on_a_baseline_replaces_the_one_before_and_can_be_taken_back(store: Store) -> None:
    row = BaselineRow(feature="support", signal="good", since=5, by="ann", at=START, note="v2")
    store.accept_baseline(row)
    later = BaselineRow(feature="support", signal="good", since=9, by="bob", at=START)
    store.accept_baseline(later)
    assert store.baselines() == [later]
    assert store.forget_baseline("support", "good")
    assert not store.forget_baseline("support", "good")
    assert store.baselines() == []


def test_a_state_is_given_back_to_the_version_that_saved_it(store: Store) -> None:
    store.save_state("drift", "1", 7, b"\0state")
    assert store.load_state("drift", "1") == (7, b"\0state")
    assert store.load_state("drift", "2") is None
    store.save_state("drift", "2", 9, b"new")
    assert store.load_state("drift", "1") is None
    assert store.load_state("other", "1") is None


# -- deletion --


def test_scores_and_feedback_go_with_their_calls_and_days_stay_summed(store: Store) -> None:
    keep(store, *(scored(n, started_at=START + n * DAY) for n in range(4)))
    store.add_feedback(fact(1))
    store.sweep(older_than=START + 2 * DAY)
    assert store.scores(entry(1).interaction.id) == ()
    assert store.feedback_after(0, limit=9) == []
    assert [int(r.interaction.id[5:]) for _, r in store.scored_after(0, limit=9)] == [2, 3]
    span: dict[str, Any] = {"since": 0, "until": START + 9 * DAY}
    assert len(store.signal_points(grain="hour", **span)) == 2
    assert len(store.signal_points(grain="day", **span)) == 4
    assert problems(store) == []
    store.rebuild()
    assert len(store.signal_points(grain="day", **span)) == 4, "what retention took is kept"


def test_a_sweep_by_size_takes_the_sums_of_hours_along(store: Store) -> None:
    keep(store, *(scored(n, started_at=START + n * DAY) for n in range(4)))
    store.sweep(max_bytes=1)
    assert store.stats().interactions == 0
    assert store.scored_after(0, limit=9) == []
    assert problems(store) == []


def test_numbers_are_never_given_twice(store: Store) -> None:
    keep(store, scored(1, end_user="eve"), scored(2, end_user="eve"))
    last = store.scored_upto()
    store.delete_end_user("eve")
    keep(store, scored(3))
    ((number, _),) = store.scored_after(0, limit=9)
    assert number == last + 1


def test_of_a_deleted_user_nothing_is_left_that_names_them(store: Store) -> None:
    slices = {"cohort": "eve"}
    keep(store, scored(1, end_user="eve", slices=slices), scored(2, end_user="bob"))
    store.add_feedback(fact(1))
    level = Estimate(value=1.0, low=0.9, high=1.0, n=9)
    store.raise_alerts(
        [
            Alert(
                fingerprint="drift:good",
                detector="drift",
                feature="support",
                severity="warning",
                state="firing",
                at=START,
                summary="good fell",
                signal="good",
                change=Change(
                    signal="good",
                    since=START,
                    before=level,
                    after=level,
                    difference=level,
                    verdict="worse",
                    slices=(
                        SliceChange(
                            dimension="cohort", value="eve", before=level, after=level, share=1.0
                        ),
                    ),
                ),
            )
        ]
    )
    (row,) = store.alerts()
    assert row.alert.change is not None
    assert row.alert.signal == "good"
    store.delete_end_user("eve")
    assert store.scores(entry(1).interaction.id) == ()
    assert store.feedback_after(0, limit=9) == []
    assert whole(store, dimension="cohort") == {}
    assert store.alerts() == []
    assert len(store.scored("support")) == 1
    assert problems(store) == []


def test_small_packs_of_scores_become_large_ones(store: Store) -> None:
    store.append([entry(n) for n in range(60)])
    for n in range(60):
        store.add_scores([scored(n, value=n / 60)], CATALOGUE)
    with store._database.read() as session:  # type: ignore[attr-defined]
        before = {row[4] for row in session.all("scores_rows_after", (0, 1000, 1000))}
    for n in range(60, 64):
        keep(store, *(scored(n * 100 + m, explanation="x" * 200) for m in range(90)))
    store.fold()
    with store._database.read() as session:  # type: ignore[attr-defined]
        after = {row[4] for row in session.all("scores_rows_after", (0, 60, 1000))}
    assert len(before) == 60
    assert len(after) < 10
    rows = store.scored_after(0, limit=60)
    assert [row.scores[0].value for _, row in rows] == [n / 60 for n in range(60)]
    assert problems(store) == []


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("UPDATE scores SET size = 9999999", "missing"),
        ("UPDATE scores SET size = size - 1", "read"),
        ("UPDATE scores SET started_at = 1", "different times"),
        ("UPDATE scores SET feature = 99", "no name"),
        ("UPDATE scores SET seq = 99", "call"),
        ("DELETE FROM signal_words WHERE word LIKE 'good%1'", "no name"),
        ("UPDATE feedback SET seq = 99", "feedback"),
    ],
)
def test_verify_finds_damage(store: Store, damage: str, says: str) -> None:
    keep(store, scored(1))
    store.add_feedback(fact(1))
    assert problems(store) == []
    with store._database.write() as session:  # type: ignore[attr-defined]
        session.script([damage])
    found = [problem for problem in problems(store) if problem.kind == "score"]
    assert found
    assert any(says in problem.message for problem in found)
