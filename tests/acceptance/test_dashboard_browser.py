"""The pages in a real browser: keyboard, brushing, live rows, themes, copies, accessibility."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from dashboard_site import SECRET, Site, running
from dashboard_tab import Tab, violations
from dashboard_world import HOUR, NOW, hostile_run, long_run, tool_run, world
from tocsin.core.ids import derived_id

pytestmark = pytest.mark.browser

LONG = derived_id("run", "long", "450")
EVIL = derived_id("run", "hostile")
LOOP = derived_id("run", "support-agent", "9001")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    entries = [*world(120), *hostile_run(), *long_run(450)]
    entries += tool_run(9001, NOW - 2 * HOUR, calls=6, loop=True)
    with running(tmp_path_factory.mktemp("site"), entries) as found:
        yield found


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory.mktemp("none"), []) as found:
        yield found


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    made = browser.new_context(
        viewport={"width": 1440, "height": 900},
        timezone_id="Europe/Berlin",
        permissions=["clipboard-read", "clipboard-write"],
    )
    yield made
    made.close()


def url(page: Page) -> str:
    return page.url.partition("://")[2].partition("/")[2]


# -- keyboard --


def test_a_run_is_found_and_read_by_keyboard_alone(tab: Tab) -> None:
    page = tab.open("/")
    page.keyboard.press("g")
    page.keyboard.press("r")
    page.wait_for_url("**/runs")
    page.keyboard.press("/")
    page.keyboard.type("parental leave")
    page.keyboard.press("Enter")
    page.wait_for_url("**text=parental*")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert page.locator("tr.at").count() == 1
    page.keyboard.press("Enter")
    page.wait_for_url("**/runs/run_*")
    assert "parental leave" in page.locator("h1").inner_text()
    page.go_back()
    assert "text=parental" in page.url


def test_help_opens_and_closes_by_key(tab: Tab) -> None:
    page = tab.open("/runs")
    assert page.locator("#help").is_hidden()
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#help").is_hidden()


def test_keys_typed_into_a_field_are_text(tab: Tab) -> None:
    page = tab.open("/runs")
    page.locator("[data-search]").focus()
    page.keyboard.type("g?jk")
    assert page.locator("[data-search]").input_value() == "g?jk"
    assert page.locator("#help").is_hidden()


def test_the_first_tab_stop_skips_to_the_content(tab: Tab) -> None:
    page = tab.open("/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_a_chart_is_read_with_the_arrow_keys(tab: Tab) -> None:
    page = tab.open("/?range=24h")
    chart = page.locator("figure.chart").first
    chart.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert "ended badly" in chart.locator(".readout").inner_text()
    assert "call" in page.locator("#said").inner_text()


# -- charts --


def test_dragging_over_a_chart_sets_the_range_for_all_of_the_page(tab: Tab) -> None:
    page = tab.open("/?range=24h&feature=support-agent")
    box = page.locator("figure.chart svg.plot").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 60, steps=5)
    assert page.locator(".brush:visible").count() == 1
    page.mouse.up()
    page.wait_for_url("**since=*")
    assert "feature=support-agent" in page.url
    assert "range=" not in page.url
    assert page.locator(".range .custom").is_visible()


def test_the_crosshair_stands_in_every_chart_at_the_same_time(tab: Tab) -> None:
    page = tab.open("/?range=24h")
    box = page.locator("figure.chart svg.plot").nth(1).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + 50)
    crosses = page.locator(".cross:visible")
    assert crosses.count() == page.locator("figure.chart").count() >= 3
    places = {round(b["x"]) for b in (c.bounding_box() for c in crosses.all()) if b}
    assert len(places) == 1


def test_a_click_on_a_step_shows_its_calls(tab: Tab) -> None:
    page = tab.open("/?range=24h")
    box = page.locator("figure.chart svg.plot").first.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 0.6, box["y"] + 80)
    page.wait_for_url("**/calls?*since=*until=*")


def test_times_and_ticks_are_in_the_readers_zone(tab: Tab) -> None:
    page = tab.open("/?range=24h")
    assert "Europe/Berlin, UTC+1" in page.locator(".zone").inner_text()
    ticks = page.locator("figure.chart").first.locator(".tick").all_text_contents()
    assert "12 Mar" in ticks  # midnight in Berlin, 23:00 UTC
    page = tab.open("/runs")
    assert page.locator("td time").first.get_attribute("title", timeout=1000).endswith("UTC+1")  # type: ignore[union-attr]


# -- live --


def test_new_runs_wait_behind_a_pill_and_move_nothing(tab: Tab) -> None:
    page = tab.page
    page.clock.install(time=NOW / 1_000_000)
    tab.open("/runs")
    before = page.locator("table.rows tbody").inner_text()
    tab.site.store.append(tool_run(9100, NOW + 60_000_000, calls=1, ask="A brand new run."))
    page.clock.run_for(6000)
    pill = page.locator("[data-poll]")
    pill.wait_for(state="visible")
    assert pill.inner_text() == "1 new"
    assert page.locator("table.rows tbody").inner_text() == before
    pill.click()
    page.wait_for_load_state()
    assert "A brand new run." in page.locator("table.rows tbody tr").first.inner_text()


def test_the_overview_renews_itself_unless_somebody_points_at_it(tab: Tab) -> None:
    page = tab.page
    page.clock.install(time=NOW / 1_000_000)
    tab.open("/?range=all")
    calls = page.locator(".totals dd").first
    before = int(calls.inner_text().replace(",", ""))
    tab.site.store.append(tool_run(9200, NOW - HOUR, calls=2))
    page.locator(".totals").hover()
    page.clock.run_for(16_000)
    assert int(calls.inner_text().replace(",", "")) == before
    page.mouse.move(2, 400)
    page.clock.run_for(16_000)
    expect(calls).to_have_text(f"{before + 2:,}")


# -- theme, copies, forms --


def test_a_chosen_theme_stays_and_auto_follows_the_system(tab: Tab) -> None:
    page = tab.open("/")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Dark").click()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark != light
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark
    page.get_by_role("button", name="Auto").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == light
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark


def test_a_run_is_copied_as_markdown(tab: Tab) -> None:
    page = tab.open(f"/runs/{LOOP}")
    page.get_by_text("Markdown", exact=True).click()
    page.get_by_text("Copied", exact=True).wait_for()
    assert page.evaluate("navigator.clipboard.readText()").startswith("# I need to move")


def test_a_call_is_copied_as_curl(tab: Tab) -> None:
    page = tab.open(f"/calls/{derived_id('call', LOOP, '1')}")
    page.get_by_text("curl", exact=True).click()
    page.get_by_text("Copied", exact=True).wait_for()
    assert "$OPENAI_API_KEY" in page.evaluate("navigator.clipboard.readText()")


def test_a_key_is_issued_in_the_page(tab: Tab) -> None:
    page = tab.open("/settings")
    page.get_by_label("Name").fill("ci")
    page.get_by_role("button", name="Issue key").click()
    assert page.locator("#secret").inner_text() == SECRET
    page.get_by_role("button", name="Copy").click()
    page.get_by_text("Copied", exact=True).wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == SECRET


def test_revoking_asks_first(tab: Tab) -> None:
    page = tab.open("/settings")
    said: list[str] = []
    page.once("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.get_by_role("button", name="Revoke").first.click()
    assert "Revoke laptop?" in said[0]
    assert tab.site.revoked == []


# -- a run --


def test_repeats_are_marked_and_lead_to_what_they_repeat(tab: Tab) -> None:
    page = tab.open(f"/runs/{LOOP}")
    mark = page.get_by_text("repeats step 1").first
    mark.click()
    assert page.url.endswith("#step-1")


def test_the_waterfall_follows_the_conversation(tab: Tab) -> None:
    page = tab.open(f"/runs/{LONG}")
    page.locator("#step-60").evaluate("e => e.scrollIntoView()")
    expect(page.locator(".wf tr.at")).to_have_attribute("data-step-row", re.compile("59|60"))
    row = page.locator(".wf tr.at").bounding_box()
    lanes = page.locator(".wf-scroll").bounding_box()
    assert row is not None
    assert lanes is not None
    assert lanes["y"] <= row["y"] <= lanes["y"] + lanes["height"]


def test_a_long_run_is_paged_by_key_and_by_number(tab: Tab) -> None:
    page = tab.open(f"/runs/{LONG}")
    page.keyboard.press("n")
    page.wait_for_url("**offset=100")
    page.get_by_label("Go to step").first.fill("437")
    page.keyboard.press("Enter")
    page.wait_for_url("**offset=400#step-437")
    assert page.locator("#step-437").is_visible()


def test_without_script_everything_can_be_read_filtered_and_paged(
    browser: Browser, site: Site
) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site.url}/runs")
    page.get_by_label("Feature", exact=True).select_option("support-agent")
    page.get_by_role("button", name="Filter").click()
    assert "feature=support-agent" in page.url
    page.get_by_role("link", name="Cost").click()
    assert "sort=cost" in page.url
    page.locator("a.open").first.click()
    assert page.locator("article.step").count() > 0
    assert page.locator(".wf .bar rect").count() > 0
    assert page.locator(".js-only:visible").count() == 0
    page.goto(f"{site.url}/settings")
    page.get_by_label("Name").fill("ci")
    page.get_by_role("button", name="Issue key").click()
    assert page.get_by_text(SECRET).is_visible()
    context.close()


# -- hostile content, widths, accessibility --

EVERY_PAGE = (
    "/",
    "/?feature=support-agent",
    "/runs",
    "/calls?outcome=bad",
    f"/runs/{LOOP}",
    f"/runs/{LONG}?offset=200",
    f"/runs/{EVIL}",
    f"/calls/{derived_id('call', EVIL, '0')}",
    f"/calls/{derived_id('call', LOOP, '2')}?messages=all",
    "/supervisor",
    "/spend?by=model",
    "/settings",
    "/nowhere",
    "/login",
)


def test_hostile_content_runs_nothing_and_asks_nobody(tab: Tab) -> None:
    asked: list[str] = []
    tab.page.on("request", lambda request: asked.append(request.url))
    tab.page.on("dialog", lambda dialog: tab.complaints.append(dialog.message))
    for path in (f"/runs/{EVIL}", f"/calls/{derived_id('call', EVIL, '0')}", "/", "/runs"):
        page = tab.open(path)
        for fold in page.locator("details").all():
            fold.evaluate("e => { e.open = true; }")
        assert (
            page.evaluate("document.querySelectorAll('main script, main img, main iframe').length")
            == 0
        )
        over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert over <= 0, path
    assert all(address.startswith(tab.site.url) for address in asked)


@pytest.mark.parametrize("width", [390, 720, 1024, 1440])
def test_no_page_is_wider_than_the_screen(browser: Browser, site: Site, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844})
    tab = Tab(context, site)
    for path in EVERY_PAGE:
        page = tab.open(path)
        over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert over <= 0, f"{path} is {over} px too wide at {width}"
    context.close()


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1440, "dark")])
def test_axe_finds_nothing_on_any_page(
    browser: Browser, site: Site, axe: str, scheme: Any, width: int
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    tab = Tab(context, site)
    found = {path: bad for path in EVERY_PAGE if (bad := violations(tab.open(path), axe))}
    context.close()
    assert found == {}


def test_axe_finds_nothing_on_empty_pages(context: BrowserContext, empty: Site, axe: str) -> None:
    tab = Tab(context, empty)
    paths = ("/", "/runs", "/calls", "/supervisor", "/spend", "/settings")
    assert {path: bad for path in paths if (bad := violations(tab.open(path), axe))} == {}
