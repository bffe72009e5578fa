"""How a run came out, as a line of a file says it."""

import pytest

from tocsin.importers.formats.chat import verdict_of


@pytest.mark.parametrize(
    ("line", "result"),
    [
        ({"result": "Halted"}, "halted"),
        ({"success": False}, "failure"),
        ({"metadata": {"resolved": True}}, "success"),
        ({"reward": 1}, "success"),
        ({"reward": 0.5}, "failure"),
        ({"success": True, "metadata": {"success": False}}, "success"),
    ],
)
def test_a_line_or_its_metadata_says_how_the_run_came_out(
    line: dict[str, object], result: str
) -> None:
    assert verdict_of(line)["result"] == result


@pytest.mark.parametrize(
    "line", [{}, {"result": "text of an answer"}, {"success": "yes"}, {"reward": True}]
)
def test_what_says_nothing_clear_is_no_verdict(line: dict[str, object]) -> None:
    assert verdict_of(line) == {}
