"""The parts of the engine that need no store: what errors mean, what an end says, tails of logs."""

import json

import pytest

from tocsin.config.operations import OperationsSettings
from tocsin.core.errors import Denied, Forbidden, InputError, UpstreamFailed
from tocsin.core.operations import (
    Closing,
    EffectUnknown,
    Ending,
    Event,
    Kind,
    NotDone,
    Operation,
    Step,
    step_key,
)
from tocsin.operations import Settings, is_uncertain, nobody, settings_of
from tocsin.operations.endings import End, effects_of, end_of, ending_of
from tocsin.operations.live import Topic

OPERATION = Operation(id="op_1", kind="work", feature="f", created_at=1, events=4, owner="own_1")


async def no_run(work: object) -> Ending:
    raise AssertionError


def event(number: int, size: int = 1) -> Event:
    return Event(number, "x", 0, b"x" * size)


# -- settings and keys --


def test_settings_come_from_the_configuration() -> None:
    plain = settings_of(OperationsSettings())
    assert plain == Settings()
    section = OperationsSettings(keep_days=None, deadline_s=2.5, concurrency=3, linger_s=0)
    assert settings_of(section) == Settings(
        keep_us=None, deadline_us=2_500_000, concurrency=3, linger_s=0
    )


def test_a_step_is_named_by_what_it_is_and_not_by_the_order_of_its_arguments() -> None:
    key = step_key("op_1", "charge", {"cents": 5, "to": {"a": 1, "b": 2}})
    assert key == step_key("op_1", "charge", {"to": {"b": 2, "a": 1}, "cents": 5})
    others = [
        step_key("op_2", "charge", {"cents": 5, "to": {"a": 1, "b": 2}}),
        step_key("op_1", "refund", {"cents": 5, "to": {"a": 1, "b": 2}}),
        step_key("op_1", "charge", {"cents": 6, "to": {"a": 1, "b": 2}}),
    ]
    assert len({key, *others}) == 4


# -- errors --


@pytest.mark.parametrize(
    ("error", "open_"),
    [
        (TimeoutError(), True),
        (ConnectionResetError(), True),
        (BrokenPipeError(), True),
        (EOFError(), True),
        (UpstreamFailed("gone", sent=True), True),
        (EffectUnknown("step_1", "charge"), True),
        (ConnectionRefusedError(), False),
        (UpstreamFailed("no line", sent=False), False),
        (ValueError("a bug behind the charge"), True),
        (NotDone("no such card"), False),
    ],
)
def test_which_errors_leave_open_whether_it_happened(error: Exception, open_: bool) -> None:
    assert is_uncertain(error) is open_


@pytest.mark.parametrize(
    ("error", "outcome", "error_type"),
    [
        (EffectUnknown("step_1", "charge"), "unknown", "effect_unknown"),
        (Denied("no"), "denied", "denied"),
        (Forbidden("no"), "error", "forbidden"),
        (UpstreamFailed("slow", sent=True, timeout=True), "timeout", "upstream_timeout"),
        (InputError("what?"), "error", "failed"),
        (KeyError("x"), "error", "internal_error"),
    ],
)
def test_what_an_exception_means(error: Exception, outcome: str, error_type: str) -> None:
    ending = ending_of(error)
    assert (ending.outcome, ending.error_type) == (outcome, error_type)


def test_no_secret_stands_in_an_error() -> None:
    ending = ending_of(RuntimeError("key sk-proj-abcdefghijklmnopqrstuvwx was refused"))
    assert "abcdefghijkl" not in str(ending.error_message)
    assert str(ending.error_message).startswith("RuntimeError: key ")


# -- ends --


def ended(kind: Kind | None, ending: Ending, *, given: bool = True, keep: int | None = 9) -> End:
    effects = effects_of(
        [
            Step(key="step_1", scope="op_1", name="pay", effect=True, state="done", begun_at=0),
            Step(key="step_2", scope="op_1", name="think", state="done", begun_at=0),
        ]
    )
    return end_of(
        OPERATION,
        kind,
        b"{}",
        ending,
        given=given,
        effects=effects,
        now=100,
        keep_us=keep,
        told=nobody,
    )


def test_an_end_names_the_effects_and_frees_the_operation() -> None:
    end = ended(Kind(name="work", summary="", run=no_run), Ending(outcome="cancelled"))
    (last,) = end.events
    said = json.loads(last.data)
    assert (last.number, last.type, said["sequence_number"]) == (4, "operation.ended", 4)
    assert said["effects"] == [{"name": "pay", "key": "step_1", "state": "done"}]
    assert json.loads(end.result) == {"effects": said["effects"]}
    assert (end.operation.owner, end.operation.expires_at, end.operation.events) == (None, 109, 5)


def test_a_result_that_was_given_stays_as_it_is() -> None:
    quiet = Kind(name="work", summary="", run=no_run, quiet=True)
    end = ended(quiet, Ending(outcome="cancelled", result=b"[1]"), keep=None)
    assert (end.events, end.result, end.operation.expires_at) == ((), b"[1]", None)


def test_the_closing_of_a_kind_speaks_only_where_its_work_did_not() -> None:
    asked = []

    def closing(operation: Operation, body: bytes) -> Closing:
        asked.append(operation)
        return Closing(events=(("last", b"{}"),), result=b'"closed"')

    kind = Kind(name="work", summary="", run=no_run, quiet=True, closing=closing)
    assert ended(kind, Ending(outcome="complete")).events == ()
    end = ended(kind, Ending(outcome="timeout"), given=False)
    assert [(e.number, e.type) for e in end.events] == [(4, "last")]
    assert end.result == b'"closed"'
    assert [one.outcome for one in asked] == ["timeout"]


def test_a_closing_that_fails_keeps_nothing_from_ending() -> None:
    def closing(operation: Operation, body: bytes) -> Closing:
        raise ValueError

    kind = Kind(name="work", summary="", run=no_run, closing=closing)
    end = ended(kind, Ending(outcome="error"), given=False)
    assert [e.type for e in end.events] == ["operation.ended"]


# -- tails --


def test_a_tail_gives_what_follows_and_says_when_it_has_forgotten() -> None:
    topic = Topic()
    topic.begin(10)
    topic.publish([event(n) for n in range(10, 20)])
    assert [e.number for e in topic.since(16) or ()] == [17, 18, 19]
    assert [e.number for e in topic.since(9) or ()] == list(range(10, 20))
    assert topic.since(19) == []
    assert topic.since(40) == []
    assert topic.since(8) is None


def test_a_tail_holds_no_more_than_its_share() -> None:
    topic = Topic()
    topic.begin(0)
    topic.publish([event(n) for n in range(5000)])
    assert topic.since(4998) == [event(4999)]
    assert topic.since(3000) is None
    topic.publish([event(n, 100_000) for n in range(5000, 5010)])
    assert topic.since(5008) == [event(5009, 100_000)]
    assert topic.since(5004) is None
