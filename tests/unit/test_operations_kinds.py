"""The conformance kit holds domains to what kinds of operation promise."""

from typing import Any

import pytest

from tocsin.core.domain import Domain
from tocsin.core.operations import Ending, Kind, Work
from tocsin.testing import check_domain


async def run(work: Work) -> Ending:
    return Ending(outcome="complete")


def domain(*kinds: Kind) -> Domain:
    return Domain(name="toy", summary="Works.", kinds=kinds)


def test_a_kind_as_it_should_be() -> None:
    schema = {"type": "object", "required": ["city"]}
    check_domain(domain(Kind(name="forecast", summary="Tells weather.", run=run, schema=schema)))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "Fore cast"}, "kinds: 'Fore cast' must be a lower-case word"),
        ({"name": "response"}, "kind response: is a kind of tocsin itself"),
        ({"summary": "two\nlines"}, "kind forecast: its summary"),
        ({"schema": {"type": "objekt"}}, "kind forecast: its schema is no JSON schema"),
        ({"run": "no function"}, "kind forecast: run must be callable"),
    ],
)
def test_what_is_wrong_with_a_kind_is_said(fields: dict[str, Any], said: str) -> None:
    kind = Kind(**{"name": "forecast", "summary": "Tells weather.", "run": run, **fields})
    with pytest.raises(AssertionError, match=said):
        check_domain(domain(kind))


def test_two_kinds_of_one_name() -> None:
    kind = Kind(name="forecast", summary="Tells weather.", run=run)
    with pytest.raises(AssertionError, match="'forecast' stands there twice"):
        check_domain(domain(kind, kind))
