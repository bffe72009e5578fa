"""Stops, limits, alerts and findings over real HTTP: who may act, what callers see, what stays."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adminkit import LIMITS, Site, entry, running
from tocsin.core.domain import Alert
from tocsin.core.ledger import Amounts
from tocsin.core.supervision import Evidence, Finding, RunWatch
from tocsin.ledger.limits import account_id
from tocsin.ledger.windows import window_at
from tocsin.store.ledger_api import AccountRow, Batch, Lease, Posting, Turn

REASON = "it searches for the same thing again and again"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory.mktemp("site")) as found:
        now = found.clock.now_us()
        found.store.append([entry(n, started_at=now - n * 1000) for n in range(3)])
        yield found


@pytest.fixture(scope="module")
def operator(site: Site) -> str:
    return site.key("operator").secret


@pytest.fixture(scope="module")
def viewer(site: Site) -> str:
    return site.key("viewer").secret


def post(site: Site, path: str, key: str, **body: Any) -> Any:
    reply = site.request("POST", path, key=key, json_body=body)
    assert reply.status in (200, 201), reply.body
    return reply.json()


def refused(site: Site, path: str, key: str, **body: Any) -> tuple[int, str]:
    reply = site.request("POST", path, key=key, json_body=body)
    assert reply.header("content-type") == "application/problem+json", reply.body
    return reply.status, reply.json()["code"]


def get(site: Site, path: str, key: str | None) -> Any:
    reply = site.request("GET", path, key=key)
    assert reply.status == 200, reply.body
    return reply.json()


def audited(site: Site) -> list[tuple[str, str, str]]:
    return [(row.action, row.target, row.detail) for row in site.store.audit(limit=500)]


# -- stops --


def test_a_stop_is_given_listed_lifted_and_written_down(
    site: Site, operator: str, viewer: str
) -> None:
    made = site.request(
        "POST",
        "/api/stops",
        key=operator,
        json_body={"scope": "feature", "value": "coder", "action": "kill", "reason": REASON},
    )
    assert made.status == 201
    stop = made.json()
    assert (stop["scope"], stop["value"], stop["action"]) == ("feature", "coder", "kill")
    assert stop["standing"] is True
    assert stop["by"].startswith("a operator (key_")
    assert get(site, "/api/stops?standing=true", viewer)["rows"][0]["id"] == stop["id"]
    lifted = post(site, f"/api/stops/{stop['id']}/lift", operator, ending="resumed", note="fixed")
    assert (lifted["standing"], lifted["ending"], lifted["note"]) == (False, "resumed", "fixed")
    standing = [row["id"] for row in get(site, "/api/stops?standing=true", viewer)["rows"]]
    assert stop["id"] not in standing
    assert stop["id"] in [row["id"] for row in get(site, "/api/stops", viewer)["rows"]]
    assert ("stop.kill", stop["id"], f"feature coder: {REASON}") in audited(site)
    assert ("stop.resumed", stop["id"], "feature coder: fixed") in audited(site)


def test_a_scope_that_is_stopped_already_keeps_its_stop(site: Site, operator: str) -> None:
    order = {"scope": "feature", "value": "twice", "action": "kill", "reason": REASON}
    first = post(site, "/api/stops", operator, **order)
    assert post(site, "/api/stops", operator, **{**order, "action": "pause"}) == first


def test_everything_can_be_stopped_and_nobody_can_end_that_for_good(
    site: Site, operator: str
) -> None:
    stop = post(site, "/api/stops", operator, scope="all", action="pause", reason=REASON)
    path = f"/api/stops/{stop['id']}/lift"
    assert refused(site, path, operator, ending="ended") == (409, "not_a_run")
    assert refused(site, path, operator, ending="redirected", note="go on") == (409, "not_a_run")
    assert post(site, path, operator, ending="resumed")["standing"] is False
    assert refused(site, path, operator, ending="resumed") == (409, "has_ended")


def test_a_key_is_stopped_by_its_id_or_its_name(site: Site, operator: str) -> None:
    first = site.keyring.issue("nightly", "caller", actor="test").row.id
    order = {"scope": "key", "action": "kill", "reason": REASON}
    stop = post(site, "/api/stops", operator, value="nightly", **order)
    assert stop["value"] == first
    assert post(site, "/api/stops", operator, value=first, **order) == stop
    second = site.keyring.issue("nightly", "caller", actor="test").row.id
    assert refused(site, "/api/stops", operator, value="nightly", **order) == (409, "ambiguous")
    site.keyring.revoke(first, actor="test")
    assert post(site, "/api/stops", operator, value="nightly", **order)["value"] == second
    assert refused(site, "/api/stops", operator, value="nobody", **order) == (404, "not_found")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"scope": "run", "action": "kill", "reason": "x"}, "value"),
        ({"scope": "run", "value": "r", "action": "kill", "reason": "  "}, "reason"),
        ({"scope": "run", "value": "r", "action": "stop", "reason": "x"}, "action"),
        ({"scope": "all", "value": "r", "action": "kill", "reason": "x"}, "value"),
        ({"scope": "galaxy", "action": "kill", "reason": "x"}, "scope"),
        ({"action": "kill", "reason": "x"}, "scope"),
        ({"scope": "all", "action": "kill", "reason": "x", "for": 3}, "for"),
        ({"scope": "run", "value": "r\0", "action": "kill", "reason": "x"}, "value"),
    ],
)
def test_what_is_wrong_with_an_order_is_named(
    site: Site, operator: str, body: dict[str, Any], field: str
) -> None:
    reply = site.request("POST", "/api/stops", key=operator, json_body=body)
    assert reply.status == 422
    assert [fault["name"] for fault in reply.json()["faults"]] == [field]


def test_a_stop_that_is_not_there_is_a_404_problem(site: Site, operator: str) -> None:
    assert site.request("GET", "/api/stops/stop_none?wait=60", key=operator).status == 404
    path = "/api/stops/stop_none/lift"
    assert refused(site, path, operator, ending="resumed") == (404, "not_found")


# -- the paused app --


def test_the_app_that_is_held_sees_how_its_stop_stands_and_no_more(
    site: Site, operator: str, viewer: str
) -> None:
    stop = post(site, "/api/runs/run_held/pause", operator, reason=REASON)
    for key in (None, site.key("caller").secret):
        assert get(site, f"/api/stops/{stop['id']}", key) == {
            "id": stop["id"],
            "standing": True,
            "ending": None,
            "note": "",
            "stop": None,
        }
    assert get(site, f"/api/stops/{stop['id']}", viewer)["stop"] == stop
    assert site.request("GET", "/api/stops").status == 401


def test_where_keys_are_needed_nobody_waits_without_one(site: Site, tmp_path: Any) -> None:
    with running(tmp_path, require_key=True) as closed:
        assert closed.request("GET", "/api/stops/stop_none").status == 401
        key = closed.key("caller").secret
        assert closed.request("GET", "/api/stops/stop_none", key=key).status == 404


def test_waiting_ends_as_soon_as_somebody_decides(site: Site, operator: str) -> None:
    stop = post(site, "/api/runs/run_waits/pause", operator, reason=REASON)
    type(site.switch).longest_s, before = 20.0, type(site.switch).longest_s
    answers: list[tuple[float, Any]] = []

    def wait() -> None:
        started = time.monotonic()
        found = get(site, f"/api/stops/{stop['id']}?wait=20", None)
        answers.append((time.monotonic() - started, found))

    waiting = [threading.Thread(target=wait) for _ in range(3)]
    for thread in waiting:
        thread.start()
    time.sleep(0.3)
    note = "Use the order id 8841."
    post(site, "/api/runs/run_waits/redirect", operator, note=note)
    for thread in waiting:
        thread.join(10)
    type(site.switch).longest_s = before
    assert len(answers) == 3
    for took, found in answers:
        assert took < 5
        assert (found["standing"], found["ending"], found["note"]) == (False, "redirected", note)


def test_waiting_in_vain_tells_that_the_stop_stands(site: Site, operator: str) -> None:
    stop = post(site, "/api/runs/run_vain/pause", operator, reason=REASON)
    assert get(site, f"/api/stops/{stop['id']}?wait=1", None)["standing"] is True
    assert site.request("GET", f"/api/stops/{stop['id']}?wait=61").status == 422


# -- runs --


def test_a_run_is_paused_and_resumed(site: Site, operator: str) -> None:
    held = post(site, "/api/runs/run_1/pause", operator, reason=REASON)
    assert (held["scope"], held["value"], held["feature"]) == ("run", "run_1", "support")
    gone_on = post(site, "/api/runs/run_1/resume", operator)
    assert (gone_on["id"], gone_on["ending"]) == (held["id"], "resumed")
    assert refused(site, "/api/runs/run_1/resume", operator) == (409, "not_held")
    path = "/api/runs/run_1/redirect"
    assert refused(site, path, operator, note="turn left") == (409, "not_held")
    assert refused(site, path, operator) == (422, "invalid_parameter")


def test_a_run_that_was_paused_and_killed_goes_on_only_when_nothing_holds_it(
    site: Site, operator: str, viewer: str
) -> None:
    post(site, "/api/runs/run_both/pause", operator, reason=REASON)
    killed = post(site, "/api/runs/run_both/kill", operator, reason=REASON)
    assert killed["action"] == "kill"
    post(site, "/api/runs/run_both/resume", operator, note="my mistake")
    rows = get(site, "/api/stops?standing=true", viewer)["rows"]
    assert "run_both" not in [row["value"] for row in rows]


def test_a_run_is_ended_for_good_whether_it_was_held_or_not(site: Site, operator: str) -> None:
    held = post(site, "/api/runs/run_e1/pause", operator, reason=REASON)
    ended = post(site, "/api/runs/run_e1/end", operator, note="it was a test")
    assert (ended["id"], ended["ending"], ended["standing"]) == (held["id"], "ended", True)
    fresh = post(site, "/api/runs/run_e2/end", operator)
    assert (fresh["value"], fresh["ending"], fresh["standing"]) == ("run_e2", "ended", True)
    assert refused(site, "/api/runs/run_e1/resume", operator) == (409, "run_ended")
    assert refused(site, "/api/runs/run_e2/end", operator) == (409, "run_ended")


@pytest.mark.parametrize("word", ["pause", "kill", "resume", "redirect", "end"])
def test_a_viewer_may_not_act(site: Site, viewer: str, word: str) -> None:
    path = f"/api/runs/run_1/{word}"
    assert refused(site, path, viewer, reason="x", note="x") == (403, "role_too_low")


# -- what supervision found --


def watch(site: Site, run: str, **changes: Any) -> RunWatch:
    now = site.clock.now_us()
    facts: dict[str, Any] = {
        "run_id": run,
        "feature": "support",
        "started_at": now - 1000,
        "last_at": now,
        "calls": 12,
        "steps": 11,
        "repeats": 4,
        "novelty": 0.25,
        "tokens": 9000,
        "tokens_since_new": 4000,
        "cost_nano_usd": 4_200_000,
    }
    return RunWatch(**{**facts, **changes})


def test_active_runs_come_with_what_holds_them(site: Site, operator: str, viewer: str) -> None:
    site.store.save_watches(
        [
            watch(site, "run_busy", tokens_since_new=10),
            watch(site, "run_stuck", stage="pause", detector="near_duplicate"),
            watch(site, "run_old", last_at=site.clock.now_us() - 3_600_000_000),
        ]
    )
    stop = post(site, "/api/runs/run_stuck/pause", operator, reason=REASON)
    rows = get(site, "/api/supervisor", viewer)["rows"]
    assert [row["run_id"] for row in rows] == ["run_stuck", "run_busy"]
    assert rows[0]["stop"] == stop
    assert (rows[0]["cost_nano_usd"], rows[0]["cost_usd"]) == (4_200_000, "0.0042")
    assert (rows[1]["stop"], rows[1]["stage"]) == (None, None)
    every = get(site, "/api/supervisor?since=0", viewer)["rows"]
    assert {row["run_id"] for row in every} == {"run_busy", "run_stuck", "run_old"}


def test_findings_of_a_run_come_in_order_with_their_evidence(site: Site, viewer: str) -> None:
    evidence = (Evidence(call=2, tool="search", arguments='{"q":1}', result="<b>", outcome="ok"),)

    def found(call: int) -> Finding:
        return Finding(
            run_id="run_2",
            feature="support",
            call=call,
            at=5,
            stage="nudge",
            detector="identical",
            summary="three times",
            evidence=evidence,
        )

    site.store.add_findings([found(4), found(3)])
    rows = get(site, "/api/runs/run_2/findings", viewer)["rows"]
    assert [row["call"] for row in rows] == [3, 4]
    assert rows[0]["evidence"][0]["result"] == "<b>"
    assert get(site, "/api/runs/run_0/findings", viewer)["rows"] == []
    assert site.request("GET", "/api/runs/run_nowhere/findings", key=viewer).status == 404


def test_alerts_say_since_when_and_how_often(site: Site, viewer: str) -> None:
    def raised(name: str, at: int, state: Any = "firing") -> Alert:
        return Alert(
            fingerprint=name,
            detector="burn",
            feature="support",
            severity="critical",
            state=state,
            at=at,
            summary="spends 14 times as much",
            evidence=("call_1",),
        )

    site.store.raise_alerts([raised("a", 10), raised("a", 20), raised("b", 30)])
    site.store.raise_alerts([raised("b", 40, "resolved")])
    rows = get(site, "/api/alerts", viewer)["rows"]
    assert [row["fingerprint"] for row in rows] == ["b", "a"]
    (row,) = get(site, "/api/alerts?firing=true", viewer)["rows"]
    assert (row["fingerprint"], row["first_at"], row["count"], row["at"]) == ("a", 10, 2, 20)
    assert row["evidence"] == ["call_1"]


# -- limits --


@pytest.fixture
def spent(tmp_path: Path) -> Iterator[tuple[Site, str, str]]:
    """A site whose limits have been drawn on, with the keys of a viewer and an operator."""
    with running(tmp_path) as site:
        now = site.clock.now_us()
        rows = {
            (limit.name, run): AccountRow(
                id=account_id(limit.name, run, run),
                limit_name=limit.name,
                value=run,
                run_id=run,
                touched_at=now,
            )
            for limit in LIMITS
            for run in (("run_1", "run_2") if limit.per == "run" else ("",))
        }
        daily = rows["daily", ""].id
        today = window_at(LIMITS[0], now).start
        used = Posting(
            daily, today, Amounts(4_000_000_001, 500, 20, 3), uncertain=Amounts(5, 1, 1, 0)
        )
        site.store.ledger.turn(
            Turn(
                holder="a process",
                home="/nowhere",
                now=now,
                accounts=tuple(rows.values()),
                batches=(
                    Batch(1, (used, Posting(rows["per-run", "run_1"].id, 0, Amounts(0, 990)))),
                ),
                leases=(
                    Lease(
                        account=daily,
                        start=today,
                        granted=Amounts(2_000_000_000, 200, 5, 0),
                        held=Amounts(1_000_000_000, 100, 1, 0),
                    ),
                ),
            )
        )
        yield site, site.key("viewer").secret, site.key("operator").secret


def test_accounts_say_what_is_spent_held_and_left_exactly(spent: tuple[Site, str, str]) -> None:
    site, viewer, _ = spent
    rows = get(site, "/api/limits", viewer)["rows"]
    assert [row["value"] for row in rows] == ["run_1", "", "run_2"], "fullest first"
    daily = rows[1]
    assert daily["limit"]["most"] == {
        "nano_usd": 10_000_000_000,
        "usd": "10",
        "tokens": None,
        "calls": 100,
        "tool_calls": None,
    }
    assert (daily["spent"]["usd"], daily["held"]["usd"]) == ("4.000000001", "1")
    assert daily["left"] == {
        "nano_usd": 4_999_999_999,
        "usd": "4.999999999",
        "tokens": None,
        "calls": 79,
        "tool_calls": None,
    }
    assert daily["uncertain"]["nano_usd"] == 5
    assert daily["resets_at"] > site.clock.now_us()
    assert rows[0]["left"]["tokens"] == 10
    assert rows[0]["resets_at"] is None


def test_accounts_are_found_by_limit_value_and_run(spent: tuple[Site, str, str]) -> None:
    site, viewer, _ = spent
    for query, values in (
        ("name=per-run", ["run_1", "run_2"]),
        ("value=run_2", ["run_2"]),
        ("run=run_1", ["run_1"]),
        ("name=daily&run=run_1", []),
        ("limit=1", ["run_1"]),
    ):
        rows = get(site, f"/api/limits?{query}", viewer)["rows"]
        assert [row["value"] for row in rows] == values, query


def test_a_limit_is_raised_by_hand_and_that_is_written_down(spent: tuple[Site, str, str]) -> None:
    site, _, operator = spent
    raised = post(site, "/api/limits/raise", operator, limit="daily", usd=2.5, calls=10)
    assert (raised["extra"]["usd"], raised["extra"]["calls"]) == ("2.5", 10)
    assert (raised["left"]["usd"], raised["left"]["calls"]) == ("7.499999999", 89)
    one = {"limit": "per-run", "value": "run_1", "run": "run_1"}
    assert post(site, "/api/limits/raise", operator, **one, tokens=5.0)["left"]["tokens"] == 15
    rows = [row for row in site.store.audit() if row.action == "limit.raise"]
    assert [row.target for row in rows] == ["per-run/run_1/run_1", "daily"]
    assert all(row.actor.startswith("a operator (key_") for row in rows)


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({"limit": "hourly", "usd": 1}, (404, "not_found")),
        ({"limit": "per-run", "value": "run_1", "tokens": 1}, (409, "cannot_be_raised")),
        ({"limit": "daily"}, (409, "cannot_be_raised")),
        ({"limit": "daily", "usd": -1}, (422, "invalid_parameter")),
        ({"limit": "daily", "usd": "1"}, (422, "invalid_parameter")),
        ({"limit": "daily", "tokens": 1.5}, (422, "invalid_parameter")),
    ],
)
def test_a_limit_that_cannot_be_raised_says_why(
    site: Site, operator: str, body: dict[str, Any], answer: tuple[int, str]
) -> None:
    assert refused(site, "/api/limits/raise", operator, **body) == answer
