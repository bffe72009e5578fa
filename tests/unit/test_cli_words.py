"""What commands are told and what they print: spans of time, filters, hostile text."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.cli import output
from tocsin.cli.context import chosen, future, moment
from tocsin.cli.records import matches
from tocsin.core.errors import InputError
from tocsin.core.interaction import Interaction
from tocsin.store.api import Filter
from tocsin.testing import sample_entries

NOW = 1_700_000_000_000_000
HOUR = 3_600_000_000


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("30m", HOUR // 2),
        ("24h", 24 * HOUR),
        ("7d", 168 * HOUR),
        ("2w", 336 * HOUR),
        ("1.5h", 90 * 60_000_000),
    ],
)
def test_a_span_counts_back_from_now(text: str, ago: int) -> None:
    assert moment(text, NOW, "--since") == NOW - ago


def test_a_date_with_a_zone_is_that_instant() -> None:
    assert moment("2023-11-14T22:13:20+00:00", 0, "--since") == NOW


def test_all_and_nothing_do_not_restrict() -> None:
    assert moment("all", NOW, "--since") is None
    assert moment(None, NOW, "--since") is None


@pytest.mark.parametrize("text", ["yesterday", "5", "-3h", "3 fortnights", "2026-13-01", ""])
def test_what_is_no_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(InputError, match=r"--since: found .*allowed: a span such as 30m"):
        moment(text, NOW, "--since")


def test_an_end_lies_ahead() -> None:
    assert future("90d", NOW, "--expires") == NOW + 90 * 24 * HOUR
    assert future("2030-01-01T00:00:00+00:00", NOW, "--expires") == 1_893_456_000_000_000


def test_options_become_the_filter_that_they_spell() -> None:
    found = chosen(NOW, {"since": "24h", "outcome": "error", "feature": "chat", "model": None})
    assert found == Filter(since=NOW - 24 * HOUR, outcome="error", feature="chat")


def test_a_call_passes_a_filter_when_every_part_fits() -> None:
    call = sample_entries()[2].interaction
    assert matches(call, Filter())
    assert matches(call, Filter(feature="sample", outcome="error", model="sample-model"))
    assert not matches(call, Filter(feature="sample", outcome="complete"))
    assert not matches(call, Filter(model="other"))
    answered = msgspec.structs.replace(call, response_model="sample-model-2026")
    assert matches(answered, Filter(model="sample-model-2026"))


@given(st.text(st.characters(codec="utf-8")))
def test_json_says_the_same_and_holds_nothing_that_acts(text: str) -> None:
    printed = output.json_text({"said": text})
    assert json.loads(printed) == {"said": text}
    acting = [c for c in printed if ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or c in "\u202e\u2066"]
    assert acting == []


def test_a_record_as_json_has_its_hashes_in_hex() -> None:
    call = sample_entries()[0].interaction
    found: dict[str, Any] = output.plain(call)
    assert call.input_node is not None
    assert found["input_node"] == call.input_node.hex()
    back = {**found, "input_node": call.input_node, "output_node": call.output_node}
    assert msgspec.convert(back, Interaction) == call


@pytest.mark.parametrize(
    "hostile", ["\x1b[2J", "\x9b31m", "a\rb", "\x07", "\u202eevil", "[bold]x[/]"]
)
def test_recorded_text_in_a_table_only_says_something(hostile: str) -> None:
    shown = str(output.cell(f"before {hostile} after"))
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or c == "\u202e" for c in shown)
    if hostile.startswith("[bold]"):
        assert hostile in shown
