"""The backtest: where each stage would have acted, what that saves, how often it is right."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.core.interaction import Entry, Interaction, Usage
from tocsin.core.messages import Message, chain, parse_message
from tocsin.domains.agents.backtest import Backtest, share


def message(**fields: Any) -> Message:
    return parse_message(json.dumps(fields).encode())


def run(name: str, results: list[str], result: str | None, price: int | None = 10) -> list[Entry]:
    """A run that asks for the same page each time and gets these results."""
    history = [message(role="user", content=f"Find the opening hours for {name}.")]
    entries = []
    for number, text in enumerate(results, 1):
        tool = {"name": "open", "arguments": '{"page": "hours"}'}
        call = {"id": f"t{number}", "type": "function", "function": tool}
        output = message(role="assistant", content=None, tool_calls=[call])
        last = number == len(results)
        interaction = Interaction(
            id=f"{name}_{number}",
            source="import",
            dialect="openai",
            operation="chat",
            path="/v1/chat/completions",
            started_at=1_700_000_000_000_000 + number * 1_000_000,
            duration_us=1000,
            outcome="complete",
            feature="web",
            run_id=name,
            run_source="trace",
            request_model="m",
            usage=Usage(input_tokens=90, output_tokens=10, source="reported"),
            cost_nano_usd=price,
            attributes={"result": result} if result and last else {},
        )
        said = tuple(history)
        entries.append(Entry(interaction=interaction, input=said, nodes=chain(said), output=output))
        answer = message(role="tool", tool_call_id=f"t{number}", content=text)
        history += [output, answer]
    return entries


STUCK = ["The page could not be loaded: timeout"] * 14
FINE = ["Opening hours: Monday to Friday, nine to five."]


def test_stages_act_at_their_calls_and_say_what_a_pause_would_have_saved() -> None:
    tried = Backtest()
    for entry in run("stuck", STUCK, "halted"):
        tried.add(entry)
    (verdict,) = tried.report().verdicts
    assert verdict.nudge is not None
    assert verdict.pause is not None
    assert verdict.kill is not None
    assert verdict.nudge.call <= verdict.pause.call < verdict.kill.call
    pause = verdict.pause
    assert pause.calls_after == len(STUCK) - pause.call + 1
    assert pause.tokens_after == 100 * pause.calls_after
    assert pause.nano_usd_after == 10 * pause.calls_after
    assert "\n" not in pause.evidence
    assert verdict.baseline_call == 3


def test_precision_and_recall_come_with_intervals_and_a_warning_when_few() -> None:
    tried = Backtest()
    runs = [run(f"s{i}", STUCK, "halted") for i in range(3)]
    runs += [run(f"f{i}", FINE, "success") for i in range(40)]
    runs += [run("f99", FINE, None), run("w1", FINE, "failure")]
    for entry in itertools.chain.from_iterable(runs):
        tried.add(entry)
    report = tried.report()
    assert report.results == {"halted": 3, "failure": 1, "success": 40}
    assert report.recall_of == "halted"
    pause = next(stage for stage in report.stages if stage.name == "pause")
    assert (pause.recall.count, pause.recall.total, pause.recall.underpowered) == (3, 3, True)
    assert pause.flagged["success"].count == 0
    assert not pause.flagged["success"].underpowered
    assert pause.precision.share == 1.0
    assert report.baseline.runs == 3
    assert report.runs == 45


def test_interleaved_runs_are_told_apart_and_unpriced_calls_counted() -> None:
    tried = Backtest()
    for pair in zip(run("a", STUCK, "halted", None), run("b", STUCK, "success"), strict=True):
        for entry in pair:
            tried.add(entry)
    report = tried.report()
    assert report.unpriced == len(STUCK)
    assert {v.run_id: v.result for v in report.verdicts} == {"a": "halted", "b": "success"}
    assert len({v.pause.call for v in report.verdicts if v.pause}) == 1


def test_a_file_without_results_has_none_to_be_right_about() -> None:
    tried = Backtest()
    for entry in run("a", STUCK, None):
        tried.add(entry)
    report = tried.report()
    assert all(s.recall.share is None and s.precision.share is None for s in report.stages)


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [(0, 10, 0, 0.2775), (10, 10, 0.7225, 1), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)],
)
def test_intervals_are_wilsons(count: int, total: int, low: float, high: float) -> None:
    found = share(count, total)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_share(pair: tuple[int, int]) -> None:
    found = share(*pair)
    assert found.low is not None
    assert found.share is not None
    assert found.high is not None
    assert 0 <= found.low <= found.share <= found.high <= 1
