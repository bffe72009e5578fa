"""What a successful task costs: on the pages, from the commands, by the admin API and metrics."""

import json
import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acceptance.tocsin_command import SCRIPTED, json_of, output_of, serving, tocsin
from dashboard_site import Site, running
from dashboard_world import NOW
from store_world import DAY, SECOND, entry
from tocsin.config.model import StoreSettings
from tocsin.core.clock import SystemClock
from tocsin.core.interaction import Entry
from tocsin.core.score import Feedback
from tocsin.domains.signals.service import ServiceEvaluator
from tocsin.store import Store, open_store
from tocsin.worker.evaluating import Evaluating, catalogue_of

SIGNAL = "cost_per_success_usd"
CENT = 10_000_000
Task = tuple[Entry, bool]


def tasks(now: int) -> list[Task]:
    """Ten days of runs of one call. Each costs a cent or so, whatever comes of it: since two days
    ago `coder` succeeds half as often, on its new release."""
    found = [_task(n, "coder", now - (800 - n) * 10 * DAY // 800, now) for n in range(800)]
    found += [_task(900 + n, "planner", now - (8 - n) * 600 * SECOND, now, wins=0)
              for n in range(8)]  # fmt: skip
    return found + [_task(1000 + n, "tutor", now - (20 - n) * DAY // 2, now) for n in range(20)]


def _task(number: int, feature: str, at: int, now: int, wins: int = 4) -> Task:
    new = feature == "coder" and now - at < 2 * DAY
    made = entry(
        number,
        feature=feature,
        started_at=at - SECOND,
        release="41" if new else "40",
        cost_nano_usd=CENT + number % 7 * CENT // 10,
    )
    return made, number % 5 < (wins // 2 if new else wins)


def fill(store: Store, found: list[Task]) -> None:
    store.append([one for one, _ in found])
    for number, (one, won) in enumerate(found):
        store.add_feedback(
            Feedback(id=f"fb{number}", interaction_id=one.interaction.id, kind="label",
                     value=float(won), at=one.interaction.started_at + SECOND)
        )  # fmt: skip


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A folder whose labels a running Tocsin has turned into scores; what it served."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "tocsin.toml").write_text(SCRIPTED)
    (folder / ".tocsin").mkdir()
    store = open_store(StoreSettings(), folder / ".tocsin", SystemClock())
    fill(store, tasks(SystemClock().now_us()))
    store.close()
    key = json_of("keys", "issue", "reader", "--role", "viewer", folder=folder)["secret"]
    with serving(folder) as server:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            time.sleep(0.3)
            rows = _api(server.base, "/api/signals?since=0", key)["rows"]
            counts = {r["feature"]: r["calls"] for r in rows if r["signal"] == "task_cost_usd"}
            if sum(counts.values()) == 828:
                break
        api = json.dumps(_api(server.base, "/api/signals?since=0", key))
        slices = json.dumps(
            _api(server.base, f"/api/slices/coder/{SIGNAL}?since=0&dimension=release", key)
        )
    return folder, api, slices


def _api(base: str, path: str, key: str) -> Any:
    request = urllib.request.Request(base + path, headers={"authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def test_the_command_says_that_successes_became_dearer_and_for_whom(
    told: tuple[Path, str, str],
) -> None:
    found = json_of(
        "signals", "--since", "2d", "--feature", "coder", "--signal", SIGNAL, "--slice", "release",
        folder=told[0],
    )["signals"]  # fmt: skip
    one = next(row for row in found if row["slice"] is None)
    assert one["verdict"] == "worse"
    assert one["before"]["value"] == pytest.approx(0.013 / 0.8, rel=0.03)
    assert one["value"]["value"] > 1.5 * one["before"]["value"]
    assert one["value"]["low"] < one["value"]["value"] < one["value"]["high"]
    dear = next(row for row in found if row["slice"] == "41")
    assert dear["value"]["value"] == pytest.approx(0.013 / 0.4, rel=0.05)


def test_the_command_says_what_is_not_known_and_how_much_is_missing(
    told: tuple[Path, str, str],
) -> None:
    shown = output_of("signals", "--since", "1d", "--feature", "planner", folder=told[0])
    line = next(row for row in shown.splitlines() if SIGNAL in row)
    assert "unknown" in line
    assert "no success in 8 tasks" in " ".join(shown.split())
    found = json_of(
        "signals", "--since", "4d", "--feature", "tutor", "--signal", SIGNAL, folder=told[0]
    )["signals"]  # fmt: skip
    (one,) = found
    assert (one["verdict"], one["calls"]) == ("underpowered", 6)
    assert one["needed"] > 100
    shown = output_of("signals", "--since", "4d", "--feature", "tutor", folder=told[0])
    assert "underpowered" in shown


def test_the_catalogue_names_it(told: tuple[Path, str, str]) -> None:
    listed = {row["name"]: row for row in json_of("signals", "--list", folder=told[0])["signals"]}
    assert (listed[SIGNAL]["better"], listed[SIGNAL]["unit"]) == ("down", "usd")
    assert "the failed ones too" in listed[SIGNAL]["description"]
    assert listed["task_cost_usd"]["axis"] == "service"


def test_the_admin_api_has_it_whole_and_by_slice(told: tuple[Path, str, str]) -> None:
    api = json.loads(told[1])
    assert SIGNAL in {signal["name"] for signal in api["signals"]}
    rows = {row["feature"]: row for row in api["rows"] if row["signal"] == SIGNAL}
    assert rows["coder"]["low"] < rows["coder"]["value"] < rows["coder"]["high"]
    assert (rows["planner"]["value"], rows["planner"]["calls"]) == (None, 0)
    assert rows["tutor"]["calls"] == 16
    slices = {row["slice"]: row for row in json.loads(told[2])["rows"]}
    assert set(slices) == {"40", "41"}
    assert slices["41"]["low"] > slices["40"]["high"]


def test_an_objective_is_on_the_cost_of_a_task_and_not_on_the_ratio(tmp_path: Path) -> None:
    text = '[objectives.dear]\nfeature = "coder"\ntarget = 0.95\nat_most = 0.02\nsignal = "{}"\n'
    (tmp_path / "tocsin.toml").write_text(SCRIPTED + text.format(SIGNAL))
    done = tocsin("check", folder=tmp_path)
    assert done.returncode == 2
    assert "no single one is good or bad by it; take `task_cost_usd`" in " ".join(
        done.stderr.split()
    )
    (tmp_path / "tocsin.toml").write_text(SCRIPTED + text.format("task_cost_usd"))
    assert tocsin("check", folder=tmp_path).returncode == 0


# -- pages --


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    evaluators = (ServiceEvaluator(),)
    with running(tmp_path_factory.mktemp("pages"), []) as found:
        fill(found.store, tasks(NOW))
        found.catalogue = catalogue_of(evaluators)
        scoring = Evaluating(found.store, evaluators, found.catalogue, catch_up=True)
        while scoring.step():
            pass
        yield found


def test_the_signals_page_shows_value_interval_slices_and_dear_examples(site: Site) -> None:
    page = site.get(f"/signals/coder/{SIGNAL}?range=24h")
    assert page.status == 200
    assert "Successful tasks" in page.text
    assert "fewer than 20 successful tasks" in page.text
    assert "udged calls" not in page.text
    assert "<svg" not in site.get(f"/signals/planner/{SIGNAL}?range=24h").text.split("<main")[1]
    found = json.loads(site.get(f"/signals/coder/{SIGNAL}/json?range=24h").text)
    assert found["comparison"]["verdict"] == "worse"
    assert 20 < found["judged"] == found["value"]["n"] < 40
    assert "Cost of a task: $0.016" in " ".join(re.sub(r"<[^>]+>", " ", page.text).split())
    assert f"{found['judged']} successful tasks" in page.text
    assert "Cost per successful task in" in page.text
    assert "<svg" in page.text
    shown = [one for pair in found["examples"] for one in pair.values() if one]
    costs = {one.interaction.id: one.interaction.cost_nano_usd for one, _ in tasks(NOW)}
    assert shown
    assert max(costs.values()) in {costs[one] for one in shown}
    markdown = site.get(f"/signals/coder/{SIGNAL}/markdown?range=24h").text
    assert "worse" in markdown
    week = json.loads(site.get(f"/signals/coder/{SIGNAL}/json?range=7d").text)
    by_release = {row["value"]: row for row in week["slices"]["release"]}
    assert by_release["41"]["against_rest"]["verdict"] == "worse"


def test_the_page_says_why_there_is_no_value(site: Site) -> None:
    page = site.get(f"/signals/planner/{SIGNAL}?range=24h")
    assert "8 labelled tasks, of which none succeeded" in page.text
    assert "no success in 8 tasks" in site.get("/signals/planner?range=24h").text
    assert site.get(f"/signals/nobody/{SIGNAL}").status == 200
    few = site.get(f"/signals/tutor/{SIGNAL}?range=7d").text
    assert re.search(r"underpowered: \d+ more needed", few)
    none = site.get(f"/signals/tutor/{SIGNAL}?since=2026-03-03&until=2026-03-12T14:00Z").text
    assert re.search(r"too few in the \d+ days before: underpowered: \d+ more needed", none)


def test_the_feature_and_comparison_pages_have_it(site: Site) -> None:
    feature = site.get("/signals/coder?range=24h").text
    assert "Cost per successful task" in feature
    compared = site.get("/compare?feature=coder&range=7d&a=release%3D40&b=release%3D41").text
    assert "Cost per successful task" in compared
    found = json.loads(
        site.get("/compare/json?feature=coder&range=7d&a=release%3D40&b=release%3D41").text
    )
    assert SIGNAL in json.dumps(found)
    assert "task_cost_usd_succeeded" not in json.dumps(found)


def test_a_short_range_is_read_in_steps_of_five_minutes_and_adds_up(site: Site) -> None:
    found = json.loads(site.get(f"/signals/planner/{SIGNAL}/json?range=1h").text)
    assert (found["judged"], found["value"]) == (0, None)
    page = site.get(f"/signals/planner/{SIGNAL}?range=1h").text
    assert re.search(r"\d labelled tasks, of which none succeeded; 5 are needed", page)
