"""Budgets hold in a race: the small form of ``bench/race.py``, and that it can tell."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RACE = Path(__file__).parents[2] / "bench" / "race.py"


def race(folder: Path, *args: str) -> dict[str, Any]:
    """The report's row of one race."""
    report = folder / "race.json"
    done = subprocess.run(
        [sys.executable, str(RACE), "--json", str(report), *args],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    row: dict[str, Any] = json.loads(report.read_text())["rows"][0]
    return row


def overspend(row: dict[str, Any]) -> int:
    """Nano US dollars that were billed beyond budgets."""
    return sum(level["overspend_nano"] for level in row["levels"])


def refused(row: dict[str, Any]) -> int:
    """Calls that were refused because of a budget."""
    return int(row["outcomes"].get("denied", 0))


@pytest.mark.slow
def test_no_budget_is_passed_and_no_call_refused_wrongly_through_three_kills(
    tmp_path: Path,
) -> None:
    row = race(tmp_path, "--kills", "3", "--seconds", "5", "--clients", "8", "--budget", "0.003")
    assert row["kills"] == 3
    assert refused(row) > 0
    assert overspend(row) == 0, row["levels"]
    assert row["false_denials"] == 0, row["false_examples"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "overspends", "denies_falsely"),
    [("strict", False, False), ("forgets", True, False), ("twice", False, True)],
)
def test_the_race_tells_a_strict_gateway_from_one_that_is_wrong(
    kind: str, overspends: bool, denies_falsely: bool, tmp_path: Path
) -> None:
    row = race(
        tmp_path, "--target", f"toy-{kind}", "--kills", "2", "--seconds", "2.5", "--budget", "0.003"
    )
    assert refused(row) > 0
    assert (overspend(row) > 0) is overspends
    assert (row["false_denials"] > 0) is denies_falsely
