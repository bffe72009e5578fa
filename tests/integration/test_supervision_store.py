"""Stops, alerts, findings and watches: the store's contract on both engines."""

import threading

import msgspec
import pytest

from store_world import DAY, SECOND, START, entry, problems
from tocsin.core.domain import Alert
from tocsin.core.errors import InputError, NotFound
from tocsin.core.stops import Stop
from tocsin.core.supervision import Evidence, Finding, RunWatch
from tocsin.store import Store

EVIDENCE = (
    Evidence(call=3, tool="search", arguments='{"q":"a"}', result="nothing", outcome="empty"),
    Evidence(call=7, tool="search", arguments='{"q":"a "}', result="nothing", outcome="empty"),
)


def stop(number: int, **changes: object) -> Stop:
    made = Stop(
        id=f"stop_{number:04}",
        scope="run",
        value="run_a",
        action="pause",
        reason="it repeats itself",
        by="policy:agents",
        at=START + number * SECOND,
    )
    return msgspec.structs.replace(made, **changes)


def alert(at: int, **changes: object) -> Alert:
    made = Alert(
        fingerprint="burn:support",
        detector="burn",
        feature="support",
        severity="warning",
        state="firing",
        at=START + at * SECOND,
        summary="support spends 14 times its usual rate",
        evidence=("call_1",),
    )
    return msgspec.structs.replace(made, **changes)


def finding(call: int, **changes: object) -> Finding:
    made = Finding(
        run_id="run_a",
        feature="support",
        call=call,
        at=START + call * SECOND,
        stage="nudge",
        detector="near_duplicate",
        summary="three searches that differ in a space",
        evidence=EVIDENCE,
    )
    return msgspec.structs.replace(made, **changes)


def watch(run_id: str, **changes: object) -> RunWatch:
    made = RunWatch(
        run_id=run_id,
        feature="support",
        started_at=START,
        last_at=START + 10 * SECOND,
        calls=12,
        steps=11,
        repeats=4,
        novelty=0.125,
        tokens=9000,
        tokens_since_new=4000,
        cost_nano_usd=12_345,
    )
    return msgspec.structs.replace(made, **changes)


# -- stops --


def test_a_stop_comes_back_as_it_was_given(store: Store) -> None:
    given = stop(1, feature="support", evidence=EVIDENCE)
    assert store.add_stop(given) == given
    assert store.stop(given.id) == given
    assert store.stops() == [given]
    assert store.stop("stop_none") is None


def test_a_standing_stop_of_this_or_a_stronger_action_is_kept(store: Store) -> None:
    pause = store.add_stop(stop(1))
    assert store.add_stop(stop(2)) == pause
    kill = stop(3, action="kill")
    assert store.add_stop(kill) == kill, "a kill is stronger than the pause that stands"
    assert store.add_stop(stop(4)) == kill
    assert store.add_stop(stop(5, action="kill")) == kill
    assert [one.id for one in store.stops()] == [kill.id, pause.id]
    elsewhere = stop(6, value="run_b")
    assert store.add_stop(elsewhere) == elsewhere
    everything = stop(7, scope="all", value="")
    assert store.add_stop(everything) == everything


def test_two_that_stop_a_run_at_once_give_one_stop(store: Store) -> None:
    found: list[Stop] = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(store.add_stop(stop(n)))) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one.id for one in found}) == 1
    assert len(store.stops()) == 1


def test_a_stop_ends_once_and_a_new_one_can_follow(store: Store) -> None:
    given = store.add_stop(stop(1))
    at = START + 60 * SECOND
    ended = store.end_stop(given.id, "redirected", by="ann", at=at, note="Use the index.")
    assert (ended.ending, ended.ended_by, ended.ended_at, ended.note) == (
        "redirected",
        "ann",
        at,
        "Use the index.",
    )
    assert not ended.standing
    assert store.stop(given.id) == ended
    with pytest.raises(InputError, match="ended already: redirected by ann"):
        store.end_stop(given.id, "resumed", by="bob", at=at)
    with pytest.raises(NotFound, match="stop_none"):
        store.end_stop("stop_none", "resumed", by="bob", at=at)
    assert store.add_stop(stop(2)).id == "stop_0002"


def test_a_run_that_was_ended_stays_refused(store: Store) -> None:
    given = store.add_stop(stop(1))
    ended = store.end_stop(given.id, "ended", by="ann", at=START + SECOND)
    assert ended.standing
    assert store.stops(standing=True) == [ended]
    assert store.add_stop(stop(2)) == ended


def test_stops_are_listed_newest_first_by_what_they_hold(store: Store) -> None:
    one = store.add_stop(stop(1))
    two = store.add_stop(stop(2, value="run_b"))
    three = store.add_stop(stop(3, scope="feature", value="run_a"))
    lifted = store.end_stop(two.id, "resumed", by="ann", at=START)
    assert store.stops() == [three, lifted, one]
    assert store.stops(limit=1) == [three]
    assert store.stops(standing=True) == [three, one]
    assert store.stops(scope="run", value="run_a") == [one]
    assert store.stops(standing=True, scope="run") == [one]


def test_every_change_to_the_stops_is_seen_by_other_processes(open_it) -> None:
    here: Store = open_it()
    there: Store = open_it()
    seen = [there.stops_version()]
    given = here.add_stop(stop(1))
    seen.append(there.stops_version())
    here.add_stop(stop(2))
    assert there.stops_version() == seen[-1], "nothing new was kept"
    here.note_cut(given.id, 2, 400)
    seen.append(there.stops_version())
    here.end_stop(given.id, "resumed", by="ann", at=START)
    seen.append(there.stops_version())
    assert seen == sorted(set(seen))
    here.note_cut("stop_none", 1, 1)
    assert there.stops_version() == seen[-1]


def test_cut_calls_add_up_and_the_longest_time_is_kept(store: Store) -> None:
    given = store.add_stop(stop(1, action="kill"))
    for cut, took in ((2, 900), (1, 5000), (3, 10)):
        store.note_cut(given.id, cut, took)
    found = store.stop(given.id)
    assert found is not None
    assert (found.cut, found.took_us) == (6, 5000)


# -- alerts --


def test_an_alert_fires_is_counted_and_resolves(store: Store) -> None:
    store.raise_alerts([alert(1), alert(5, severity="critical")])
    (row,) = store.alerts(firing=True)
    assert (row.first_at, row.count) == (START + SECOND, 2)
    assert row.alert == alert(5, severity="critical")
    store.raise_alerts([alert(9, state="resolved", summary="over")])
    assert store.alerts(firing=True) == []
    (row,) = store.alerts()
    assert (row.alert.state, row.alert.summary) == ("resolved", "over")
    assert (row.first_at, row.count) == (START + SECOND, 2)
    store.raise_alerts([alert(20)])
    (row,) = store.alerts(firing=True)
    assert (row.first_at, row.count) == (START + 20 * SECOND, 1), "it fires anew"


def test_the_same_words_again_change_nothing(store: Store) -> None:
    words = [alert(1), alert(5), alert(3, fingerprint="other"), alert(6, state="resolved")]
    store.raise_alerts(words)
    before = store.alerts()
    store.raise_alerts(words[2:])
    assert store.alerts() == before
    store.raise_alerts(words)
    assert [row.alert for row in store.alerts()] == [row.alert for row in before]


def test_what_never_fired_cannot_be_resolved(store: Store) -> None:
    store.raise_alerts([alert(1, state="resolved")])
    store.raise_alerts([])
    assert store.alerts() == []


def test_alerts_come_last_changed_first(store: Store) -> None:
    store.raise_alerts([alert(n, fingerprint=f"alert-{n}") for n in range(5)])
    store.raise_alerts([alert(9, fingerprint="alert-2")])
    names = [row.alert.fingerprint for row in store.alerts(limit=3)]
    assert names == ["alert-2", "alert-4", "alert-3"]


# -- findings and watches --


def test_findings_of_a_run_come_in_order_and_of_all_newest_first(store: Store) -> None:
    made = [finding(4), finding(2), finding(3, run_id="run_b")]
    store.add_findings(made)
    store.add_findings([])
    assert store.findings(run_id="run_a") == [finding(2), finding(4)]
    assert store.findings() == [finding(4), finding(3, run_id="run_b"), finding(2)]
    assert store.findings(limit=1) == [finding(4)]
    assert store.findings(run_id="run_none") == []


def test_the_same_finding_again_replaces_what_was_there(store: Store) -> None:
    store.add_findings([finding(2), finding(2, summary="twice in one batch")])
    store.add_findings([finding(2, mode="enforce"), finding(2, stage="pause")])
    assert store.findings(run_id="run_a") == [finding(2, mode="enforce"), finding(2, stage="pause")]


def test_more_findings_than_one_statement_holds_are_kept(store: Store) -> None:
    store.add_findings([finding(n) for n in range(700)])
    assert len(store.findings(run_id="run_a", limit=1000)) == 700


def test_evidence_is_kept_whatever_was_said(store: Store) -> None:
    odd = "\x00 </script> \u2028 \U0001f600"
    made = finding(1, evidence=(Evidence(call=1, tool=odd, result=odd),))
    broken = finding(2, summary="half a \ud800 pair")
    store.add_findings([made, broken])
    assert store.findings(run_id="run_a") == [made, finding(2, summary="half a ? pair")]


def test_the_last_word_on_a_run_counts(store: Store) -> None:
    store.save_watches([watch("run_a", calls=1), watch("run_b"), watch("run_a", calls=2)])
    store.save_watches([watch("run_b", stage="pause", detector="identical")])
    store.save_watches([])
    assert store.watch("run_a") == watch("run_a", calls=2)
    assert store.watch("run_b") == watch("run_b", stage="pause", detector="identical")
    assert store.watch("run_none") is None


def test_numbers_that_no_column_holds_are_kept_in_the_record(store: Store) -> None:
    absurd = watch("run_a", tokens_since_new=2**63)
    store.save_watches([absurd, watch("run_b", tokens_since_new=5)])
    assert store.watches(since=0) == [absurd, watch("run_b", tokens_since_new=5)]


def test_active_runs_come_by_tokens_since_the_last_new_thing(store: Store) -> None:
    store.save_watches(
        [
            watch("run_a", tokens_since_new=10),
            watch("run_b", tokens_since_new=9000),
            watch("run_c", tokens_since_new=500),
            watch("run_old", tokens_since_new=10**12, last_at=START - DAY),
        ]
    )
    found = store.watches(since=START)
    assert [row.run_id for row in found] == ["run_b", "run_c", "run_a"]
    assert [row.run_id for row in store.watches(since=START, limit=1)] == ["run_b"]


# -- retention --


def test_what_supervision_keeps_of_a_run_goes_with_it(store: Store) -> None:
    store.append([entry(1, run="run_a"), entry(200, run="run_b")])
    late = {"at": START + 300 * SECOND}
    store.add_findings([finding(1, **late), finding(1, run_id="run_b", **late)])
    store.save_watches(
        [watch("run_a", last_at=late["at"]), watch("run_b", last_at=START + 200 * SECOND)]
    )
    held = store.add_stop(stop(1, evidence=EVIDENCE))
    by_hand = store.add_stop(stop(2, value="run_b", evidence=EVIDENCE, by="ann"))
    store.sweep(older_than=START + 100 * SECOND)
    assert store.findings(run_id="run_a") == []
    assert store.watch("run_a") is None
    assert store.findings(run_id="run_b") != []
    assert store.watch("run_b") is not None
    left = store.stop(held.id)
    assert left is not None
    assert left.standing, "a stop holds whatever else is forgotten"
    assert left.evidence == ()
    assert "deleted" in left.reason
    assert store.stop(by_hand.id) == by_hand
    assert problems(store) == []


def test_old_findings_alerts_and_ended_stops_go_and_what_holds_stays(store: Store) -> None:
    store.append([entry(1000, run="run_known")])
    store.add_findings([finding(1), finding(1000, run_id="run_b")])
    store.save_watches([watch("run_a"), watch("run_b", last_at=START + 1000 * SECOND)])
    store.raise_alerts(
        [
            alert(1, fingerprint="over"),
            alert(2, fingerprint="over", state="resolved"),
            alert(1, fingerprint="firing"),
        ]
    )
    for number, value in enumerate(("run_lifted", "run_gone", "run_known", "run_held")):
        store.add_stop(stop(number, value=value))
    store.end_stop("stop_0000", "resumed", by="ann", at=START)
    store.end_stop("stop_0001", "ended", by="ann", at=START)
    store.end_stop("stop_0002", "ended", by="ann", at=START)
    version = store.stops_version()
    store.sweep(older_than=START + 500 * SECOND)
    assert [(f.run_id, f.call) for f in store.findings()] == [("run_b", 1000)]
    assert [row.run_id for row in store.watches(since=0)] == ["run_b"]
    assert [row.alert.fingerprint for row in store.alerts()] == ["firing"]
    assert {one.value for one in store.stops()} == {"run_known", "run_held"}
    assert store.stops_version() > version
    assert problems(store) == []


def test_many_old_findings_go_in_several_transactions(store: Store) -> None:
    store.add_findings([finding(n, at=START) for n in range(1200)])
    store.sweep(older_than=START + SECOND)
    assert store.findings() == []


def test_deleting_an_end_user_deletes_what_findings_and_alerts_say_of_them(store: Store) -> None:
    mine = entry(1, run="run_a", end_user="ann")
    shared = [entry(2, run="run_b", end_user="ann"), entry(3, run="run_b", end_user="bob")]
    store.append([mine, *shared, entry(4, run="run_c", end_user="bob")])
    for run in ("run_a", "run_b", "run_c"):
        store.add_findings([finding(1, run_id=run)])
        store.save_watches([watch(run)])
    store.raise_alerts(
        [
            alert(1, fingerprint="limit:daily:ann"),
            alert(1, fingerprint="limit:daily:joann"),
            alert(1, fingerprint="limit:x", summary="ann is at 80 % of daily"),
        ]
    )
    store.delete_end_user("ann")
    assert [f.run_id for f in store.findings()] == ["run_c"]
    assert [row.run_id for row in store.watches(since=0)] == ["run_c"]
    assert [row.alert.fingerprint for row in store.alerts()] == ["limit:daily:joann"]
    assert problems(store) == []
