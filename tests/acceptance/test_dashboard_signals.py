"""Pages about behaviour over a real store: values, slices, comparisons, alerts, evidence."""

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from dashboard_signals import CATALOGUE, CHANGED, DAY, FINGERPRINT, Plain, fill, traffic
from dashboard_site import Site, running
from dashboard_tab import Tab, violations
from dashboard_world import HOSTILE, HOUR, NOW, hostile_run
from tocsin.core.domain import Alert
from tocsin.core.ids import derived_id
from tocsin.core.score import Feedback, Score
from tocsin.core.signals import Scored, judge_signal, slices_of
from tocsin.dashboard import fmt, places
from tocsin.worker.evaluating import Scoring

pytestmark = pytest.mark.browser

SIGNAL = "/signals/support-agent/refused"
ALERT = f"/alerts/{places.named(FINGERPRINT)}"
EVIL = f"/signals/{places.named(HOSTILE[0])}"
JUDGE = judge_signal("helpful", "Does it help?")
FORM = {"csrf": "form-token"}
SAME = {"sec_fetch_site": "same-origin"}
PAGES = (
    "/?range=7d",
    "/?range=24h&feature=support-agent",
    "/?range=7d&release=2026-03-11",
    "/?range=all",
    "/signals/support-agent?range=7d",
    "/signals/search-rerank",
    f"{SIGNAL}?range=7d",
    f"{SIGNAL}?range=30d&slice=cohort%3Dbeta",
    "/signals/invoice-extract/schema_valid",
    "/signals/support-agent/answer_words?range=7d",
    "/signals/support-agent/never_seen",
    "/signals/nobody",
    "/compare",
    "/compare?feature=support-agent&range=7d",
    "/compare?feature=support-agent&range=7d&a=cohort%3Dstable&b=cohort%3Dbeta",
    "/compare?feature=support-agent&a=2026-02-20..2026-03-01&b=2026-03-11..2026-03-12",
    "/alerts",
    "/alerts?feature=support-agent",
    ALERT,
    EVIL,
    f"{EVIL}/refused",
)


def evil_alert() -> Alert:
    """An alert whose every text tries to break out of the page."""
    return Alert(
        fingerprint="a/b%2F../" + HOSTILE[0],
        detector="drift",
        feature=HOSTILE[0],
        severity="warning",
        state="firing",
        at=NOW - HOUR,
        summary=" ".join(HOSTILE),
        signal="refused",
        evidence=(derived_id("call", derived_id("run", "hostile"), "0"),),
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    entries = [*traffic(), *hostile_run()]
    with running(tmp_path_factory.mktemp("signals"), entries) as found:
        fill(found, entries)
        found.store.raise_alerts([evil_alert()])
        yield found


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory.mktemp("none"), []) as found:
        found.catalogue = CATALOGUE
        yield found


@pytest.fixture(autouse=True)
def _as_admin(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "site" in request.fixturenames:
        request.getfixturevalue("site").role = "admin"


def row(page: Page, feature: str) -> Any:
    link = page.get_by_role("link", name=feature, exact=True)
    return page.locator("table.behaviour tbody tr", has=link)


def plain(markup: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", markup).split())


# -- overview --


def test_overview_puts_what_got_worse_on_top_and_says_it_in_a_sentence(tab: Tab) -> None:
    page = tab.open("/?range=7d")
    assert page.locator(".answer b").inner_text().startswith("support-agent got worse")
    first = page.locator("table.behaviour tbody tr").first
    assert first.locator("a.open").inner_text() == "support-agent"
    assert "1 alert" in first.locator("th").inner_text()
    assert "Baseline: the 28 days before" in page.locator(".first .chart-note").inner_text()


def test_each_axis_has_value_interval_line_and_change(tab: Tab) -> None:
    page = tab.open("/?range=7d")
    cell = row(page, "support-agent").locator("td[data-label=Appropriate]")
    text = cell.inner_text()
    assert re.search(r"9\d(\.\d)? %", text)
    assert re.search(r"\d+(\.\d)?–\d+(\.\d)? %", text)
    assert "points, worse" in text
    assert cell.locator("svg.spark .baseline").count() == 1
    assert cell.locator("svg.spark .line").count() == 1


def test_what_was_not_judged_or_too_seldom_is_said_and_no_share(tab: Tab) -> None:
    page = tab.open("/?range=7d")
    assert row(page, "support-agent").locator("td[data-label=Grounded]").inner_text().endswith(
        "not judged"
    )  # fmt: skip
    few = row(page, "search-rerank").locator("td[data-label=Grounded]").inner_text()
    assert "underpowered" in few
    assert "more needed" in few
    assert "100 %" not in few.split("–")[0]


def test_the_consistent_axis_counts_what_changed_and_names_it(tab: Tab) -> None:
    page = tab.open("/?range=7d")
    cell = row(page, "support-agent").locator("td[data-label=Consistent]")
    assert "1 of 2 changed" in cell.inner_text()
    cell.get_by_role("link", name="Answer length").click()
    page.wait_for_url("**/signals/support-agent/answer_words*")


def test_error_budgets_stand_in_the_row_of_their_feature(tab: Tab) -> None:
    page = tab.open("/?range=7d")
    assert "times over" in row(page, "support-agent").locator(".budget-cell").inner_text()
    assert "% left" in row(page, "invoice-extract").locator(".budget-cell").inner_text()
    assert "no objective" in row(page, "search-rerank").locator(".budget-cell").inner_text()


def test_a_release_filters_behaviour_and_what_cannot_be_filtered_says_so(site: Site) -> None:
    one = plain(site.get("/?range=7d&release=2026-03-11").text)
    assert "186 judged calls" in one
    other = plain(site.get("/?range=7d&end_user=mia&outcome=complete").text)
    assert "remove the filter" in other or "No calls" in other


# -- a feature, a signal --


def test_a_feature_lists_its_signals_by_axis_what_changed_first(tab: Tab) -> None:
    page = tab.open("/signals/support-agent?range=7d")
    assert [h.inner_text() for h in page.locator("main section h2[id]").all()] == [
        "Appropriate",
        "Consistent",
        "Service",
    ]
    rows = page.locator("section:has(#appropriate) tbody tr")
    assert [r.locator("a.open").inner_text() for r in rows.all()] == ["Appropriate", "Refused"]
    assert "worse" in rows.nth(1).inner_text()
    assert page.get_by_text("Signals without a value").count() == 1


def test_a_signal_shows_series_change_releases_slices_and_examples(tab: Tab) -> None:
    page = tab.open(f"{SIGNAL}?range=7d")
    figure = page.locator("figure.chart").first
    assert figure.locator("rect.baseline").count() == 1
    assert figure.locator("line.at-change").count() == 1
    assert figure.locator("line.at-release").count() == 1
    assert "change began" in figure.inner_text()
    cohorts = page.locator("section[aria-labelledby=by-cohort] tbody tr")
    assert cohorts.first.locator("a.open").inner_text() == "beta"
    assert "worse" in cohorts.first.inner_text()
    assert page.locator(".facts", has_text="cohort beta").count() == 1
    assert page.locator(".pair.example").count() == 3
    assert "I don't have opinions" in page.locator(".pair.example .result").nth(1).inner_text()


def test_a_slice_is_one_click_and_one_click_back(tab: Tab) -> None:
    page = tab.open(f"{SIGNAL}?range=7d")
    page.locator("section[aria-labelledby=by-cohort] a.open", has_text="beta").click()
    page.wait_for_url("**slice=cohort*beta*")
    assert "350 judged calls" in page.locator(".answer").inner_text()
    page.get_by_role("link", name="Remove slice cohort").click()
    page.wait_for_url(lambda url: "slice" not in url)
    assert "1,008 judged calls" in page.locator(".answer").inner_text()


def test_a_change_before_the_range_is_named_with_the_way_to_it(tab: Tab) -> None:
    page = tab.open(f"{SIGNAL}?range=1h")
    page.get_by_role("link", name="Show it").click()
    page.wait_for_url("**range=7d*")
    assert page.locator("line.at-change").count() == 1


def test_the_chart_is_read_by_keyboard_and_brushed(tab: Tab) -> None:
    page = tab.open(f"{SIGNAL}?range=7d")
    figure = page.locator("figure.chart").first
    figure.focus()
    page.keyboard.press("ArrowLeft")
    assert "judged" in figure.locator(".readout").inner_text()
    box = figure.locator("svg.plot").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 60, steps=4)
    page.mouse.up()
    page.wait_for_url("**since=*until=*")
    assert page.url.partition("?")[0].endswith(SIGNAL)


def test_a_signal_as_json_and_markdown_says_the_same(site: Site) -> None:
    found = json.loads(site.get(f"{SIGNAL}/json?range=7d").text)
    assert found["signal"]["name"] == "refused"
    assert found["comparison"]["verdict"] == "worse"
    assert found["judged"] == 1008
    assert {s["value"] for s in found["slices"]["cohort"]} == {"beta", "stable"}
    assert all(pair["after"] for pair in found["examples"])
    text = site.get(f"{SIGNAL}/markdown?range=7d").text
    assert text.startswith("# Refused, support-agent")
    assert "1,008 judged calls" in text
    assert "| beta |" in text
    assert "I don't have opinions" in text


def test_unknown_signals_and_slices_say_what_there_is(site: Site) -> None:
    assert site.get("/signals/support-agent/nonsense").status == 404
    assert "tocsin signals --list" in site.get("/signals/support-agent/nonsense").text
    answer = site.get(f"{SIGNAL}?slice=weather%3Drain")
    assert answer.status == 400
    assert "cohort" in answer.text
    assert site.get("/alerts/nothing").status == 404
    assert site.get("/compare?feature=support-agent&a=yesterday").status == 400


def test_accepting_a_level_asks_for_an_operator_a_token_and_a_past_moment(site: Site) -> None:
    path, since = f"{SIGNAL}/accept", {"since": str(CHANGED)}
    site.role = "viewer"
    assert site.post(path, {**FORM, **since}, **SAME).status == 403
    assert "An operator can accept" in site.get(SIGNAL).text
    site.role = "operator"
    assert site.post(path, since, **SAME).status == 403
    assert site.post(path, {**FORM, **since}, sec_fetch_site="cross-site").status == 403
    assert site.post(path, {**FORM, "since": str(NOW + DAY)}, **SAME).status == 400
    assert site.store.baselines() == []
    done = site.post(path, {**FORM, **since, "note": "as planned"}, **SAME)
    assert done.status == 303
    assert done.headers["location"] == SIGNAL
    (kept,) = site.store.baselines()
    assert (kept.since, kept.by, kept.note) == (CHANGED, "laptop", "as planned")
    assert site.store.audit(limit=1)[0].action == "baseline.accept"
    page = site.get(f"{SIGNAL}?range=24h").text
    assert "as planned" in page
    assert "worse" not in plain(page).split("For whom")[0].split("Change ")[-1][:80]
    assert site.post(f"{SIGNAL}/forget", FORM, **SAME).status == 303
    assert site.store.baselines() == []


# -- compare --


def test_two_cohorts_are_compared_best_evidence_first(tab: Tab) -> None:
    page = tab.open("/compare?feature=support-agent&range=7d&a=cohort%3Dstable&b=cohort%3Dbeta")
    rows = page.locator("table.signals tbody tr")
    assert rows.first.locator("a.open").inner_text() in ("Refused", "Appropriate")
    assert "worse" in rows.first.inner_text()
    chances = [r.locator("td").last.inner_text() for r in rows.all()]
    assert chances[0] == "<0.01 %"
    page.get_by_role("link", name="Swap").click()
    page.wait_for_url("**a=cohort*beta*")
    assert "better" in page.locator("table.signals tbody tr").first.inner_text()


def test_compare_is_one_click_from_a_signal_and_keeps_the_range(tab: Tab) -> None:
    page = tab.open(f"{SIGNAL}?range=7d")
    page.get_by_role("link", name="Compare with before").click()
    page.wait_for_url("**/compare?*")
    assert "range=7d" in page.url
    assert page.get_by_label("B", exact=True).input_value() == "now"
    page.get_by_label("B", exact=True).select_option("release=2026-03-11")
    page.wait_for_url("**b=release*")
    assert "worse" in page.locator("table.signals tbody tr").first.inner_text()


def test_a_comparison_of_fixed_periods_is_a_permalink(site: Site) -> None:
    path = "/compare/json?feature=support-agent&a=2026-02-20..2026-03-01&b=2026-03-11..2026-03-12"
    found = json.loads(site.get(path).text)
    assert found["a"]["since"] == "2026-02-20T00:00:00Z"
    verdicts = {one["signal"]: one["verdict"] for one in found["signals"]}
    assert verdicts["refused"] == "worse"
    text = site.get(path.replace("/json", "/markdown")).text
    assert "| Refused |" in text


# -- alerts --


def test_an_alert_tells_what_since_when_for_whom_how_surely_with_examples(tab: Tab) -> None:
    page = tab.open("/alerts")
    page.get_by_role("link", name="Refused in support-agent got worse").click()
    page.wait_for_url("**/alerts/drift*")
    facts = page.locator(".facts").inner_text()
    assert "+23 points (95 % interval +16 to +31 points)" in facts
    assert "by chance once in 250,000 calls" in facts
    assert fmt.exact(CHANGED)[:10] in facts
    whom = page.locator("#for-whom").inner_text()
    assert "cohort beta" in whom
    assert "98 %" in whom
    assert page.locator(".pair.example").count() == 3
    page.get_by_role("link", name="The signal over time").click()
    page.wait_for_url("**/signals/support-agent/refused*")
    assert page.locator("line.at-change").count() == 1


def test_an_alert_goes_along_as_markdown(site: Site) -> None:
    text = site.get(f"{ALERT}/markdown").text
    assert "- For whom: cohort beta (2 % → 70 %)" in text
    assert "## Example 3" in text


# -- a call --


def test_a_call_shows_its_scores_and_takes_a_label(tab: Tab) -> None:
    page = tab.open(f"{SIGNAL}?range=7d")
    page.locator(".pair.example").first.get_by_role("link", name="Open the call").last.click()
    page.wait_for_url("**/calls/*")
    scores = page.locator("table.scores")
    assert "declines" in scores.inner_text()
    assert "v3" in scores.inner_text()
    page.get_by_label("wrong").check()
    page.get_by_label("Comment").fill("should have answered")
    page.get_by_role("button", name="Save as laptop").click()
    page.wait_for_url("**#people")
    said = page.locator(".said-by").inner_text()
    assert "wrong" in said
    assert "should have answered" in said
    call_id = page.url.rpartition("/")[2].partition("#")[0]
    (kept,) = tab.site.store.feedback(call_id)
    assert (kept.kind, kept.value, kept.by) == ("label", 0.0, "laptop")


def test_a_viewer_may_label_and_nobody_may_without_a_token(site: Site) -> None:
    call = site.store.scored("invoice-extract", limit=1)[0].interaction.id
    path = f"/calls/{call}/feedback"
    site.role = "viewer"
    assert site.post(path, {"label": "right"}, **SAME).status == 403
    assert site.post(path, FORM, **SAME).status == 400
    assert site.post(path, {**FORM, "label": "maybe"}, **SAME).status == 400
    assert site.post(path, {**FORM, "label": "right"}, **SAME).status == 303
    assert [one.value for one in site.store.feedback(call)] == [1.0]
    assert site.post("/calls/none/feedback", {**FORM, "label": "right"}, **SAME).status == 404
    site.role = "anonymous"
    assert site.post(path, {**FORM, "label": "right"}, **SAME).status in (303, 403)
    assert len(site.store.feedback(call)) == 1


# -- judges --


def _judged(site: Site, labels: int) -> None:
    """A judge that said of 40 calls what is right; people said it of the first so many."""
    catalogue = {**CATALOGUE, JUDGE.name: JUDGE}
    site.catalogue, site.judges = catalogue, {JUDGE.name: 30}
    rows = site.store.scored("invoice-extract", limit=40)
    site.store.add_scores(
        [
            Scored(
                interaction=one.interaction,
                scores=(
                    Score(
                        interaction_id=one.interaction.id,
                        name=JUDGE.name,
                        version="1",
                        value=float(i % 4 != 0),
                    ),
                ),
                slices=slices_of(one.interaction),
                first=False,
            )
            for i, one in enumerate(rows)
        ],
        catalogue,
    )
    for i, one in enumerate(rows[:labels]):
        site.store.add_feedback(
            Feedback(
                id=f"fb_{labels}_{i}",
                interaction_id=one.interaction.id,
                kind="label",
                value=float(i % 4 != 0),
                by="ann",
                at=NOW,
            )
        )


def test_a_judge_is_no_measure_before_there_are_labels_and_has_its_agreement_after(
    tmp_path: Path,
) -> None:
    entries = list(traffic(days=3))
    with running(tmp_path, entries) as site:
        fill(site, entries)
        _judged(site, 5)
        page = f"/signals/invoice-extract/{JUDGE.name}?range=7d"
        for path in ("/signals/invoice-extract?range=7d", page):
            text = plain(site.get(path).text)
            assert "ot shown as a measure: 25 more labels needed" in text, path
            assert "75 %" not in text, path
        assert JUDGE.title not in plain(site.get("/compare?feature=invoice-extract").text)
        _judged(site, 35)
        text = plain(site.get(page).text)
        assert "agrees with people on 100 %" in text
        assert "35 labelled calls" in text
        assert "75 %" in text


# -- all of them --


def test_every_page_opens_and_every_link_leads_somewhere(site: Site) -> None:
    tried: set[str] = set()
    for path in PAGES:
        answer = site.get(path)
        assert answer.status == 200, path
        for link in re.findall(r'href="([^"#]+)', answer.text):
            target = html.unescape(link)
            if target not in tried and target.startswith("/") and len(tried) < 500:
                tried.add(target)
                assert site.get(target).status in (200, 303), (path, target)
    assert len(tried) > 100


def test_features_with_any_name_have_their_pages(site: Site) -> None:
    for name in (HOSTILE[0], "a/b", "..", "50%", "a%2Fb", "x y"):
        answer = site.get(f"/signals/{places.named(name)}")
        assert answer.status == 200
        assert places.read_name(places.named(name).replace("%25", "%")) == name or "%" in name


def test_hostile_names_and_summaries_stay_text(tab: Tab) -> None:
    asked: list[str] = []
    tab.page.on("request", lambda request: asked.append(request.url))
    tab.page.on("dialog", lambda dialog: tab.complaints.append(dialog.message))
    for path in ("/?range=24h", "/alerts", EVIL, f"{EVIL}/refused", "/compare"):
        page = tab.open(path)
        count = page.evaluate("document.querySelectorAll('main script, main img').length")
        assert count == 0, path
    assert all(address.startswith(tab.site.url) for address in asked)


@pytest.mark.parametrize("width", [390, 1024, 1440])
def test_no_page_is_wider_than_the_screen(browser: Browser, site: Site, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844})
    tab = Tab(context, site)
    over = {}
    for path in PAGES:
        page = tab.open(path)
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        if wide > 0:
            over[path] = wide
    context.close()
    assert over == {}


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "light")])
def test_axe_finds_nothing(browser: Browser, site: Site, axe: str, scheme: Any, width: int) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    tab = Tab(context, site)
    call = site.store.scored("support-agent", limit=1)[0].interaction.id
    found = {
        path: bad for path in (*PAGES, f"/calls/{call}") if (bad := violations(tab.open(path), axe))
    }
    context.close()
    assert found == {}


def test_empty_pages_teach_and_axe_finds_nothing_on_them(
    context: BrowserContext, empty: Site, axe: str
) -> None:
    tab = Tab(context, empty)
    for path, taught in (
        ("/alerts", "OPENAI_BASE_URL"),
        ("/compare", "tocsin replay"),
        ("/signals/new", "tocsin-feature: new"),
        ("/signals/new/appropriate?range=all", "tocsin signals --list"),
    ):
        page = tab.open(path)
        assert taught in page.locator("main").inner_text(), path
        assert violations(page, axe) == [], path


def test_without_script_everything_is_there(browser: Browser, site: Site) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site.url}/?range=7d")
    page.locator("table.behaviour td[data-label=Appropriate] a.axis-value").first.click()
    assert page.locator("line.at-release").count() == 1
    page.get_by_role("link", name="Compare with before").click()
    page.get_by_label("B", exact=True).select_option("cohort=beta")
    page.get_by_role("button", name="Compare").click()
    assert "cohort" in page.url
    assert "worse" in page.locator("table.signals tbody tr").first.inner_text()
    context.close()


def test_alerts_are_a_key_away_and_rows_are_walked_with_j(tab: Tab) -> None:
    page = tab.open("/")
    page.keyboard.press("g")
    page.keyboard.press("a")
    page.wait_for_url("**/alerts")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/alerts/*")


def test_what_scored_is_what_the_product_makes_of_entries() -> None:
    scoring = Scoring([Plain()], CATALOGUE)
    one = scoring.score(next(traffic()))
    assert {"appropriate", "refused"} <= {score.name for score in one.scores}
