"""Signals over real HTTP: what they come to, feedback and who may give it, baselines, metrics."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from adminkit import CATALOGUE, Clock, Site, entry, running
from tocsin.core.domain import Alert
from tocsin.core.score import Score
from tocsin.core.signals import Scored
from tocsin.gateway.metrics import MAX_VALUES, Metrics
from tocsin.gateway.signal_metrics import FRESH_US, SignalGauges

HOUR_US = 3_600_000_000


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory.mktemp("site"), require_key=True) as found:
        now = found.clock.now_us()
        add(found, range(40), now - 60_000_000, bad=4)
        add(found, range(100, 120), now - 25 * HOUR_US, bad=10)
        add(found, range(200, 203), now, feature="coder")
        yield found


def add(site: Site, numbers: range, at: int, *, bad: int = 0, feature: str = "support") -> None:
    """Calls of which the first ``bad`` are not correct; every second is of release v2."""
    entries = [
        entry(n, started_at=at + n, feature=feature, release=f"v{1 + n % 2}") for n in numbers
    ]
    site.store.append(entries)
    rows = [
        Scored(
            interaction=one.interaction,
            scores=(
                Score(
                    interaction_id=one.interaction.id,
                    name="correct",
                    version="1",
                    value=float(at_ >= bad),
                    label=None if at_ >= bad else "schema_valid",
                ),
                Score(interaction_id=one.interaction.id, name="rating", version="1", value=None),
            ),
            slices={"release": one.interaction.release or ""},
        )
        for at_, one in enumerate(entries)
    ]
    assert site.store.add_scores(rows, CATALOGUE)


@pytest.fixture(scope="module")
def viewer(site: Site) -> str:
    return site.key("viewer").secret


@pytest.fixture(scope="module")
def operator(site: Site) -> str:
    return site.key("operator").secret


@pytest.fixture(scope="module")
def caller(site: Site) -> str:
    return site.key("caller").secret


def get(site: Site, path: str, key: str) -> Any:
    reply = site.request("GET", path, key=key)
    assert reply.status == 200, reply.body
    return reply.json()


def say(site: Site, key: str | None, **body: Any) -> Any:
    return site.request("POST", "/api/feedback", key=key, json_body=body)


# -- what signals come to --


def test_every_signal_is_listed_with_what_it_comes_to_now_and_before(
    site: Site, viewer: str
) -> None:
    found = get(site, "/api/signals", viewer)
    assert {signal["name"] for signal in found["signals"]} == set(CATALOGUE)
    rows = {(row["feature"], row["signal"]): row for row in found["rows"]}
    row = rows["support", "correct"]
    assert (row["calls"], row["value"]) == (40, 0.9)
    assert row["low"] < 0.9 < row["high"] < 1
    assert (row["before"]["calls"], row["before"]["value"]) == (20, 0.5)
    silent = rows["support", "rating"]
    assert (silent["value"], silent["low"], silent["calls"], silent["unjudged"]) == (
        None,
        None,
        0,
        40,
    )
    only = get(site, "/api/signals?feature=coder", viewer)["rows"]
    assert {row["feature"] for row in only} == {"coder"}


def test_one_signal_is_told_over_time_and_by_slice(site: Site, viewer: str) -> None:
    path = "/api/signals/support/correct"
    since = site.clock.now_us() - 48 * HOUR_US
    hours = get(site, f"{path}?since={since}", viewer)
    assert sum(point["calls"] for point in hours["points"]) == 60
    assert [point["slice"] for point in hours["points"]] == [""] * len(hours["points"])
    assert hours["signal"]["axis"] == "correct"
    days = get(site, f"{path}?since={since}&grain=day&dimension=release", viewer)
    assert {point["slice"] for point in days["points"]} == {"v1", "v2"}
    one = get(site, f"{path}?grain=day&dimension=release&value=v2&since={since}", viewer)
    assert sum(point["calls"] for point in one["points"]) == 30
    slices = get(site, f"/api/slices/support/correct?since={since}&limit=1", viewer)
    assert [(row["slice"], row["calls"]) for row in slices["rows"]] == [("v1", 30)]


def test_an_unknown_signal_or_dimension_is_named_and_a_silent_feature_is_empty(
    site: Site, viewer: str
) -> None:
    for path in ("/api/signals/support/nonsense", "/api/slices/support/nonsense"):
        reply = site.request("GET", path, key=viewer)
        assert (reply.status, reply.json()["code"]) == (404, "not_found")
        assert "nonsense" in reply.json()["detail"]
    reply = site.request("GET", "/api/slices/support/correct?dimension=shoe", key=viewer)
    assert reply.status == 422
    assert get(site, "/api/signals/nobody/correct", viewer)["points"] == []


def test_a_long_series_is_cut_and_says_where_it_begins(site: Site, viewer: str) -> None:
    found = get(site, "/api/signals/support/correct?since=0&grain=minutes", viewer)
    assert found["until"] - found["since"] == 2_000 * 300_000_000


def test_what_is_said_of_a_call_is_told(site: Site, viewer: str) -> None:
    rows = get(site, "/api/interactions/call_000000/scores", viewer)["rows"]
    assert rows == [
        {
            "name": "correct",
            "version": "1",
            "value": 0.0,
            "label": "schema_valid",
            "explanation": "",
        },
        {"name": "rating", "version": "1", "value": None, "label": None, "explanation": ""},
    ]
    assert site.request("GET", "/api/interactions/nobody/scores", key=viewer).status == 404
    assert site.request("GET", "/api/interactions/nobody/feedback", key=viewer).status == 404


# -- feedback --


def test_a_caller_says_how_its_call_turned_out_and_says_it_once(
    site: Site, caller: str, viewer: str
) -> None:
    said = {
        "interaction_id": "call_000001",
        "kind": "label",
        "value": 0,
        "comment": "no",
        "id": "my-1",
    }
    first = say(site, caller, **said)
    assert (first.status, first.json()) == (201, {"id": "my-1", "new": True})
    again = say(site, caller, **said)
    assert (again.status, again.json()) == (201, {"id": "my-1", "new": False})
    named = say(site, caller, interaction_id="call_000001", kind="rating", value=0.75).json()
    assert named["id"].startswith("fb_")
    rows = get(site, "/api/interactions/call_000001/feedback", viewer)["rows"]
    assert [(row["kind"], row["value"], row["by"]) for row in rows] == [
        ("label", 0.0, "a caller"),
        ("rating", 0.75, "a caller"),
    ]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"kind": "label", "value": 0.5}, "value"),
        ({"kind": "label"}, "value"),
        ({"kind": "rating", "value": 1.5}, "value"),
        ({"kind": "edit", "value": -0.1}, "value"),
        ({"kind": "escalation", "value": "1"}, "value"),
        ({"kind": "comment", "comment": " "}, "comment"),
        ({"kind": "comment", "comment": "x" * 2001}, "comment"),
        ({"kind": "applause", "value": 1}, "kind"),
        ({"kind": "label", "value": 1, "by": "somebody else"}, "by"),
    ],
)
def test_feedback_that_cannot_be_meant_is_refused_by_field(
    site: Site, caller: str, body: dict[str, Any], field: str
) -> None:
    reply = say(site, caller, interaction_id="call_000002", **body)
    assert reply.status == 422
    assert [fault["name"] for fault in reply.json()["faults"]] == [field]


def test_feedback_needs_a_call_that_is_recorded(site: Site, caller: str) -> None:
    reply = say(site, caller, interaction_id="call_none", kind="label", value=1)
    assert (reply.status, reply.json()["code"]) == (404, "not_found")


def test_a_key_of_one_feature_speaks_for_no_other(site: Site) -> None:
    key = site.key("caller", features=("coder",)).secret
    said = {"kind": "label", "value": 1}
    reply = say(site, key, interaction_id="call_000003", **said)
    assert (reply.status, reply.json()["code"]) == (403, "feature_not_allowed")
    assert say(site, key, interaction_id="call_000200", **said).status == 201
    assert say(site, None, interaction_id="call_000200", **said).status == 401


# -- baselines --


def test_an_operator_calls_a_level_normal_and_takes_it_back(
    site: Site, operator: str, viewer: str
) -> None:
    body = {"feature": "support", "signal": "correct", "since": 1_000, "note": "new prompt"}
    reply = site.request("POST", "/api/baselines", key=operator, json_body=body)
    assert reply.status == 201, reply.body
    (row,) = get(site, "/api/baselines", viewer)["rows"]
    assert row == reply.json()
    assert (row["since"], row["note"], row["by"][:10]) == (1_000, "new prompt", "a operator")
    assert get(site, "/api/signals/support/correct", viewer)["accepted_since"] == 1_000
    path = "/api/baselines/support/correct"
    assert site.request("DELETE", path, key=operator).status == 200
    assert site.request("DELETE", path, key=operator).status == 404
    assert get(site, "/api/signals/support/correct", viewer)["accepted_since"] is None
    audit = [(row.action, row.target) for row in site.store.audit(limit=2)]
    assert audit == [
        ("baseline.forget", "support/correct"),
        ("baseline.accept", "support/correct"),
    ]


def test_a_level_of_no_signal_cannot_be_normal(site: Site, operator: str, viewer: str) -> None:
    body = {"feature": "support", "signal": "nonsense"}
    assert site.request("POST", "/api/baselines", key=operator, json_body=body).status == 404
    body["signal"] = "correct"
    assert site.request("POST", "/api/baselines", key=viewer, json_body=body).status == 403


# -- metrics --


def gauges(metrics: Metrics) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
        if sample.name.startswith(("tocsin_signal", "tocsin_alerts"))
    }


def test_the_last_hour_of_each_signal_and_what_fires_are_metrics(site: Site) -> None:
    site.store.raise_alerts(
        [
            Alert(
                fingerprint=f"f{n}",
                detector="drift",
                feature="support",
                severity="warning",
                state="firing",
                at=1,
                summary="x",
            )
            for n in range(2)
        ]
    )
    metrics = Metrics()
    read = SignalGauges(site.store, lambda: CATALOGUE, site.clock)
    read.add_to(metrics)
    read.refresh()
    found = gauges(metrics)
    assert found["tocsin_signal_mean", "support", "correct"] == 0.9
    assert found["tocsin_signal_judged", "support", "correct"] == 40
    assert found["tocsin_signal_unjudged", "support", "rating"] == 40
    assert ("tocsin_signal_mean", "support", "rating") not in found
    assert found["tocsin_alerts_firing", "drift", "support", "warning"] == 2


def test_a_scrape_waits_for_nobody_and_the_next_one_knows_more(site: Site) -> None:
    clock = Clock()

    class Slow:
        def signal_points(self, **more: Any) -> Any:
            time.sleep(0.3)
            return site.store.signal_points(**more)

        def alerts(self, **more: Any) -> Any:
            return site.store.alerts(**more)

    metrics = Metrics()
    SignalGauges(Slow(), lambda: CATALOGUE, clock).add_to(metrics)  # type: ignore[arg-type]
    metrics.render()
    started = time.perf_counter()
    assert gauges(metrics) == {}
    assert time.perf_counter() - started < 0.25
    time.sleep(0.6)
    assert ("tocsin_signal_mean", "support", "correct") in gauges(metrics)
    clock.advance(FRESH_US / 1e6 + 1)
    assert ("tocsin_signal_mean", "support", "correct") in gauges(metrics), "the old one, at once"


def test_features_without_end_are_one_label(site: Site) -> None:
    metrics = Metrics()
    for n in range(MAX_VALUES):
        metrics.bound_feature(f"other{n}")
    read = SignalGauges(site.store, lambda: CATALOGUE, site.clock)
    read.add_to(metrics)
    read.refresh()
    found = gauges(metrics)
    assert found["tocsin_signal_judged", "other", "correct"] == 43
    assert found["tocsin_signal_mean", "other", "correct"] == pytest.approx(39 / 43)


def test_where_calls_need_no_key_feedback_needs_none_but_no_other_site_may_give_it(
    tmp_path: Path,
) -> None:
    with running(tmp_path, require_key=False) as open_site:
        open_site.store.append([entry(1, started_at=open_site.clock.now_us())])
        said = {"interaction_id": "call_000001", "kind": "label", "value": 1}
        assert say(open_site, None, **said).status == 201
        (row,) = open_site.store.feedback("call_000001")
        assert row.by == "user"
        foreign = open_site.request(
            "POST",
            "/api/feedback",
            headers={"origin": "https://elsewhere.example"},
            json_body=said,
        )
        assert foreign.status in (401, 403)
