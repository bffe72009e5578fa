"""What holds for each of the evaluators that see all traffic."""

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.chats import chat
from tocsin.core.domain import Domain
from tocsin.core.messages import Message
from tocsin.domains.signals.agents import AgentsEvaluator
from tocsin.domains.signals.form import FormEvaluator
from tocsin.domains.signals.service import ServiceEvaluator
from tocsin.domains.signals.users import UsersEvaluator
from tocsin.testing import check_domain

EVALUATORS = (AgentsEvaluator, FormEvaluator, ServiceEvaluator, UsersEvaluator)
JUDGES = tuple(make() for make in EVALUATORS)
"""They keep no state that tells; the model that one loads is loaded once."""
FORM = FormEvaluator()
NAMES = {
    "form": "schema_valid tool_arguments_valid choice_followed first_choice truncated refused empty"
    " boilerplate language_match repetition answer_words verbosity has_list has_code has_json"
    " has_table",
    "users": "reask corrected",
    "agents_signals": "tool_success loop_stage steps",
    "service": "failed cancelled retried fell_back first_chunk_s duration_s output_rate cost_usd"
    " cached_share",
}

leaves = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(0, 1) | st.text(max_size=12)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner)
)
blocks = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "tool_result", "tool_use", "thinking", "refusal", "x"])},
    optional={"text": values, "content": values, "is_error": values, "refusal": values,
              "id": st.text(max_size=3), "name": values, "input": values, "tool_use_id": values},
)  # fmt: skip
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool", "developer", "", "odd"])},
    optional={"content": values | st.lists(blocks, max_size=3), "refusal": values,
              "tool_call_id": values, "tool_calls": values, "name": values},
)  # fmt: skip
params = st.dictionaries(
    st.sampled_from(["response_format", "text", "tools", "functions", "tool_choice",
                     "output_format", "output_config"]),
    values | st.fixed_dictionaries({"type": st.just("json_schema"), "schema": values})
    | st.lists(st.fixed_dictionaries({"name": st.text(max_size=4), "input_schema": values})),
)  # fmt: skip


def odd(value: Any) -> Message:
    """A message with the raw bytes of any value: what a record may hold."""
    base = {"role": "user", "content": "x"}
    role = value.get("role") if isinstance(value, dict) else "user"
    content = value.get("content")
    found = content if isinstance(content, list) else []
    results = [b for b in found if isinstance(b, dict) and b.get("type") == "tool_result"]
    answers = tuple(str(block.get("tool_use_id")) for block in results)
    return Message(
        role=str(role), raw=msgspec.json.encode(value or base), hash=bytes(16), answers=answers
    )


def test_signals_have_the_names_that_everything_else_knows() -> None:
    for make in EVALUATORS:
        judge = make()
        assert [signal.name for signal in judge.signals] == NAMES[judge.name].split()
        for signal in judge.signals:
            assert signal.title
            assert signal.description.endswith(".")


def test_they_keep_the_contract_of_evaluators() -> None:
    check_domain(Domain(name="cheap", summary="Cheap evaluators.", evaluators=EVALUATORS))


@given(st.lists(messages, max_size=4), st.none() | messages, params)
@settings(max_examples=120, deadline=None)
def test_no_record_is_too_odd_to_judge(history: list[Any], answer: Any, asked: Any) -> None:
    entry = chat(*[odd(value) for value in history], params=asked)
    entry = msgspec.structs.replace(entry, output=odd(answer) if answer else None)
    for judge in JUDGES:
        known = {signal.name: signal for signal in judge.signals}
        scores = judge.evaluate(entry)
        assert scores == judge.evaluate(entry)
        for score in scores:
            assert score.name in known
            if score.value is not None and known[score.name].kind == "rate":
                assert 0.0 <= score.value <= 1.0
    assert all(isinstance(value, str) and value for value in FORM.slices(entry).values())


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"7", b'"x"', b"\xff", b"[" * 5_000])
def test_messages_that_are_no_json_objects_are_judged_as_empty(raw: bytes) -> None:
    broken = Message(role="assistant", raw=raw, hash=bytes(16), answers=("c1",))
    entry = msgspec.structs.replace(chat(broken, broken), output=broken)
    for make in EVALUATORS:
        make().evaluate(entry)
    FormEvaluator().slices(entry)


def test_a_long_history_costs_little() -> None:
    roles = ("user", "assistant")
    long = [odd({"role": roles[n % 2], "content": "x y z w " * 2_000}) for n in range(64)]
    entry = chat(*long, answer="fine " * 100_000)
    began = time.process_time()
    for make in EVALUATORS:
        make().evaluate(entry)
    assert time.process_time() - began < 1.0
