"""Sentinels: suites of prompts, asked on a schedule and compared with their own past."""

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from tocsin.config.model import Config, SentinelSettings
from tocsin.config.sentinels import upstreams_of
from tocsin.core.clock import Clock
from tocsin.core.domain import Alert
from tocsin.core.errors import InputError, NotFound
from tocsin.core.ids import new_id
from tocsin.core.interaction import Entry, Interaction
from tocsin.core.sentinels import (
    FINGERPRINT,
    PROMPT,
    RUN,
    SUITE,
    Asked,
    Prompt,
    SignalDiff,
    SuiteDiff,
    feature_of,
)
from tocsin.core.signals import Change, Signal
from tocsin.providers.tokens import text_of_message
from tocsin.store.api import BaselineRow, Filter, Store
from tocsin.worker.asking import CallPath
from tocsin.worker.evaluating import Scoring
from tocsin.worker.jobs import Job
from tocsin.worker.quiet import quietly
from tocsin.worker.suites import body_of, path_of, read_suite

log = logging.getLogger("tocsin.sentinels")

REFERENCE_RUNS = 5
"""The first so many runs, since a person last said "this is normal", are what later ones are
compared with. Not the latest: a slow drift would hide in them."""
ALARM_ALPHA = 0.001
"""Chance that a scheduled run alarms with nothing changed, over all signals and upstreams of the
suite together: run daily, once in about three years. It is halved if it runs twice as often."""
EVERY_S = 30.0
ACCEPTED = "*"
"""The signal under which a person's "this is normal" is kept for a whole suite."""
DETECTOR = "sentinels"

_AT_ONCE = 4
_PAGE = 200
_HOUR_US = 3_600_000_000

Told = Callable[[int, int], None]
"""Called with (done, total)."""
WordsOf = Callable[[str], frozenset[str]]


class Compare(Protocol):
    """The statistics (``domains.signals.sentinels.diff``)."""

    def __call__(
        self,
        suite: str,
        upstream: str,
        past: Sequence[Asked],
        new: Asked,
        catalogue: Mapping[str, Signal],
        *,
        alpha: float,
    ) -> SuiteDiff: ...


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a suite against one upstream, as it is found in the store."""

    suite: str
    upstream: str
    run: str
    at: int
    asked: int
    failed: int
    cost_nano_usd: int | None
    """``None`` when the price of none is known."""
    models: tuple[str, ...]


class Sentinels:
    """The suites of a configuration: runs them, finds their runs again, compares them."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        config: Callable[[], Config],
        *,
        scoring: Scoring,
        catalogue: Mapping[str, Signal],
        compare: Compare,
        words_of: WordsOf,
        ask: CallPath | None = None,
        flush: Callable[[], Any] | None = None,
    ) -> None:
        """``ask`` and ``flush`` (the recorder's) are needed to run suites, not to compare runs."""
        self._store = store
        self._clock = clock
        self._config = config
        self._scoring = scoring
        self.catalogue = catalogue
        self._compare = compare
        self._words = words_of
        self._ask = ask
        self._flush = flush
        self.trouble: dict[str, str] = {}
        """Why a suite could not be run at its last turn, by name."""

    def settings(self, name: str) -> SentinelSettings:
        """A suite's settings. Raises ``NotFound``."""
        found = self._config().sentinels.get(name)
        if found is None:
            known = ", ".join(self._config().sentinels) or "none"
            raise NotFound(f"there is no table [sentinels.{name}] in the settings; known: {known}")
        return found

    def suite(self, name: str) -> list[Prompt]:
        """A suite's prompts. Raises ``NotFound`` or ``InputError``."""
        return read_suite(path_of(name, self.settings(name)))

    def upstreams(self, name: str) -> list[str]:
        """Where a suite asks; upstreams that have been asked before where its file is gone."""
        models: frozenset[str] = frozenset()
        with contextlib.suppress(InputError):
            models = frozenset(str(p.params.get("model") or "") for p in self.suite(name))
        return upstreams_of(self._config(), self.settings(name), models)

    async def run(self, name: str, told: Told | None = None) -> list[Ran]:
        """CallPath every prompt of every upstream, and wait until the answers are in the store.

        Raises ``InputError`` when the suite or its upstreams cannot be used.
        """
        if self._ask is None or self._flush is None:
            raise RuntimeError("these sentinels were made to compare, not to ask")
        settings, prompts, upstreams = self.settings(name), self.suite(name), self.upstreams(name)
        _check(self._config(), name, prompts, upstreams)
        done, total = 0, len(prompts) * len(upstreams)
        runs: list[tuple[str, str]] = []

        def one() -> None:
            nonlocal done
            done += 1
            if told is not None:
                told(done, total)

        for upstream in upstreams:
            run = new_id("run", self._clock.now_us())
            runs.append((upstream, run))
            await self._asked(name, settings.model, upstream, run, prompts, one)
        await self._flush()
        return [
            ran
            for upstream, run in runs
            for ran in await quietly(self.runs, name, upstream)
            if ran.run == run
        ]

    async def _asked(
        self,
        name: str,
        model: str,
        upstream: str,
        run: str,
        prompts: Sequence[Prompt],
        one: Callable[[], None],
    ) -> None:
        waiting = list(reversed(prompts))
        ask = self._ask
        assert ask is not None

        async def work() -> None:
            while waiting:
                prompt = waiting.pop()
                await ask(
                    prompt.path,
                    body_of(prompt, model),
                    feature=feature_of(name, upstream),
                    run=run,
                    name=DETECTOR,
                    facts={SUITE: name, PROMPT: prompt.id, RUN: run},
                )
                one()

        async with asyncio.TaskGroup() as group:
            for _ in range(min(_AT_ONCE, len(prompts))):
                group.create_task(work())

    def runs(self, name: str, upstream: str, *, since: int | None = None) -> list[Ran]:
        """The runs of a suite against an upstream, the oldest first. Blocks."""
        found: dict[str, list[Any]] = {}
        for call in self._calls(name, upstream, since):
            run = call.attributes.get(RUN)
            if run:
                row = found.setdefault(run, [call.started_at, 0, 0, None, set()])
                row[0] = min(row[0], call.started_at)
                row[1] += 1
                row[2] += call.output_node is None
                if call.cost_nano_usd is not None:
                    row[3] = (row[3] or 0) + call.cost_nano_usd
                if call.response_model:
                    row[4].add(call.response_model)
        made = [
            Ran(suite=name, upstream=upstream, run=run, at=at, asked=asked, failed=failed,
                cost_nano_usd=cost, models=tuple(sorted(models)))
            for run, (at, asked, failed, cost, models) in found.items()
        ]  # fmt: skip
        return sorted(made, key=lambda ran: ran.at)

    def _calls(self, name: str, upstream: str, since: int | None) -> Iterator[Interaction]:
        where = Filter(feature=feature_of(name, upstream), since=since)
        cursor = None
        while True:
            page = self._store.interactions(where, limit=_PAGE, cursor=cursor)
            yield from page.rows
            cursor = page.next
            if cursor is None or not page.rows:
                return

    def asked(self, name: str, upstream: str, runs: Sequence[Ran]) -> list[Asked]:
        """Runs with the scores of today's evaluators, so that versions never differ. Blocks."""
        wanted = {ran.run: ran for ran in runs}
        parts: dict[str, _Part] = {ran.run: _Part() for ran in runs}
        since = min((ran.at for ran in runs), default=0)
        for call in self._calls(name, upstream, since):
            run, prompt = call.attributes.get(RUN, ""), call.attributes.get(PROMPT, "")
            if run in wanted and prompt:
                entry = self._store.entry(call.id)
                if entry is not None:
                    self._add(parts[run], prompt, entry)
        return [
            Asked(
                run=run,
                at=wanted[run].at,
                values=part.values,
                words=part.words,
                calls=part.calls,
                models=tuple(sorted(part.models)),
                fingerprints=tuple(sorted(part.fingerprints)),
            )
            for run, part in parts.items()
        ]

    def _add(self, part: "_Part", prompt: str, entry: Entry) -> None:
        call = entry.interaction
        scored = self._scoring.score(entry)
        part.values[prompt] = {s.name: s.value for s in scored.scores if s.value is not None}
        part.calls[prompt] = call.id
        if entry.output is not None:
            part.words[prompt] = self._words(text_of_message(entry.output.raw))
        if call.response_model:
            part.models.add(call.response_model)
        if found := call.attributes.get(FINGERPRINT):
            part.fingerprints.add(found)

    def accepted(self, name: str, upstream: str) -> int:
        """Since when a person has called a suite's answers normal; 0: nobody has."""
        feature = feature_of(name, upstream)
        return max((row.since for row in self._store.baselines()
                    if (row.feature, row.signal) == (feature, ACCEPTED)), default=0)  # fmt: skip

    def accept(self, name: str, upstream: str, run: Ran, by: str) -> None:
        """Say that this run is what answers should be like: later ones are compared with it."""
        self._store.accept_baseline(
            BaselineRow(
                feature=feature_of(name, upstream),
                signal=ACCEPTED,
                since=run.at,
                by=by,
                at=self._clock.now_us(),
                note=run.run,
            )
        )

    def diff(
        self,
        name: str,
        upstream: str,
        *,
        alpha: float = 0.05,
        before: str | None = None,
        after: str | None = None,
    ) -> SuiteDiff | None:
        """A run (the latest) beside one run or, without ``before``, the accepted past. Blocks.

        ``None`` when there is nothing to compare with. Raises ``NotFound`` for an unknown run.
        """
        runs = self.runs(name, upstream)
        new = _one(runs, after) if after else (runs[-1] if runs else None)
        if new is None:
            return None
        if before:
            past = [_one(runs, before)]
        else:
            since = self.accepted(name, upstream)
            past = [
                r for r in runs if since <= r.at < new.at and 2 * (r.asked - r.failed) > r.asked
            ]
            past = past[:REFERENCE_RUNS]
        if not past:
            return None
        *scored, latest = self.asked(name, upstream, [*past, new])
        return self._compare(name, upstream, scored, latest, self.catalogue, alpha=alpha)

    # -- on a schedule --

    async def step(self, folder: Path, alert: Callable[[Alert], None]) -> bool:
        """Run every suite that is due, and raise what changed. ``False``: nothing more to do."""
        for name, settings in self._config().sentinels.items():
            if settings.every_hours is None:
                continue
            try:
                await self._turn(name, settings.every_hours, folder, alert)
                self.trouble.pop(name, None)
            except (InputError, NotFound) as error:
                self.trouble[name] = str(error)
        return False

    async def _turn(
        self, name: str, every_hours: float, folder: Path, alert: Callable[[Alert], None]
    ) -> None:
        upstreams = await quietly(self.upstreams, name)
        if not await quietly(self._due, name, upstreams, every_hours):
            return
        with _alone(folder / "sentinels" / f"{name}.lock") as alone:
            # Another process may have run it between the look and the lock.
            if not alone or not await quietly(self._due, name, upstreams, every_hours):
                return
            await self.run(name)
        for upstream in upstreams:
            alpha = ALARM_ALPHA / len(upstreams)
            found = await quietly(self.diff, name, upstream, alpha=alpha)
            if found is not None:
                alert(alert_of(found, self.settings(name).feature, self._clock.now_us()))

    def _due(self, name: str, upstreams: Sequence[str], every_hours: float) -> bool:
        now = self._clock.now_us()
        for upstream in upstreams:
            where = Filter(feature=feature_of(name, upstream))
            rows = self._store.interactions(where, limit=1).rows
            if not rows or now - rows[0].started_at >= every_hours * _HOUR_US:
                return True
        return False

    def job(self, folder: Path, alert: Callable[[Alert], None]) -> Job:
        """The worker's job; ``folder`` is the data folder, where processes keep off each other."""

        async def run() -> bool:
            return await self.step(folder, alert)

        return Job(name=DETECTOR, every_s=EVERY_S, run=run, trouble=lambda: dict(self.trouble))


class _Part:
    """One run while it is read."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, float]] = {}
        self.words: dict[str, frozenset[str]] = {}
        self.calls: dict[str, str] = {}
        self.models: set[str] = set()
        self.fingerprints: set[str] = set()


def _check(config: Config, name: str, prompts: Sequence[Prompt], upstreams: Sequence[str]) -> None:
    if not prompts:
        raise InputError(f"the suite {name!r} holds no prompt; `tocsin sentinels record` fills it")
    for upstream in upstreams:
        if upstream not in config.upstreams:
            raise InputError(
                f"sentinels.{name}: there is no upstream {upstream!r}; "
                f"configured: {', '.join(config.upstreams) or 'none'}"
            )
    if not upstreams:
        raise InputError(
            f"sentinels.{name}: no upstream serves its models; set `upstreams` or `model` there"
        )


def _one(runs: Sequence[Ran], wanted: str) -> Ran:
    """A run by the beginning of its id."""
    found = [ran for ran in runs if ran.run.startswith(wanted)]
    if len(found) != 1:
        raise NotFound(
            f"{'several runs begin' if found else 'no run begins'} with {wanted!r}; "
            "`tocsin sentinels list` names them"
        )
    return found[0]


def alert_of(found: SuiteDiff, feature: str, now_us: int) -> Alert:
    """What a scheduled comparison says: firing with what changed, or resolved."""
    changes = found.changes
    fingerprint = f"{DETECTOR}:{found.suite}:{found.upstream}"
    if not changes and not found.moved:
        said = f"Sentinels {found.suite}: {found.upstream} answers as before"
        return Alert(fingerprint=fingerprint, detector=DETECTOR, feature=feature, severity="info",
                     state="resolved", at=now_us, summary=said)  # fmt: skip
    worse = any(change.verdict == "worse" for change in changes)
    top = changes[0] if changes else None
    return Alert(
        fingerprint=fingerprint,
        detector=DETECTOR,
        feature=feature,
        severity="warning" if worse else "info",
        state="firing",
        at=now_us,
        summary=summary_of(found),
        evidence=tuple(e.call_after for e in top.examples) if top else (),
        signal=top.signal if top else "",
        change=_change(found, top) if top else None,
    )


def summary_of(found: SuiteDiff) -> str:
    """One line: who answers differently, and in what."""
    words = [f"Sentinels {found.suite}: {found.upstream} answers differently"]
    if not found.changes:
        words = [f"Sentinels {found.suite}: {found.upstream} answers as before"]
    if found.moved:
        before, after = ", ".join(found.models_before), ", ".join(found.models_after)
        words.append(f"the model is now {after}, it was {before}")
    words += [
        f"{c.title} {c.verdict}: {c.before.value:.3g} → {c.after.value:.3g}"
        for c in found.changes[:3]
    ]
    if len(found.changes) > 3:
        words.append(f"{len(found.changes) - 3} more")
    return "; ".join(words)


def _change(found: SuiteDiff, top: SignalDiff) -> Change:
    assert top.verdict in ("worse", "better", "different")
    return Change(
        signal=top.signal,
        since=found.at,
        before=top.before,
        after=top.after,
        difference=top.difference,
        verdict=top.verdict,
        examples_before=tuple(e.call_before for e in top.examples if e.call_before),
        examples_after=tuple(e.call_after for e in top.examples if e.call_after),
        false_alarm_every=found.pairs / found.alpha,
        delay=found.pairs,
        method=f"sentinels, {top.method}",
    )


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Whether this process alone has the lock; it goes with the process."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
    finally:
        os.close(fd)


__all__ = [
    "ALARM_ALPHA",
    "REFERENCE_RUNS",
    "CallPath",
    "Compare",
    "Ran",
    "Sentinels",
    "alert_of",
    "summary_of",
]
