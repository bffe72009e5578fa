"""The pages of operations in a real browser: what waits, what nobody knows, one log, live."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from playwright.sync_api import Browser, expect

from dashboard_site import Site, running
from dashboard_tab import Tab, violations
from dashboard_world import NOW, SECOND
from tocsin.core.operations import Event, Operation, Step, step_key
from tocsin.store.operations_api import Delivery, EndpointRow, Written

pytestmark = pytest.mark.browser

EVIL = '<img src=x onerror="alert(1)">{{7*7}}'
FORM = {"csrf": "form-token"}
SAME = {"sec_fetch_site": "same-origin"}
WORDS = [f"word{number} " for number in range(300)]


def event(number: int, kind: str, **said: Any) -> Event:
    data = msgspec.json.encode({"type": kind, "sequence_number": number, **said})
    return Event(number, kind, NOW - 90 * SECOND + number * 10_000, data)


def operation(name: str, **fields: Any) -> Operation:
    about = {"kind": "response", "feature": "support-agent", "created_at": NOW - 90 * SECOND}
    return Operation(id=name, **(about | fields))


def ended(site: Site) -> None:
    """A response of 300 pieces of text, complete."""
    book = site.store.operations
    row = operation("resp_ended", title="Where is order 88213?", background=True, owner="own_a")
    row = msgspec.structs.replace(row, status="running", started_at=row.created_at)
    book.create(row, b"{}", [event(0, "response.created", response={"status": "queued"})])
    pieces = [event(n + 1, "response.output_text.delta", delta=w) for n, w in enumerate(WORDS)]
    response = {
        "object": "response",
        "status": "completed",
        "output": [{"content": [{"type": "output_text", "text": f"At the depot. {EVIL}"}]}],
        "tocsin": {"outcome": "invalid", "checks": [{"name": "schema", "verdict": "fail"}]},
    }
    last = event(301, "response.completed", response=response)
    changes = {"status": "ended", "outcome": "invalid", "ended_at": NOW - 60 * SECOND}
    book.write(
        [
            Written(
                operation_id=row.id,
                events=(*pieces, last),
                changes={**changes, "calls": 1, "cost_nano_usd": 4_200_000, "owner": None},
                result=msgspec.json.encode(response),
            )
        ]
    )


def waiting(site: Site) -> str:
    """One that asks a person, and has charged a card of which nobody knows."""
    book = site.store.operations
    key = step_key("op_waiting", "approve", {"question": "Refund 120 EUR?"})
    row = operation("op_waiting", kind="refund", title="Refund of 88213", status="waiting")
    row = msgspec.structs.replace(row, waiting_for=key, note=EVIL, started_at=NOW - 80 * SECOND)
    book.create(row, b"{}", [event(0, "operation.created")])
    asked = {"question": "Refund 120 EUR?", "details": {"to": EVIL}}
    book.begin_step(
        Step(
            key=key,
            scope=row.id,
            name="approve",
            state="asked",
            arguments=msgspec.json.encode(asked),
            begun_at=NOW - 70 * SECOND,
        )
    )
    charge = Step(
        key=step_key(row.id, "charge", {"cents": 500}),
        scope=row.id,
        name="charge",
        effect=True,
        state="begun",
        arguments=b'{"cents":500}',
        begun_at=NOW - 75 * SECOND,
    )
    book.begin_step(charge)
    book.settle_step(charge.key, "unknown", None, NOW - 74 * SECOND)
    return key


def unheard(site: Site) -> None:
    book = site.store.operations
    message = Delivery(
        id="whd_lost",
        endpoint="crm",
        url="https://crm.example/hook",
        type="response.failed",
        payload=b"{}",
        created_at=NOW - 60 * SECOND,
        operation_id="resp_ended",
        state="failed",
        attempts=9,
        last_status=500,
    )
    book.add_deliveries([message])
    book.disable_endpoint(EndpointRow(url="https://old.example", disabled_at=NOW, reason="410"))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running(tmp_path, []) as found:
        ended(found)
        waiting(found)
        unheard(found)
        yield found


def test_the_list_says_first_what_needs_somebody(tab: Tab) -> None:
    page = tab.open("/operations")
    assert page.locator(".answer").inner_text() == (
        "1 operation waits for a person; the fate of 1 side effect is unknown; "
        "1 message reached no webhook."
    )
    assert "Refund of 88213" in page.locator("[aria-labelledby=waiting]").inner_text()
    assert "charge" in page.locator("[aria-labelledby=unknown]").inner_text()
    assert "crm.example" in page.locator("[aria-labelledby=unheard]").inner_text()
    page.get_by_role("link", name="Waiting", exact=True).click()
    page.wait_for_url("**/operations?status=waiting")
    assert page.locator("table.rows tbody tr").count() == 1


def test_a_log_is_read_in_few_lines(tab: Tab) -> None:
    page = tab.open("/operations")
    page.get_by_role("link", name="Where is order 88213?").click()
    page.wait_for_url("**/operations/resp_ended")
    rows = page.locator("[aria-labelledby=events] tbody tr")
    assert rows.count() == 3
    grouped = rows.nth(1).inner_text()
    assert "1–300" in grouped
    assert "300×" in grouped
    assert "word0 word1" in grouped
    assert "outcome invalid, schema failed" in rows.nth(2).inner_text()
    assert page.locator(".answer .outcome").inner_text() == "invalid"
    assert "At the depot. <img" in page.locator("#result ~ .part").inner_text()
    assert (
        "tocsin follow resp_ended --after 301"
        in page.locator("#resume ~ .command").all_inner_texts()[0]
    )


def test_a_person_answers_and_it_goes_on(tab: Tab) -> None:
    page = tab.open("/operations/op_waiting")
    assert page.locator("#question").inner_text() == "Refund 120 EUR?"
    page.get_by_label("What it is told").fill("checked with finance")
    page.get_by_role("button", name="Approve").click()
    expect(page.locator("#question")).to_have_count(0)
    book = tab.site.store.operations
    row = book.operation("op_waiting")
    assert row is not None
    assert row.status == "queued"
    steps = {step.name: step for step in book.steps("op_waiting")}
    assert msgspec.json.decode(steps["approve"].result or b"") == {
        "approved": True,
        "note": "checked with finance",
        "by": "laptop (key_0)",
    }


def test_cancelling_names_what_was_changed(tab: Tab) -> None:
    page = tab.open("/operations/op_waiting")
    page.get_by_role("button", name="Cancel this operation").click()
    expect(page.locator(".answer .outcome")).to_have_text("cancelled")
    assert "charge side effect" in page.locator("[aria-labelledby=steps]").inner_text()
    row = tab.site.store.operations.operation("op_waiting")
    assert row is not None
    assert row.outcome == "cancelled"
    assert row.cancel_by == "laptop (key_0)"


def test_a_log_grows_while_it_is_looked_at(tab: Tab) -> None:
    book = tab.site.store.operations
    row = operation("resp_live", title="Thinks", status="running", started_at=NOW, owner="own_b")
    book.create(row, b"{}", [event(0, "response.created", response={"status": "in_progress"})])
    page = tab.open("/operations/resp_live")
    page.clock.resume()
    assert page.locator("[aria-labelledby=events] tbody tr").count() == 1
    said = event(1, "response.output_text.delta", delta="Hello")
    book.write([Written(operation_id="resp_live", events=(said,), owner="own_b")])
    expect(page.locator("[aria-labelledby=events] tbody tr")).to_have_count(2, timeout=15_000)


def test_who_only_looks_neither_ends_nor_answers(site: Site) -> None:
    site.role = "viewer"
    text = site.get("/operations/op_waiting").text
    assert "Cancel this operation" not in text
    assert "Approve" not in text
    for act in ("cancel", "answer"):
        assert site.post(f"/operations/op_waiting/{act}", FORM, **SAME).status == 403
    site.role = "operator"
    assert site.post("/operations/op_waiting/cancel", {"csrf": "no"}, **SAME).status == 403
    refused = site.post("/operations/op_waiting/answer", {**FORM, "answer": "maybe"}, **SAME)
    assert refused.status == 400
    assert site.get("/operations/op_nothing").status == 404


def test_what_was_recorded_acts_nowhere(site: Site) -> None:
    for path in ("/operations", "/operations/op_waiting", "/operations/resp_ended"):
        text = site.get(path).text
        assert "<img" not in text
        assert "49" not in re.findall(r"onerror.{0,20}", text)
    assert site.get("/operations/resp_ended/json").headers["content-type"] == "application/json"


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1440, "dark")])
def test_axe_finds_nothing(browser: Browser, site: Site, axe: str, scheme: Any, width: int) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    tab = Tab(context, site)
    for path in ("/operations", "/operations/op_waiting", "/operations/resp_ended"):
        page = tab.open(path)
        assert violations(page, axe) == [], path
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, path
    assert tab.complaints == []
    context.close()
