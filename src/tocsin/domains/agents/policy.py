"""``AgentsPolicy``: watches runs in the data path, and acts in stages: nudge, pause, kill."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from time import monotonic

import msgspec

from tocsin.core.call import Call, Identity
from tocsin.core.domain import Services
from tocsin.core.errors import CallError, Denied, RunPaused, Stopped
from tocsin.core.interaction import Decision, Interaction, Mode
from tocsin.core.messages import Message
from tocsin.core.policy import FailureMode, Next, Reply
from tocsin.core.stops import Stop
from tocsin.core.supervision import STAGES, Evidence, Finding, Stage, Supervision
from tocsin.core.wire.instruct import with_instruction
from tocsin.domains.agents.engine import StreamWatch
from tocsin.domains.agents.lengths import Lengths
from tocsin.domains.agents.nudge import nudge
from tocsin.domains.agents.stream import WatchedChunks
from tocsin.domains.agents.supervised import Answer, First, Supervised

log = logging.getLogger("tocsin.agents")

NAME = "agents"
NOTICE = b"tocsin-supervision"
MAX_RUNS = 2000
"""Runs whose trackers are kept, the latest; another is rebuilt from its calls' messages ..."""
MAX_STEPS = 20_000
"""... and the calls of them together: a tracker takes some 6 KB for each of its first 300 calls."""
MAX_FIRSTS = 4000
"""First calls that are remembered until their run goes on, the latest: about 0.5 KB each."""
_RUN_STEPS = 300
_READ = frozenset({"chat", "generate_content", "text_completion"})
TELL_S = 0.5
"""How long what is known of a run may wait until it is passed on: a run of quick calls costs one
summary in that time, not one for each call."""
CATCH_UP_S = 0.001
"""How long, at most, calls wait in one turn of the loop for what was put off."""
_SHOWN = 3
"""Steps of the evidence that a refused caller gets."""


class AgentsPolicy:
    """One tracker for each run, fed with every call and answer; what it finds is acted upon by the
    strongest stage that the feature's settings enforce."""

    name = NAME
    failure: FailureMode = "open"
    timeout_s = 2.0
    """A pause is written to the store before the caller is told; all else is memory."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._runs: OrderedDict[tuple[str, str], Supervised] = OrderedDict()
        self._firsts: OrderedDict[tuple[str, str], First] = OrderedDict()
        self._steps = 0
        self._lengths = Lengths()
        self._untold: dict[int, Supervised] = {}
        self._telling: tuple[asyncio.AbstractEventLoop, asyncio.TimerHandle] | None = None
        self._behind: dict[int, Supervised] = {}
        """Runs with calls or answers that are not taken in yet, as nobody waits for that."""
        self._catching: asyncio.AbstractEventLoop | None = None

    async def __call__(self, call: Call, next: Next) -> Reply:
        identity = call.draft.identity
        if identity is None or call.operation not in _READ:
            return await next(call)
        settings = self._services.supervision(call.feature)
        if _is_off(settings):
            return await next(call)
        run = self._run(call, identity, settings)
        if run is not None and (findings := run.ask(call)):
            call = await self._act(call, run, settings, findings)
        if run is not None and run.behind:
            self._catch_up_soon(run)
        reply = await next(call)
        if reply.chunks is not None and settings.stream != "off" and _is_readable(reply):
            self._watch_stream(call, identity, run, settings, reply)
        return reply

    def learn(self, call: Call, interaction: Interaction, output: Message | None) -> None:
        """Take in how a call ended; one that never reached a model tells nothing."""
        identity = call.draft.identity
        if identity is None or interaction.outcome == "denied":
            return
        if call.operation not in _READ:
            return
        key = call.feature, identity.run_id
        run = self._runs.get(key)
        if run is None:
            if _is_first(call, identity):
                self._once(key, call, interaction, output)
            return
        run.answered_later(Answer.of(interaction, self._services.price(interaction)), output)
        self._catch_up_soon(run)
        if run.room < _RUN_STEPS:
            run.room += 1
            self._steps += 1
            self._make_room()
        self._tell_soon(run)
        self._lengths.answered(
            run.length,
            interaction.started_at + interaction.duration_us,
            asks_more=output is None or bool(output.calls),
        )

    def _once(
        self, key: tuple[str, str], call: Call, interaction: Interaction, output: Message | None
    ) -> None:
        """The end of a run's first call. Most are the only one, so that little is done."""
        messages = call.messages
        plain = output is not None and not output.calls
        answer = Answer.of(interaction, self._services.price(interaction))
        self._firsts[key] = First(
            id=interaction.id,
            agent=interaction.agent or "",
            started_at=interaction.started_at,
            answer=answer,
            unpriced=interaction if answer.nano_usd is None else None,
            size=len(messages),
            last=messages[-1].hash if messages else b"",
            plain=plain,
        )
        if len(self._firsts) > MAX_FIRSTS:
            self._firsts.popitem(last=False)
        if plain:
            self._lengths.single(call.feature, interaction.started_at + interaction.duration_us)

    def _catch_up_soon(self, run: Supervised) -> None:
        """Take in what was put off when the loop has its next turn: while the model is at work, or
        after the last byte was sent. The run's next call does so if it comes before."""
        self._behind[id(run)] = run
        if self._catching is not None and not self._catching.is_closed():
            return
        try:
            self._catching = asyncio.get_running_loop()
        except RuntimeError:
            self._catch_up()  # nobody would call us later
            return
        self._catching.call_soon(self._catch_up)

    def _catch_up(self) -> None:
        """Some of the runs, so that calls do not wait long; the others at the next turn."""
        loop, self._catching = self._catching, None
        until = monotonic() + CATCH_UP_S
        while self._behind and (loop is None or monotonic() < until):
            _, run = self._behind.popitem()
            try:
                run.catch_up()
            except Exception:
                log.exception("what run %s did could not be looked at", run.run_id)
        if self._behind and loop is not None:
            self._catching = loop
            loop.call_soon(self._catch_up)

    def tell(self) -> None:
        """Pass on how the runs stand that have had calls since the last time."""
        untold, self._untold, self._telling = self._untold, {}, None
        for run in untold.values():
            self._services.watched(run.watch())

    def _tell_soon(self, run: Supervised) -> None:
        self._untold[id(run)] = run
        if self._telling is not None and not self._telling[0].is_closed():
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.tell()  # nobody would call us later
            return
        self._telling = loop, loop.call_later(TELL_S, self.tell)

    # -- runs --

    def _run(self, call: Call, identity: Identity, settings: Supervision) -> Supervised | None:
        """The run of a call; ``None`` for the first one, of which nothing can be said."""
        key = (call.feature, identity.run_id)
        run = self._runs.get(key)
        if run is None:
            if key not in self._firsts and _is_first(call, identity):
                return None
            return self._begin(key, call, identity, settings)
        self._runs.move_to_end(key)
        if (run.held and self._services.stops.standing(call) is None) or _was_let_go(call):
            run.anew(call.messages)
        return run

    def _begin(
        self, key: tuple[str, str], call: Call, identity: Identity, settings: Supervision
    ) -> Supervised:
        """Know a run from its second call on; one that was forgotten from what it sends."""
        expected = settings.expected_calls or self._lengths.usual(call.feature)
        run = Supervised(identity.run_id, call.feature, identity.parent_run_id, expected)
        # A history that comes whole takes as much room as its calls one by one.
        run.room = min(_RUN_STEPS, 2 + len(call.messages) // 2)
        self._steps += run.room
        self._runs[key] = run
        self._make_room()
        first = self._firsts.pop(key, None)
        if first is not None:
            if (unpriced := first.unpriced) is not None:
                price = self._services.price(unpriced)
                first = first._replace(answer=first.answer._replace(nano_usd=price))
            run.recall(first, call.messages)
            if first.plain:
                self._lengths.went_on(call.feature)
        elif self._services.stops.lifted(identity.run_id):
            # It was held before this process knew it, and somebody let it go on.
            run.anew(call.messages)
        return run

    def _make_room(self) -> None:
        while len(self._runs) > MAX_RUNS or (self._steps > MAX_STEPS and len(self._runs) > 1):
            _, old = self._runs.popitem(last=False)
            self._steps -= old.room

    # -- acting --

    async def _act(
        self, call: Call, run: Supervised, settings: Supervision, findings: Sequence[Finding]
    ) -> Call:
        """Do what the settings say about what was found; returns the call to go on with.

        Raises ``RunPaused`` and ``Stopped``.
        """
        chosen: tuple[Finding, Stage] | None = None
        for finding in findings:
            stage = _acting(finding.stage, settings)
            if stage is not None and (chosen is None or _rank(stage) > _rank(chosen[1])):
                chosen = finding, stage
        run.length.troubled |= any(finding.stage != "nudge" for finding in findings)
        for finding in findings:
            if chosen is None or finding is not chosen[0]:
                self._keep(call, finding, settings, acted=None)
        if chosen is None:
            return call
        finding, stage = chosen
        if stage == "nudge":
            return self._nudge(call, run, settings, finding)
        self._keep(call, finding, settings, acted=stage)
        raise await self._hold(call, run, finding, stage)

    def _keep(
        self, call: Call, finding: Finding, settings: Supervision, *, acted: Stage | None
    ) -> None:
        """Keep a finding with what was done about it; say what would have been done."""
        mode = "enforce" if acted == finding.stage else _unless_enforced(finding.stage, settings)
        if mode != "off":
            self._services.found(msgspec.structs.replace(finding, mode=mode))
        if acted is not None and acted != finding.stage:
            self._services.found(msgspec.structs.replace(finding, stage=acted, mode="enforce"))
        if mode == "observe":
            _decide(call, "observe", "warn", f"would {finding.stage}: {_said(finding)}")

    def _nudge(self, call: Call, run: Supervised, settings: Supervision, finding: Finding) -> Call:
        body = call.body
        if run.may_nudge(finding):
            body = with_instruction(
                call.dialect, call.operation, body, nudge(finding), settings.role
            )
        changed = body is not call.body
        self._keep(call, finding, settings, acted="nudge" if changed else None)
        if not changed:
            return call
        _decide(call, "enforce", "modify", f"nudge: {_said(finding)}")
        detector = finding.detector.encode("ascii", "replace")
        call.draft.notices.append((NOTICE, b"nudge; detector=" + detector))
        return call.evolve(body=body)

    async def _hold(self, call: Call, run: Supervised, finding: Finding, stage: Stage) -> CallError:
        """Give the order, and what to tell the caller; without a store, the call still ends."""
        run.pending.append(finding)  # until the order stands, so that the next call tries again
        stop: Stop | None = None
        try:
            stop = await self._services.stops.give(
                "run",
                run.run_id,
                "kill" if stage == "kill" else "pause",
                reason=finding.summary,
                by=f"policy:{NAME}",
                feature=run.feature,
                evidence=finding.evidence,
            )
            run.pending.remove(finding)
            run.held = True
        except Exception:
            log.exception("run %s is refused, but its %s could not be kept", run.run_id, stage)
        self._services.watched(run.watch())
        return _refusal(run, finding, stage, stop)

    # -- streams --

    def _watch_stream(
        self,
        call: Call,
        identity: Identity,
        run: Supervised | None,
        settings: Supervision,
        reply: Reply,
    ) -> None:
        number = run.length.calls + 1 if run is not None else 1

        def repeats(summary: str) -> CallError | None:
            return self._stream_repeats(call, identity.run_id, number, settings.stream, summary)

        assert reply.chunks is not None
        reply.chunks = WatchedChunks(reply.chunks, StreamWatch(), repeats)

    def _stream_repeats(
        self, call: Call, run_id: str, number: int, mode: Mode, summary: str
    ) -> CallError | None:
        self._services.found(
            Finding(
                run_id=run_id,
                feature=call.feature,
                call=number,
                at=self._services.clock.now_us(),
                stage="nudge",
                detector="stream_repeats",
                summary=summary,
                evidence=(
                    Evidence(call=number, tool="", result=summary[:400], interaction_id=call.id),
                ),
                mode=mode,
                interaction_id=call.id,
            )
        )
        if mode != "enforce":
            _decide(call, "observe", "warn", f"would end the stream: {summary}")
            return None
        _decide(call, "enforce", "deny", f"the stream was ended: {summary}")
        return Stopped(
            f"The answer was ended because it repeats itself: {summary} Ask again, with other "
            'sampling settings or a lower max_tokens; agents.stream = "observe" lets it run on.',
            code="stream_repeats",
            details={"run_id": run_id, "detector": "stream_repeats", "summary": summary},
        )


def _is_off(settings: Supervision) -> bool:
    return settings.nudge == settings.pause == settings.kill == settings.stream == "off"


def _is_first(call: Call, identity: Identity) -> bool:
    """Whether a call of a run that is not known begins it."""
    if identity.run_source == "new":
        return True
    return all(message.role != "assistant" for message in call.messages)


def _is_readable(reply: Reply) -> bool:
    return reply.status == 200 and reply.header(b"content-encoding") in (None, b"identity")


def _was_let_go(call: Call) -> bool:
    """Whether this very call was held for a decision, which let it go on."""
    return any(d.policy == "stops" and d.action == "pause" for d in call.draft.decisions)


def _rank(stage: Stage) -> int:
    return STAGES.index(stage)


def _mode(stage: Stage, settings: Supervision) -> Mode:
    if stage == "nudge":
        return settings.nudge
    return settings.pause if stage == "pause" else settings.kill


def _acting(stage: Stage, settings: Supervision) -> Stage | None:
    """The strongest enforced stage, up to the one that the evidence carries."""
    for candidate in reversed(STAGES[: _rank(stage) + 1]):
        if _mode(candidate, settings) == "enforce":
            return candidate
    return None


def _unless_enforced(stage: Stage, settings: Supervision) -> Mode:
    """The mode of a finding whose stage did not act: another finding's did, or it is observed."""
    return "off" if _mode(stage, settings) == "off" else "observe"


def _said(finding: Finding) -> str:
    return f"{finding.detector}: {finding.summary}"


def _decide(call: Call, mode: Mode, action: str, detail: str) -> None:
    call.draft.decisions.append(
        Decision(
            policy=NAME,
            mode=mode,
            action=action,  # type: ignore[arg-type]  # the callers above pass the Literal's words
            detail=detail[:500],
        )
    )


def _refusal(run: Supervised, finding: Finding, stage: Stage, stop: Stop | None) -> Denied:
    """What the caller of a held run is told: why, and how it goes on."""
    details: dict[str, object] = {
        "stop_id": stop.id if stop is not None else None,
        "scope": "run",
        "value": run.run_id,
        "run_id": run.run_id,
        "detector": finding.detector,
        "summary": finding.summary,
        "reason": finding.summary,
        "at": stop.at if stop is not None else finding.at,
        "evidence": [_shown(step) for step in finding.evidence[:_SHOWN]],
    }
    if stage == "kill" or (stop is not None and stop.action == "kill"):
        return Stopped(
            f"The run {run.run_id} is stopped: {finding.summary} Trying again does not help until "
            "an operator decides otherwise.",
            details=details,
        )
    if stop is None:
        return RunPaused(
            f"The run {run.run_id} is held: {finding.summary} The order could not be stored (look "
            "at Tocsin's log), so nobody can lift it yet; the run's next call tries again.",
            details={**details, "wait": None},
        )
    wait = f"/api/stops/{stop.id}?wait=30"
    return RunPaused(
        f"The run {run.run_id} is paused: {finding.summary} GET {wait} answers once somebody has "
        "decided; then send the call again.",
        details={**details, "wait": wait},
    )


def _shown(step: Evidence) -> dict[str, object]:
    return {
        "call": step.call,
        "tool": step.tool,
        "arguments": step.arguments[:200],
        "outcome": step.outcome,
    }
