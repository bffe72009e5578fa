"""An engineer who has never seen it: which feature got worse, since when, for whom, three examples.

Real traffic through the gateway, judged and watched by the product itself; only the model and the
clock are scripted. See ``dashboard_drift`` for whose answers they are.
"""

import re
from collections.abc import Iterator
from datetime import datetime

import pytest
from playwright.sync_api import Browser, Page

from dashboard_drift import CHANGED, CHANGING, MOVED, STEADY, Served, serving
from dashboard_world import HOUR, NOW

pytestmark = pytest.mark.browser

SOON = 12 * HOUR
"""How far from the truth "since when" may be."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("drift")) as found:
        yield found


@pytest.fixture(scope="module")
def page(browser: Browser, served: Served) -> Iterator[Page]:
    """Signed in, as on-call opens it."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, timezone_id="UTC")
    made = context.new_page()
    made.clock.set_fixed_time(NOW / 1_000_000)
    made.goto(served.login)
    yield made
    context.close()


def moment(text: str) -> int:
    """The first date and minute in a text, microseconds since the epoch."""
    found = re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d", text)
    assert found is not None, text
    return int(datetime.fromisoformat(found[0] + "+00:00").timestamp() * 1_000_000)


def test_which_feature_got_worse_since_when_for_whom_and_three_examples(
    page: Page, served: Served
) -> None:
    # Which? The sentence on top, the banner and the first row say it.
    page.goto(served.url + "/")
    assert page.locator(".answer b").inner_text().startswith(f"{CHANGING} got worse")
    assert CHANGING in page.locator(".banner li").first.inner_text()
    first = page.locator("table.behaviour tbody tr").first
    assert first.locator("th a.open").inner_text() == CHANGING
    appropriate = first.locator("td[data-label=Appropriate]")
    assert "worse" in appropriate.inner_text()
    # One click: since when, by how much, for whom.
    appropriate.locator("a.axis-value").click()
    page.wait_for_url(f"**/signals/{CHANGING}/appropriate*")
    began = page.locator(".facts div", has_text="Change began").inner_text()
    assert abs(moment(began) - CHANGED) <= SOON
    assert f"model {MOVED}" in page.locator(".facts div", has_text="For whom").inner_text()
    assert page.locator(".at-change").count() == 1
    # Three examples, on the same page, the refusals beside what it was like before.
    examples = page.locator(".pair.example")
    assert examples.count() == 3
    for one in examples.all():
        assert "Appropriate: no" in one.locator(".side").last.inner_text()
        assert len(one.locator(".quoted.result").last.inner_text()) > 20
    # A second click: the whole interaction.
    examples.first.get_by_role("link", name="Open the call").last.click()
    page.wait_for_url("**/calls/*")
    assert page.locator("h1").inner_text() == MOVED
    judged = page.locator("table.scores tr", has_text="Appropriate")
    assert "no" in judged.locator(".outcome").inner_text()


def test_the_feature_that_did_not_change_is_not_said_to_be_worse(
    page: Page, served: Served
) -> None:
    page.goto(served.url + "/?range=7d")
    row = page.locator("table.behaviour tbody tr", has=page.get_by_role("link", name=STEADY))
    assert row.count() == 1
    assert "worse" not in row.inner_text()
    assert "alert" not in row.locator("th").inner_text()


def test_the_alert_says_what_changed_since_when_how_surely_and_leads_on(
    page: Page, served: Served
) -> None:
    page.goto(served.url + "/alerts")
    firing = page.locator("#firing ~ .scroll tbody tr", has_text="Refused")
    firing.first.locator("a.open").click()
    page.wait_for_url("**/alerts/*")
    facts = page.locator(".facts").inner_text()
    assert abs(moment(facts) - CHANGED) <= SOON
    assert "95 % interval" in facts
    assert "by chance once in" in facts
    assert page.locator(".pair.example").count() >= 1
    page.get_by_role("link", name="Compare before and after").click()
    page.wait_for_url("**/compare?*")
    top = page.locator("table.signals tbody tr").first
    assert "worse" in top.inner_text()


def test_a_level_is_accepted_as_normal_audited_and_taken_back(page: Page, served: Served) -> None:
    path = f"{served.url}/signals/{CHANGING}/refused?range=7d"
    page.goto(path)
    page.get_by_label("Why").fill("the new model may decline surveys")
    page.get_by_role("button", name="Accept this level as normal").click()
    accepted = page.locator(".accept")
    assert "the new model may decline surveys" in accepted.inner_text()
    store = served.door.app.store
    (row,) = store.baselines()
    assert (row.feature, row.signal) == (CHANGING, "refused")
    assert abs(row.since - CHANGED) <= SOON
    page.get_by_role("button", name="Take that back").click()
    assert store.baselines() == []
    actions = [entry.action for entry in store.audit(limit=2)]
    assert actions == ["baseline.forget", "baseline.accept"]
