"""The pages over real HTTP and a real store, without a browser."""

import json
import re
import threading
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from dashboard_site import SECRET, Site, running
from dashboard_world import (
    HOSTILE,
    HOUR,
    NOW,
    SECOND,
    entry,
    hostile_run,
    long_run,
    message,
    tool_run,
    world,
)
from tocsin.core.ids import derived_id
from tocsin.dashboard import CONTENT_SECURITY_POLICY, ROUTES
from tocsin.store import Filter

PAGES = ("/", "/runs", "/calls", "/supervisor", "/spend", "/settings")
FORM = {"csrf": "form-token"}
SAME = {"sec_fetch_site": "same-origin"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    entries = [*world(120), *hostile_run()]
    with running(tmp_path_factory.mktemp("full"), entries) as found:
        yield found


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory.mktemp("empty"), []) as found:
        yield found


@pytest.fixture(autouse=True)
def _as_admin(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in ("site", "empty"):
        if name in request.fixturenames:
            request.getfixturevalue(name).role = "admin"


class Reader(HTMLParser):
    """Tags with their attributes, and the text outside of them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    return reader


def links(html: str) -> list[str]:
    return [a.get("href") or "" for tag, a in read(html).tags if tag == "a"]


@pytest.mark.parametrize("path", PAGES)
def test_every_page_opens_with_strict_headers(site: Site, path: str) -> None:
    answer = site.get(path)
    assert answer.status == 200
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"


def _kinds_of_pages(site: Site) -> list[str]:
    run = derived_id("run", "hostile")
    call = derived_id("call", run, "0")
    kinds = [*PAGES, f"/runs/{run}", f"/calls/{call}", "/nothing", "/?feature=support-agent"]
    return [*kinds, "/spend?by=run_id", "/calls?outcome=bad", "/runs?sort=cost", "/?range=30d"]


def test_no_page_holds_an_inline_script_style_or_handler(site: Site) -> None:
    for path in _kinds_of_pages(site):
        for tag, attributes in read(site.get(path).text).tags:
            assert tag != "style", path
            assert tag != "script" or attributes.get("src", ""), path
            bad = [name for name in attributes if name == "style" or name.startswith("on")]
            assert not bad, (path, tag, bad)


def test_no_page_loads_anything_from_elsewhere(site: Site) -> None:
    for path in _kinds_of_pages(site):
        for tag, attributes in read(site.get(path).text).tags:
            if tag in ("script", "link", "img", "iframe", "source"):
                where = attributes.get("src") or attributes.get("href") or ""
                assert where.startswith("/static/"), (path, tag, where)


def test_every_link_on_every_page_leads_somewhere(site: Site) -> None:
    tried: set[str] = set()
    for path in _kinds_of_pages(site):
        for link in links(site.get(path).text):
            target = link.partition("#")[0]
            if target and target not in tried and len(tried) < 400:
                tried.add(target)
                assert site.get(target).status in (200, 303), (path, link)
    assert len(tried) > 50


def test_hostile_content_reaches_the_page_as_text_alone(site: Site) -> None:
    run = derived_id("run", "hostile")
    call = derived_id("call", run, "0")
    for path in ("/", "/runs", "/calls", "/spend?by=model", f"/runs/{run}", f"/calls/{call}"):
        page = site.get(path)
        found = read(page.text)
        assert not [tag for tag, _ in found.tags if tag == "img"], path
        assert all(a.get("src", "").startswith("/static/") for t, a in found.tags if t == "script")
        schemes = [h for h in links(page.text) if not h.startswith(("/", "#"))]
        assert schemes == [], path
        assert "\x00" not in page.text
        assert "\u202e" not in page.text
    assert HOSTILE[0] in read(site.get(f"/runs/{run}").text).text


def test_templates_in_content_are_not_run(site: Site) -> None:
    page = site.get(f"/runs/{derived_id('run', 'hostile')}").text
    assert "{{ 7 * 7 }}" in read(page).text


# -- roles --


def test_a_caller_without_a_session_is_sent_to_sign_in_and_back(site: Site) -> None:
    site.role = "anonymous"
    answer = site.get("/runs?feature=a&range=7d")
    assert answer.status == 303
    assert answer.headers["location"] == "/login?next=%2Fruns%3Ffeature%3Da%26range%3D7d"


def test_each_route_refuses_the_role_below_its_own(site: Site) -> None:
    below = {"viewer": "caller", "operator": "viewer", "admin": "operator"}
    for route in ROUTES:
        if route.role == "anonymous":
            continue
        site.role = below[route.role]  # type: ignore[assignment]
        path = re.sub(r"\{\w+\}", "x", route.path)
        answer = site.get(path) if "GET" in route.methods else site.post(path, FORM, **SAME)
        assert answer.status == 403, route.path
        assert "needs" in answer.text
    assert site.issued == []


def test_a_viewer_sees_neither_keys_nor_the_audit_log(site: Site) -> None:
    site.role = "viewer"
    page = site.get("/settings").text
    assert "a3Fz" not in page
    assert "Audit log" not in page
    assert "Issue key" not in page


# -- forms --


def test_a_key_is_issued_and_its_secret_shown_once(site: Site) -> None:
    form = {**FORM, "name": "ci", "role": "caller", "features": "a, b", "days": "30"}
    answer = site.post("/settings/keys", form, **SAME)
    assert answer.status == 200
    assert SECRET in answer.text
    assert site.issued.pop() == ("ci", "caller", ("a", "b"), NOW + 30 * 24 * HOUR, "key_0")
    assert SECRET not in site.get("/settings").text


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"name": ""}, "Name"),
        ({"role": "anonymous"}, "Role"),
        ({"days": "-3"}, "Expires"),
        ({"days": "99999"}, "Expires"),
        ({"name": "taken"}, "taken already"),
    ],
)
def test_a_form_that_cannot_be_used_says_which_field_and_keeps_the_rest(
    site: Site, change: dict[str, str], named: str
) -> None:
    form = {**FORM, "name": "ci", "role": "caller", "features": "kept", "days": "", **change}
    answer = site.post("/settings/keys", form, **SAME)
    assert answer.status == 400
    assert named in answer.text
    assert 'value="kept"' in answer.text
    assert site.issued == []


@pytest.mark.parametrize(
    ("form", "headers"),
    [
        (FORM, {}),
        (FORM, {"sec_fetch_site": "cross-site"}),
        (FORM, {"sec_fetch_site": "same-site"}),
        (FORM, {"origin": "http://evil.example"}),
        ({"csrf": "wrong"}, SAME),
        ({}, SAME),
    ],
)
def test_a_forged_form_changes_nothing(
    site: Site, form: dict[str, str], headers: dict[str, str]
) -> None:
    sent = {"name": "ci", "role": "admin", **form}
    assert site.post("/settings/keys", sent, **headers).status == 403
    assert site.post("/settings/keys/key_0/revoke", form, **headers).status == 403
    assert site.issued == []
    assert site.revoked == []


def test_a_browser_without_fetch_metadata_is_known_by_its_origin(site: Site) -> None:
    answer = site.post("/settings/keys/key_7/revoke", FORM, origin=site.url)
    assert answer.status == 303
    assert site.revoked.pop() == "key_7"


def test_a_form_of_any_size_is_not_read(site: Site) -> None:
    assert site.post("/settings/keys", {**FORM, "name": "x" * 100_000}, **SAME).status == 400


# -- empty and broken --


@pytest.mark.parametrize("path", ["/", "/runs", "/calls", "/spend"])
def test_an_empty_page_teaches_the_command_to_paste(empty: Site, path: str) -> None:
    assert f"export OPENAI_BASE_URL={empty.url}/v1" in read(empty.get(path).text).text


def test_a_range_without_calls_leads_to_the_time_that_has_some(site: Site) -> None:
    page = site.get("/?since=2020-01-01T00:00:00Z&until=2020-01-02T00:00:00Z")
    assert "No calls in the chosen time" in page.text
    around = next(h for h in links(page.text) if "since=" in h and h.startswith("/?"))
    assert "How are the features doing?" in site.get(around.replace("&amp;", "&")).text
    assert "No calls" not in site.get(around).text


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/runs/run_none", 404, "no run run_none"),
        ("/calls/call_none", 404, "no call call_none"),
        ("/calls/call_none/curl", 404, "no call call_none"),
        ("/nowhere", 404, "no page at /nowhere"),
        ("/runs?range=fortnight", 400, "range"),
        ("/runs?cursor=%00%ff", 400, "cursor"),
        ("/calls?outcome=bad&cursor=!!", 400, "cursor"),
        ("/static/../deps.py", 404, ""),
        ("/static/deps.py", 404, "no such file"),
    ],
)
def test_an_error_says_what_happened_and_how_to_go_on(
    site: Site, path: str, status: int, said: str
) -> None:
    answer = site.get(path)
    assert answer.status == status
    assert said in read(answer.text).text
    assert len(links(answer.text)) > 4
    assert "Traceback" not in answer.text


def test_a_store_that_fails_gives_a_page_that_says_what_is_kept(tmp_path: Path) -> None:
    with running(tmp_path, tool_run(1, NOW - HOUR)) as broken:
        broken.store.close()
        answer = broken.get("/runs")
    assert answer.status == 503
    assert "kept in the journal" in answer.text


# -- numbers lead to their evidence --


def test_the_overview_counts_what_the_store_holds(site: Site) -> None:
    page = read(site.get("/?range=all").text).text
    calls = len(site.store.after(0, limit=100_000))
    assert re.search(rf"Calls\s*{calls:,}\D", page)


def test_calls_that_ended_badly_are_one_click_away_and_all_there(site: Site) -> None:
    page = site.get("/?range=all").text
    link = next(h for h in links(page) if h.startswith("/calls") and "outcome=bad" in h)
    everything = [i for _, i in site.store.after(0, limit=100_000)]
    bad = {i.id for i in everything if i.outcome not in ("complete", "truncated")}
    found: list[str] = []
    while link:
        listed = site.get(link).text
        found += re.findall(r'class="open" href="/calls/(call_\w+)"', listed)
        link = next((h for h in links(listed) if "cursor=" in h), "")
    assert len(found) == len(set(found))
    assert set(found) == bad


def test_bad_calls_are_paged_newest_first_without_gaps(tmp_path: Path) -> None:
    ends = ("error", "timeout", "refused", "denied")
    entries = [
        entry(f"run_{i}", 0, NOW - i * SECOND, [message("user", f"q{i}")], None, new=1,
              outcome=ends[i * i % 4] if i % 3 else "complete")
        for i in range(400)
    ]  # fmt: skip
    wanted = [e.interaction.id for e in entries if e.interaction.outcome != "complete"]
    with running(tmp_path, entries) as many:
        link, found = "/calls?outcome=bad", list[str]()
        while link:
            listed = many.get(link).text
            found += re.findall(r'class="open" href="/calls/(call_\w+)"', listed)
            link = next((h for h in links(listed) if "cursor=" in h), "")
    assert found == wanted


def test_unknown_prices_are_counted_and_never_shown_as_zero(site: Site) -> None:
    page = site.get("/spend?range=all").text
    assert "onboarding-copilot $0" not in page
    row = re.search(r"onboarding-copilot.*?</tr>", page.partition("<tbody>")[2], re.DOTALL)
    assert row is not None
    assert re.search(r"\d+ unpriced", row[0])
    assert "$0<" not in row[0]
    assert "estimated" in row[0]


def test_runs_are_paged_to_the_last_one_without_repeats(site: Site) -> None:
    link, found = "/runs?sort=cost", list[str]()
    while link:
        page = site.get(link).text
        found += re.findall(r'class="open" href="/runs/(run_\w+)"', page)
        link = next((h for h in links(page) if "cursor=" in h), "")
    assert len(found) == len(set(found)) == site.store.stats().runs


def test_new_runs_are_counted_not_inserted(site: Site) -> None:
    found = json.loads(site.get(f"/live/runs?after={NOW - 12 * HOUR}").text)
    rows = site.store.runs(Filter(), limit=500).rows
    assert found["count"] == min(100, sum(row.last_at > NOW - 12 * HOUR for row in rows))


def test_a_search_finds_runs_by_what_was_said(site: Site) -> None:
    page = site.get("/runs?text=parental").text
    titles = re.findall(r'class="open"[^>]*><bdi>([^<]*)', page)
    assert titles
    assert all("parental leave" in title for title in titles)


# -- a run and its copies --


def test_a_run_copied_as_json_markdown_and_curl_is_whole(site: Site) -> None:
    run = tool_run(7000, NOW - HOUR, calls=3, ask="Copy me.")
    site.store.append(run)
    run_id, call_id = run[0].interaction.run_id, run[2].interaction.id
    as_json = json.loads(site.get(f"/runs/{run_id}/json").text)
    assert len(as_json["steps"]) == 3
    assert "Copy me." in site.get(f"/runs/{run_id}/markdown").text
    curl = site.get(f"/calls/{call_id}/curl")
    assert curl.headers["content-type"].startswith("text/plain")
    assert f"{site.url}/v1/chat/completions" in curl.text
    assert "$OPENAI_API_KEY" in curl.text
    assert (
        json.loads(site.get(f"/calls/{call_id}/json").text)["messages"][1]["content"] == "Copy me."
    )


@pytest.mark.slow
def test_a_run_of_32_843_steps_opens_and_pages_in_under_a_second(tmp_path: Path) -> None:
    run_id = derived_id("run", "long", "32843")
    with running(tmp_path, list(long_run(32_843))) as deep:
        deep.get("/runs")
        for path in (
            f"/runs/{run_id}",
            f"/runs/{run_id}?offset=16400",
            f"/runs/{run_id}?offset=32800",
        ):
            started = time.perf_counter()
            answer = deep.get(path)
            took = time.perf_counter() - started
            assert answer.status == 200
            assert took < 1, f"{path} took {took:.2f} s"
            assert len(answer.text) < 500_000
        last = deep.get(f"/runs/{run_id}?step=32843")
        assert last.headers["location"] == f"/runs/{run_id}?offset=32800#step-32843"
        assert "Steps 32,801–32,843 of 32,843" in read(answer.text).text


def test_the_loop_goes_on_while_a_page_is_made(site: Site) -> None:
    """Rendering happens off the event loop: a small answer is not held up by a large page."""
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            site.get("/runs?range=all")

    other = threading.Thread(target=load)
    other.start()
    try:
        started = time.perf_counter()
        for _ in range(20):
            assert site.get("/static/tocsin.js").status == 200
        assert time.perf_counter() - started < 5
    finally:
        stop.set()
        other.join()


def test_static_files_are_kept_for_good_only_under_their_own_hash(site: Site) -> None:
    page = site.get("/").text
    address = next(
        a["href"] for t, a in read(page).tags if t == "link" and a["rel"] == "stylesheet"
    )
    assert "immutable" in site.get(address or "").headers["cache-control"]
    plain = site.get("/static/tocsin.css")
    assert plain.headers["cache-control"] == "no-cache"
    again = site.get("/static/tocsin.css", if_none_match=plain.headers["etag"])
    assert again.status == 304


def test_runs_without_times_show_no_invented_number(tmp_path: Path) -> None:
    changed = msgspec.structs.replace
    entries = [
        changed(
            e,
            interaction=changed(
                e.interaction,
                source="import",
                duration_us=0,
                first_chunk_us=None,
                request_model="",
                response_model=None,
                attributes={"time": "unknown"},
            ),
        )
        for e in tool_run(1, NOW - 2 * HOUR, calls=3)
    ]
    run, call = entries[0].interaction.run_id, entries[0].interaction.id
    with running(tmp_path, entries) as found:
        pages = {p: found.get(p).text for p in ("/", "/runs", "/calls", f"/runs/{run}")}
        pages["call"] = found.get(f"/calls/{call}").text
    for path, page in pages.items():
        assert re.search(r"\d (ms|s)\b(?! ago)", read(page).text) is None, path
    for path in ("/runs", "/calls", f"/runs/{run}", "call"):
        assert "file saved" in pages[path], path
    assert "This file says no times; steps are in their order." in pages[f"/runs/{run}"]
    assert 'id="by-model"' not in pages["/runs"]


def test_a_refused_page_offers_no_way_that_is_refused_too(site: Site) -> None:
    site.role = "caller"
    answer = site.get("/runs")
    assert answer.status == 403
    assert "You may not see this" in answer.text
    assert "Sign in with another key" in answer.text
    assert '<a class="button" href="/">' not in answer.text
