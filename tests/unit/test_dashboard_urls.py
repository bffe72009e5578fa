"""The URL is the state of a page."""

import subprocess
import sys

import pytest
from starlette.datastructures import QueryParams

from tocsin.core.errors import InputError
from tocsin.dashboard import filters
from tocsin.dashboard.routes import ROUTES
from tocsin.store.api import Filter

NOW = 1_773_324_000_000_000
HOUR = 3_600_000_000


def parse(text: str, default: str = "24h") -> filters.Query:
    return filters.parse(QueryParams(text), NOW, default_range=default)


def test_a_preset_counts_back_from_now() -> None:
    query = parse("range=7d")
    assert query.where == Filter(since=NOW - 7 * 24 * HOUR, until=NOW)


def test_all_time_does_not_restrict() -> None:
    assert parse("range=all&feature=a").where == Filter(feature="a")


def test_since_and_until_win_over_the_preset() -> None:
    query = parse("range=1h&since=2026-03-12T10:00:00Z&until=2026-03-12T11:30:00%2B01:00")
    assert query.range == "custom"
    assert (query.until or 0) - (query.since or 0) == HOUR // 2


def test_a_link_carries_range_and_filters_and_changes_what_it_is_told() -> None:
    query = parse("range=7d&feature=a b&outcome=error")
    assert query.link("/runs", outcome=None) == "/runs?feature=a%20b&range=7d"
    assert query.link("/calls", feature="é&x") == "/calls?feature=%C3%A9%26x&outcome=error&range=7d"


def test_a_link_read_again_gives_the_same_question() -> None:
    asked = "since=2026-03-12T10:00:00Z&until=2026-03-12T11:00:00Z&end_user=a%26b&text=%22x%22"
    query = parse(asked)
    again = parse(query.link("/runs").partition("?")[2])
    assert again.where == query.where


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("range=9d", "range"),
        ("outcome=fine", "outcome"),
        ("sort=title", "sort"),
        ("by=weather", "by"),
        ("since=yesterday", "since"),
        ("since=2026-03-12T12:00Z&until=2026-03-12T11:00Z", "since"),
        ("order=up", "order"),
    ],
)
def test_a_bad_parameter_is_named_with_what_it_may_be(text: str, named: str) -> None:
    with pytest.raises(InputError, match=named):
        parse(text)


def test_ended_badly_is_a_filter_of_its_own() -> None:
    query = parse("outcome=bad")
    assert query.bad
    assert query.where.outcome is None
    assert "outcome=bad" in query.link("/calls")


def test_whole_numbers_are_bounded() -> None:
    assert filters.number(QueryParams("offset=99999999999"), "offset", 0, 500) == 500
    for bad in ("-1", "1.5", "٣", "1" * 40):
        with pytest.raises(InputError, match="offset"):
            filters.number(QueryParams({"offset": bad}), "offset", 0, 500)


def test_every_page_declares_the_least_role_that_may_use_it() -> None:
    roles = {(route.path, route.methods): route.role for route in ROUTES}
    assert len(roles) == len(ROUTES)
    public = [path for (path, _), role in roles.items() if role == "anonymous"]
    assert public == ["/static/{name}"]
    changing = {path: role for (path, methods), role in roles.items() if methods == ("POST",)}
    assert changing.pop("/supervisor/act") == "operator"
    # Whoever may read an answer may say whether it was right.
    assert changing.pop("/calls/{call_id}/feedback") == "viewer"
    assert changing.pop("/operations/{operation_id}/cancel") == "operator"
    assert changing.pop("/operations/{operation_id}/answer") == "operator"
    assert changing.pop("/signals/{feature}/{signal}/accept") == "operator"
    assert changing.pop("/signals/{feature}/{signal}/forget") == "operator"
    assert set(changing.values()) == {"admin"}


def test_importing_the_dashboard_loads_no_template_engine() -> None:
    """The gateway starts with the pages on board; the first page pays for Jinja, not the start."""
    code = "import sys, tocsin.dashboard; sys.exit('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
