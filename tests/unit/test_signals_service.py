"""How calls are served, and what agents' tools and loops tell."""

from typing import Any

import msgspec
import pytest

from support.chats import asked, chat, message, said, values
from tocsin.core.interaction import Attempt, Decision, Usage
from tocsin.domains.signals.agents import AgentsEvaluator, failed
from tocsin.domains.signals.service import ServiceEvaluator


def served(**fields: Any) -> dict[str, float | None]:
    return values(ServiceEvaluator().evaluate(asked("Hello?", "Hello.", **fields)))


def attempt(number: int, reason: Any) -> Attempt:
    first = asked("x").interaction.attempts[0]
    return msgspec.structs.replace(first, number=number, reason=reason)


def test_a_good_call_has_its_times_its_rate_and_its_cost() -> None:
    found = served(
        stream=True,
        duration_us=2_500_000,
        first_chunk_us=500_000,
        usage=Usage(input_tokens=100, output_tokens=80, cache_read_tokens=25, source="reported"),
        cost_nano_usd=2_000_000,
    )
    assert found == {
        "failed": 0.0,
        "cancelled": 0.0,
        "retried": 0.0,
        "fell_back": 0.0,
        "duration_s": 2.5,
        "first_chunk_s": 0.5,
        "output_rate": 40.0,
        "cost_usd": 0.002,
        "cached_share": 0.25,
    }


def test_what_is_not_known_has_no_score() -> None:
    found = served(duration_us=0, usage=Usage(), cost_nano_usd=None, attempts=())
    assert set(found) == {"failed", "cancelled"}


@pytest.mark.parametrize("outcome", ["error", "timeout"])
def test_a_failed_call_is_judged_by_its_failure_alone(outcome: str) -> None:
    found = served(outcome=outcome, duration_us=9_000_000)
    assert found["failed"] == 1.0
    assert "duration_s" not in found


def test_a_caller_that_left_is_no_failure_and_a_denied_call_was_not_served() -> None:
    found = served(outcome="cancelled")
    assert found["cancelled"] == 1.0
    assert "failed" not in found
    assert served(outcome="denied") == {}
    assert served(outcome="unknown") == {}
    assert served(operation="execute_tool") == {}


def test_retries_and_fallbacks_are_told_apart() -> None:
    retried = served(attempts=(attempt(1, "first"), attempt(2, "retry")))
    assert (retried["retried"], retried["fell_back"]) == (1.0, 0.0)
    fell = served(attempts=(attempt(1, "first"), attempt(2, "fallback")))
    assert (fell["retried"], fell["fell_back"]) == (0.0, 1.0)


def test_an_answer_in_one_piece_has_its_rate_over_the_whole_call() -> None:
    usage = Usage(output_tokens=100, source="reported")
    found = served(stream=True, duration_us=1_000_000, first_chunk_us=999_000, usage=usage)
    assert found["output_rate"] == 100.0


# -- agents --

CALL = {"id": "c1", "type": "function", "function": {"name": "book", "arguments": "{}"}}
ASKS = message({"role": "assistant", "content": None, "tool_calls": [CALL]})


def result(content: Any) -> Any:
    return message({"role": "tool", "tool_call_id": "c1", "content": content})


def agent(*history: Any, **fields: Any) -> dict[str, float | None]:
    return values(AgentsEvaluator().evaluate(chat(*history, answer="Done.", **fields)))


@pytest.mark.parametrize(
    "text",
    [
        "Error: payment method not found",
        "ValueError: no such seat",
        "Traceback (most recent call last):\n  File x\nKeyError: 'a'",
        '{"error": "not found"}',
        '{"success": false, "message": "no"}',
        '{"status": 500}',
        "HTTP 404 Not Found",
        "bash: foo: command not found\nexit code: 127",
        "permission denied",
        "Timed out after 30 s",
    ],
)
def test_a_tools_failure_is_told_from_its_text(text: str) -> None:
    assert failed(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "255.0",
        '{"name": {"first_name": "Mia"}, "error": null}',
        '{"status": "ok", "errors": []}',
        "[]",
        "error rate: 0.2 %",
        "The log says that an error occurred in 1998.",
        "ok\nexit code: 0",
        "404 results",
        "def f():\n    raise ValueError('x')\n" * 100,
    ],
)
def test_what_only_mentions_errors_is_no_failure(text: str) -> None:
    assert not failed(text)


def test_only_the_results_among_the_new_messages_count() -> None:
    start = (said("user", "Book it."), ASKS, result("Error: sold out"))
    assert agent(*start, new_messages=1)["tool_success"] == 0.0
    later = (*start, ASKS, result('{"ok": true}'))
    assert agent(*later, new_messages=2)["tool_success"] == 1.0
    assert agent(*later)["tool_success"] == 0.5
    assert "tool_success" not in agent(said("user", "Hello."))


def test_anthropics_results_say_themselves_that_they_failed() -> None:
    blocks = [
        {"type": "tool_result", "tool_use_id": "c1", "content": "no luck", "is_error": True},
        {"type": "tool_result", "tool_use_id": "c2", "content": [{"type": "text", "text": "ok"}]},
    ]
    assert agent(message({"role": "user", "content": blocks}))["tool_success"] == 0.5


def test_a_tool_step_of_a_trace_worked_or_did_not() -> None:
    assert agent(operation="execute_tool", outcome="complete") == {"tool_success": 1.0}
    assert agent(operation="execute_tool", outcome="error") == {"tool_success": 0.0}


def test_a_run_is_in_a_loop_when_the_supervision_did_something() -> None:
    history = (said("user", "Book it."), ASKS, result("ok"))
    assert agent(*history)["loop_stage"] == 0.0
    warned = Decision(policy="agents", mode="observe", action="warn")
    assert agent(*history, decisions=(warned,))["loop_stage"] == 1.0
    other = Decision(policy="ledger", mode="enforce", action="deny")
    assert agent(*history, decisions=(other,))["loop_stage"] == 0.0
    assert "loop_stage" not in agent(said("user", "Hello."))


def test_steps_count_the_answers_in_the_history() -> None:
    history = (said("user", "Book it."), ASKS, result("ok"))
    assert agent(said("user", "Book it."))["steps"] == 1.0
    assert agent(*history)["steps"] == 2.0
    assert agent(*history, input_messages=103)["steps"] == 52.0
