"""The supervisor's pages in a real browser: find a run that gets nowhere, see why, hold or end it.

Runs are recorded, judged by the real engine and stopped by the real switchboard; only the clock is
ours.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from dashboard_runs import (
    accounts,
    alerts,
    failing_loop,
    hostile_loop,
    listing_loop,
    supervise,
    two_agents,
    working_run,
)
from dashboard_site import Site, running
from dashboard_tab import Tab, violations
from dashboard_world import NOW, SECOND
from tocsin.core.ids import derived_id
from tocsin.core.stops import Stop
from tocsin.core.supervision import Supervision

pytestmark = pytest.mark.browser

MINUTE = 60 * SECOND
LISTING = derived_id("run", "supervised", "listing")
FAILING = derived_id("run", "supervised", "failing")
AGENTS = derived_id("run", "supervised", "analyzer")
EVIL = derived_id("run", "supervised", "hostile")
FORM = {"csrf": "form-token"}
SAME = {"sec_fetch_site": "same-origin"}


def fill(site: Site) -> None:
    """Everything that the pages of supervision can show."""
    watched = [*listing_loop(), *failing_loop(), *hostile_loop()]
    supervise(site.store, watched)
    supervise(site.store, two_agents(), "enforce")
    supervise(site.store, working_run("mia", "support-agent", 8, NOW - 6 * MINUTE))
    site.store.raise_alerts(alerts())
    site.accounts = accounts()
    site.supervision = (
        ("", Supervision(nudge="enforce", pause="observe", kill="off")),
        ("code-agent", Supervision(nudge="enforce", pause="enforce", wait_s=30)),
    )


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    entries = [*listing_loop(), *failing_loop(), *two_agents(), *hostile_loop()]
    entries += working_run("mia", "support-agent", 8, NOW - 6 * MINUTE)
    with running(tmp_path, entries) as found:
        fill(found)
        yield found


def standing(site: Site, run_id: str) -> list[Stop]:
    return site.store.stops(standing=True, scope="run", value=run_id)


# -- finding --


def test_runs_are_ranked_by_tokens_since_something_new(tab: Tab) -> None:
    page = tab.open("/supervisor")
    watched = tab.site.store.watches(since=NOW - 30 * MINUTE)
    ranked = sorted(watched, key=lambda watch: -watch.tokens_since_new)
    shown = page.locator("#runs-title ~ .scroll a.open").all()
    assert [link.get_attribute("href") for link in shown] == [
        f"/runs/{watch.run_id}{'#evidence' if watch.stage else ''}" for watch in ranked
    ]
    assert ranked[0].stage is not None


def test_a_run_that_gets_on_is_not_flagged(tab: Tab) -> None:
    page = tab.open("/supervisor")
    row = page.locator("tbody", has_text="Summarise the handbook for mia")
    assert "No repetition found" in row.inner_text()
    assert row.locator(".outcome").count() == 0


def test_the_evidence_stands_side_by_side_with_its_differences_marked(tab: Tab) -> None:
    page = tab.open("/supervisor")
    page.get_by_role("link", name="Find where the VAT rate").first.click()
    page.wait_for_url("**/runs/*#evidence")
    pair = page.locator(".pair:visible").first
    sides = [box for side in pair.locator(".side").all() if (box := side.bounding_box())]
    assert len(sides) == 2
    assert sides[0]["y"] == sides[1]["y"]
    assert sides[0]["x"] < sides[1]["x"]
    assert "bash" in pair.inner_text()
    assert pair.locator("mark").count() >= 1
    assert "ls" not in pair.locator("mark").all_inner_texts()
    pair.get_by_role("link", name="Step").last.click()
    page.wait_for_url("**#step-*")


def test_the_strip_reads_the_run_call_by_call(tab: Tab) -> None:
    page = tab.open(f"/runs/{LISTING}")
    strip = page.locator(".lanes figure.chart")
    strip.focus()
    page.keyboard.press("ArrowRight")
    said = strip.locator(".readout").inner_text()
    assert said.startswith("Step 1 ·")
    assert "since new" in said
    assert strip.locator(".stage-mark").count() >= 1


# -- acting --


def test_a_run_is_paused_and_resumed_from_the_page(tab: Tab) -> None:
    page = tab.open("/supervisor")
    row = page.locator("#runs-title ~ .scroll tbody", has_text="Find where the VAT rate")
    row.get_by_role("button", name="Pause").click()
    page.wait_for_url("**/supervisor")
    (stop,) = standing(tab.site, LISTING)
    assert (stop.action, stop.by, stop.feature) == ("pause", "laptop", "code-agent")
    assert stop.evidence
    assert "paused" in row.inner_text()
    listed = page.locator("#stops ~ .scroll tbody", has_text="Find where the VAT rate")
    listed.get_by_role("button", name="Resume").click()
    page.wait_for_url("**/supervisor")
    assert standing(tab.site, LISTING) == []
    assert page.locator("#stops").count() == 0
    assert [row.action for row in tab.site.store.audit()] == ["stop.resumed", "stop.pause"]


def test_a_kill_names_what_it_touches_and_wants_a_reason(tab: Tab) -> None:
    tab.site.in_flight = 3
    page = tab.open(f"/runs/{LISTING}")
    page.get_by_role("link", name="Kill…").click()
    page.wait_for_url("**/supervisor/confirm?do=kill*")
    assert "3 calls" in page.locator(".blast").inner_text()
    assert page.locator(".pair").first.is_visible()
    page.get_by_role("button", name="Kill this run").click()
    assert standing(tab.site, LISTING) == []
    page.get_by_label("Reason").fill("It lists the same folder.")
    page.get_by_role("button", name="Kill this run").click()
    page.wait_for_url(f"**/runs/{LISTING}")
    (stop,) = standing(tab.site, LISTING)
    assert (stop.action, stop.reason) == ("kill", "It lists the same folder.")
    assert "killed" in page.locator(".banner.held").inner_text()


def test_a_run_is_redirected_with_a_note_to_the_model(tab: Tab) -> None:
    page = tab.open("/supervisor")
    row = page.locator("#runs-title ~ .scroll tbody", has_text="I need to move my booking")
    row.get_by_role("link", name="Redirect…").click()
    page.get_by_label("Note to the model").fill("Sign in again before you search.")
    page.get_by_role("button", name="Redirect this run").click()
    page.wait_for_url("**/supervisor")
    (stop,) = tab.site.store.stops(scope="run", value=FAILING)
    assert (stop.ending, stop.note) == ("redirected", "Sign in again before you search.")


def test_a_run_that_is_ended_stays_so(tab: Tab) -> None:
    page = tab.open(f"/runs/{FAILING}")
    page.get_by_role("link", name="End…").click()
    page.get_by_role("button", name="End this run").click()
    page.wait_for_url(f"**/runs/{FAILING}")
    (stop,) = standing(tab.site, FAILING)
    assert stop.ending == "ended"
    assert "ended for good" in page.locator(".banner.held").inner_text()
    assert page.locator(".orders").count() == 0


def test_everything_is_stopped_by_keyboard_and_the_overview_says_so(tab: Tab) -> None:
    tab.site.in_flight = 12
    page = tab.open("/supervisor")
    page.get_by_label("What", exact=True).select_option("all:")
    page.locator(".panic button.stop").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/supervisor/confirm?*")
    assert "12 calls" in page.locator(".blast").inner_text()
    page.get_by_label("Reason").fill("Runaway spend")
    page.get_by_role("button", name="Kill everything").press("Enter")
    page.wait_for_url("**/supervisor")
    assert "Everything" in page.locator("#stops ~ .scroll").inner_text()
    banner = tab.open("/?range=24h").locator(".banner")
    assert "Runaway spend" in banner.inner_text()
    assert "held" in tab.open(f"/runs/{LISTING}").locator(".banner").get_attribute("class")  # type: ignore[operator]


def test_a_feature_is_paused_with_a_number_of_the_calls_it_made(tab: Tab) -> None:
    page = tab.open("/supervisor")
    page.get_by_label("What", exact=True).select_option("feature:code-agent")
    page.locator(".panic").get_by_role("button", name="Pause…").click()
    blast = page.locator(".blast").inner_text()
    assert "unknown" in blast
    assert "0 calls" in blast
    page.get_by_role("button", name="Pause the feature “code-agent”").click()
    page.wait_for_url("**/supervisor")
    (stop,) = tab.site.store.stops(standing=True, scope="feature")
    assert stop.value == "code-agent"


def test_a_viewer_sees_everything_and_may_order_nothing(tab: Tab) -> None:
    tab.site.role = "viewer"
    page = tab.open("/supervisor")
    assert page.locator("#runs-title").is_visible()
    assert page.locator(".orders, .panic").count() == 0
    assert tab.open(f"/runs/{LISTING}").locator(".orders").count() == 0
    order = {**FORM, "do": "pause", "target": f"run:{LISTING}"}
    assert tab.site.post("/supervisor/act", order, **SAME).status == 403
    assert tab.site.get("/supervisor/confirm?do=kill&target=all:").status == 403
    assert standing(tab.site, LISTING) == []


def test_an_order_from_another_site_or_without_its_token_is_refused(site: Site) -> None:
    order = {"do": "kill", "target": "all:", "note": "x"}
    assert site.post("/supervisor/act", order, **SAME).status == 403
    elsewhere = site.post("/supervisor/act", {**FORM, **order}, sec_fetch_site="cross-site")
    assert elsewhere.status == 403
    assert site.store.stops() == []


def test_an_order_that_came_too_late_says_so(site: Site) -> None:
    answer = site.post(
        "/supervisor/act", {**FORM, "do": "resume", "target": f"run:{LISTING}"}, **SAME
    )
    assert answer.status == 409
    assert "Nothing holds this run any more." in answer.text


@pytest.mark.parametrize(
    ("order", "status"),
    [
        ({"do": "pause", "target": "run:nowhere"}, 404),
        ({"do": "pause", "target": "key:nobody"}, 404),
        ({"do": "pause", "target": ""}, 400),
        ({"do": "explode", "target": "all:"}, 400),
        ({"do": "end", "target": "all:"}, 400),
        ({"do": "kill", "target": "all:"}, 400),
    ],
)
def test_an_order_that_makes_no_sense_changes_nothing(
    site: Site, order: dict[str, str], status: int
) -> None:
    assert site.post("/supervisor/act", {**FORM, **order}, **SAME).status == status
    assert site.store.stops() == []


# -- the other pages --


def test_budgets_stand_nearest_to_their_limit_first_and_explain_themselves(tab: Tab) -> None:
    page = tab.open("/spend")
    table = page.locator("table.budgets")
    first = table.locator("tbody").first.inner_text()
    assert "Find where the VAT rate" in first
    assert "$0" in first
    day = table.locator("tbody", has_text="Europe/Berlin").inner_text()
    assert "$2.10 uncertain" in day
    assert "$0.40 estimated" in day
    assert "counted in full" in page.locator("#live-budgets").inner_text()


def test_budgets_renew_themselves(tab: Tab) -> None:
    page = tab.page
    page.clock.install(time=NOW / 1_000_000)
    tab.open("/spend")
    tab.site.accounts = tab.site.accounts[:1]
    page.clock.run_for(6000)
    expect(page.locator("table.budgets tbody")).to_have_count(1)


def test_the_list_of_runs_renews_itself(tab: Tab) -> None:
    page = tab.page
    page.clock.install(time=NOW / 1_000_000)
    tab.open("/supervisor")
    rows = page.locator("#runs-title ~ .scroll tbody")
    before = rows.count()
    fresh = working_run("omar", "support-agent", 4, NOW - 2 * MINUTE)
    tab.site.store.append(fresh)
    supervise(tab.site.store, fresh)
    page.clock.run_for(6000)
    expect(rows).to_have_count(before + 1)


def test_settings_show_stages_and_limits(tab: Tab) -> None:
    page = tab.open("/settings")
    stages = page.locator("#stages ~ .scroll").first.inner_text()
    assert "code-agent" in stages
    assert "enforce" in stages
    limits = page.locator("#limits ~ .scroll").first.inner_text()
    assert "$5.00, 200 calls, child runs at most 3 deep" in limits


def test_nothing_to_worry_about_is_quiet(context: BrowserContext, tmp_path: Path) -> None:
    entries = working_run("mia", "support-agent", 4, NOW - 3 * MINUTE)
    with running(tmp_path, entries) as calm:
        tab = Tab(context, calm)
        assert tab.open("/?range=24h").locator(".banner").count() == 0
        page = tab.open("/supervisor")
        assert "[agents]" in page.locator("#snippet").inner_text()
        assert "usd = 50" in tab.open("/spend").locator("#limit-snippet").inner_text()


def test_hostile_runs_break_no_page(tab: Tab) -> None:
    tab.page.on("dialog", lambda dialog: tab.complaints.append(dialog.message))
    ways = ("/supervisor", f"/runs/{EVIL}", f"/supervisor/confirm?do=kill&target=run:{EVIL}", "/")
    for path in ways:
        page = tab.open(path)
        for fold in page.locator("details").all():
            fold.evaluate("e => { e.open = true; }")
        assert page.locator("main script, main img, main iframe").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, path


EVERY_PAGE = (
    "/supervisor",
    "/supervisor?span=24h",
    f"/runs/{LISTING}",
    f"/runs/{AGENTS}",
    f"/supervisor/confirm?do=kill&target=run:{LISTING}",
    "/supervisor/confirm?do=kill&target=all:",
    f"/supervisor/confirm?do=redirect&target=run:{LISTING}",
    "/spend",
    "/?range=24h",
    "/settings",
)


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "light"), (1440, "dark")])
def test_axe_finds_nothing_and_nothing_is_too_wide(
    browser: Browser, site: Site, axe: str, scheme: Any, width: int
) -> None:
    for scope, value in (("run", AGENTS), ("feature", "search-rerank")):
        site.store.add_stop(
            Stop(
                id=f"stop_{scope}",
                scope=scope,  # type: ignore[arg-type]
                value=value,
                action="pause",
                reason="It goes in circles.",
                by="policy:agents",
                at=NOW - MINUTE,
            )
        )
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    tab = Tab(context, site)
    found: dict[str, list[str]] = {}
    for path in EVERY_PAGE:
        page = tab.open(path)
        if bad := violations(page, axe):
            found[path] = bad
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, path
    context.close()
    assert found == {}


def test_without_script_a_run_is_killed_all_the_same(browser: Browser, site: Site) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site.url}/runs/{LISTING}")
    page.get_by_role("link", name="Kill…").click()
    page.get_by_label("Reason").fill("Enough.")
    page.get_by_role("button", name="Kill this run").click()
    assert "killed" in page.locator(".banner").inner_text()
    context.close()
