"""``tocsin replay --detectors``: what would have rung over recorded calls, and when."""

import json
import random
from pathlib import Path

from acceptance.tocsin_command import tocsin

MARCH = 1_677_628_800
ASKED = 'Is {} a prime number? Answer "[Yes]" or "[No]".'


def written(folder: Path, before: int, after: int) -> str:
    """Calls of a model that gives the option as it was asked to, and then mostly does not."""
    dice, lines = random.Random(1), []
    for number in range(before + after):
        named = dice.choice(("Yes", "No"))
        plain = number >= before and dice.random() < 0.7
        answer = f"I would say \x1b[31m{named.lower()}." if plain else f"[{named}]"
        said = [
            {"role": "user", "content": ASKED.format(dice.randrange(10**6))},
            {"role": "assistant", "content": answer},
        ]
        lines.append(
            json.dumps({"messages": said, "model": "gpt-4", "created_at": MARCH + number * 600})
        )
    path = folder / "calls.jsonl"
    path.write_text("\n".join(lines))
    return str(path)


def test_a_recorded_change_is_told_with_its_time_and_its_delay(tmp_path: Path) -> None:
    path = written(tmp_path, 300, 80)
    done = tocsin("replay", path, "--detectors", "--feature", "prime", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["calls"], found["untimed"]) == (380, 0)
    own = [rang for rang in found["rang"] if rang["signal"] == "choice_followed"]
    assert [rang["state"] for rang in own] == ["firing"]
    assert 300 < own[0]["call"] <= 340
    change = own[0]["change"]
    assert abs(change["since"] // 1_000_000 - (MARCH + 300 * 600)) <= 600 * 5
    assert change["verdict"] == "worse"
    assert change["examples_after"]


def test_people_get_a_timeline_a_table_and_sentences(tmp_path: Path) -> None:
    path = written(tmp_path, 300, 80)
    done = tocsin("replay", path, "--detectors", "--feature", "prime", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in ("Timeline", "choice_followed", "critical", "Delay", "95 % interval", "fell from"):
        assert words in done.stdout
    assert "\x1b" not in done.stdout


def test_too_few_calls_are_called_underpowered(tmp_path: Path) -> None:
    done = tocsin("replay", written(tmp_path, 20, 0), "--detectors", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Nothing would have rung" in done.stdout
    assert "underpowered" in done.stdout
    assert "30 more needed" in done.stdout


def test_one_backtest_at_a_time(tmp_path: Path) -> None:
    path = written(tmp_path, 2, 0)
    done = tocsin("replay", path, "--detectors", "--policy", "agents", folder=tmp_path)
    assert done.returncode == 2
    assert "one at a time" in done.stderr
    done = tocsin("replay", path, "--detectors", "--keep", folder=tmp_path)
    assert done.returncode == 2
    assert "--keep" in done.stderr
