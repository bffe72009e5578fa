"""``tocsin sentinels``: record a suite of prompts, run it, compare it with its past."""

import asyncio
import contextlib
import getpass
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from tocsin.app import all_domains, build
from tocsin.behaviour import evaluators_of, signals_of_all
from tocsin.cli import output
from tocsin.cli.care import progress
from tocsin.cli.context import Settings, moment, opened, settings
from tocsin.cli.guard import FAILED, OK
from tocsin.config.model import Config, SentinelSettings
from tocsin.config.sentinels import with_sentinels
from tocsin.core.clock import SystemClock
from tocsin.core.errors import InputError, NotFound
from tocsin.core.sentinels import Example, Prompt, SignalDiff, SuiteDiff
from tocsin.core.signals import Estimate, Signal
from tocsin.dashboard import fmt
from tocsin.domains.signals.sentinels import SAME_WORDS, choose, diff, words_of
from tocsin.providers.tokens import text_of_message
from tocsin.store.api import Filter, Store
from tocsin.worker.evaluating import Scoring
from tocsin.worker.jobs import Worker
from tocsin.worker.sentinels import Ran, Sentinels, summary_of
from tocsin.worker.suites import path_of, prompt_of, read_suite, suite_text

_CANDIDATES = 2_000
"""Recorded calls among which a suite is chosen, the newest."""
_SHOWN = 240
"""Characters of an answer in an example."""
_STYLES = {"worse": output.BAD, "better": output.GOOD, "different": output.LOOK}


# -- record --


def record(
    named: Path | None,
    name: str,
    *,
    feature: str | None,
    count: int,
    since: str | None,
    force: bool,
    json: bool,
) -> int:
    """Write a suite from what was recorded of a feature. Raises ``InputError``."""
    found = settings(named)
    suite = found.config.sentinels.get(name)
    path = _file(found, name, suite)
    if path.exists() and not force:
        raise InputError(f"{path}: there is a suite already; --force writes it anew, and its "
                         "prompts then begin without a past")  # fmt: skip
    wanted = feature or (suite.feature if suite is not None else None)
    if wanted is None:
        raise InputError(f"--feature: say which feature's calls to take, or add [sentinels.{name}]")
    with opened(found.config) as store, progress("Reading", hidden=json) as told:
        prompts = _chosen(store, wanted, count, since, told)
    if not prompts:
        raise NotFound(f"no chat calls of the feature {wanted!r} are recorded in that time")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(suite_text(name, wanted, prompts, f"{datetime.now(UTC):%Y-%m-%d}"))
    if json:
        made = {"suite": name, "feature": wanted, "file": str(path), "prompts": len(prompts)}
        output.print_json(made)
        return OK
    output.say(f"{fmt.plural(len(prompts), 'prompt')} in {path}", output.GOOD)
    output.say("Secrets of known shapes and who asked are taken out; what else people wrote is in "
               "it. Read it through before you share it.")  # fmt: skip
    if len(prompts) < 100:
        output.say(f"A 15 % shift in length needs about 100 prompts; this has {len(prompts)}.",
                   output.LOOK)  # fmt: skip
    if suite is None:
        output.say(f'\nAdd to tocsin.toml:\n\n[sentinels.{name}]\nfeature = "{wanted}"')
    return OK


def _file(found: Settings, name: str, suite: SentinelSettings | None) -> Path:
    if suite is not None:
        return path_of(name, suite)
    if not name.replace("-", "").replace("_", "").isalnum():
        raise InputError(f"NAME: found {name!r}; allowed: letters, digits, '-' and '_'")
    folder = found.path.absolute().parent if found.path is not None else Path.cwd()
    return folder / "sentinels" / f"{name}.jsonl"


def _chosen(store: Store, feature: str, count: int, since: str | None, told: Any) -> list[Prompt]:
    start = moment(since, SystemClock().now_us(), "--since")
    prompts: dict[str, Prompt] = {}
    cursor, read = None, 0
    while read < _CANDIDATES:
        page = store.interactions(Filter(feature=feature, since=start), limit=200, cursor=cursor)
        for call in page.rows:
            entry = store.entry(call.id) if call.outcome in _ANSWERED else None
            prompt = prompt_of(entry) if entry is not None else None
            if prompt is not None:
                prompts.setdefault(prompt.id, prompt)
            read += 1
            told(read, _CANDIDATES)
        cursor = page.next
        if cursor is None or not page.rows:
            break
    kept = list(prompts.values())
    texts = [text_of_message(msgspec.json.encode(prompt.messages)) for prompt in kept]
    return [kept[index] for index in choose(texts, count)]


_ANSWERED = frozenset({"complete", "truncated", "refused", "invalid", "unverified"})


# -- run --


def run(named: Path | None, name: str | None, *, json: bool) -> int:
    """Ask every prompt of a suite, or of all. Exit code 1 when a call got no answer."""
    found = settings(named)
    config = with_sentinels(found.config)
    names = _names(config, name)
    total = 0
    for each in names:
        total += len(read_suite(path_of(each, config.sentinels[each])))
    ran = asyncio.run(_run(config, found, names, json=json))
    if json:
        output.print_json({"runs": ran})
        return FAILED if any(one.failed for one in ran) else OK
    _show_runs(ran)
    failed = sum(one.failed for one in ran)
    if failed:
        output.complain(f"{fmt.plural(failed, 'call')} got no answer; `tocsin show RUN` says why")
        return FAILED
    output.say("`tocsin sentinels diff` compares them with their past.")
    return OK


async def _run(config: Config, found: Settings, names: Sequence[str], *, json: bool) -> list[Ran]:
    app = build(config, env=found.env)
    # Only the calls: what is due on a schedule is the server's, and it scores what is recorded.
    app.worker = Worker(())
    await app.start()
    try:
        suites = app.behaviour.sentinels(app.runtime, app.recorder)
        ran: list[Ran] = []
        for name in names:
            with progress(f"Asking {name}", hidden=json) as told:
                ran += await suites.run(name, told)
        return ran
    finally:
        await app.stop()


def _looking(config: Config, store: Store) -> Sentinels:
    """The suites of a store that is only looked at."""
    evaluators = evaluators_of(all_domains())
    catalogue = signals_of_all(evaluators, config)
    return Sentinels(
        store,
        SystemClock(),
        lambda: config,
        scoring=Scoring(evaluators, catalogue),
        catalogue=catalogue,
        compare=diff,
        words_of=words_of,
    )


def _names(config: Config, name: str | None) -> list[str]:
    if not config.sentinels:
        raise InputError(
            "there is no table [sentinels.NAME] in the settings; `tocsin sentinels record NAME "
            "--feature FEATURE` makes a suite and says what to add"
        )
    if name is not None and name not in config.sentinels:
        raise NotFound(f"no suite {name!r}; known: {', '.join(config.sentinels)}")
    return [name] if name is not None else list(config.sentinels)


# -- list --


def listed(named: Path | None, *, json: bool) -> int:
    """Every suite: its prompts, upstreams and runs."""
    config = settings(named).config
    names = _names(config, None)
    rows: list[dict[str, Any]] = []
    with opened(config) as store:
        suites = _looking(config, store)
        for name in names:
            suite = config.sentinels[name]
            path = path_of(name, suite)
            prompts = len(read_suite(path)) if path.exists() else 0
            every = f"every {suite.every_hours:g} h" if suite.every_hours else "by hand"
            for upstream in suites.upstreams(name) or [""]:
                ran = suites.runs(name, upstream) if upstream else []
                since = suites.accepted(name, upstream) if upstream else 0
                rows.append(
                    {
                        "suite": name,
                        "feature": suite.feature,
                        "file": str(path),
                        "every": every,
                        "prompts": prompts,
                        "upstream": upstream,
                        "runs": ran,
                        "accepted_since": since or None,
                    }
                )
    if json:
        output.print_json({"suites": rows})
        return OK
    table = output.table(
        ("suite", "feature", "upstream", ">prompts", "runs when", ">runs", "*last")
    )
    for row in rows:
        last = row["runs"][-1] if row["runs"] else None
        said = f"{output.clock_time(last.at)}  {last.run}" if last else "never"
        table.add_row(
            row["suite"], row["feature"], row["upstream"] or "none", str(row["prompts"]),
            row["every"], str(len(row["runs"])), output.cell(said),
        )  # fmt: skip
    output.show(table)
    return OK


def _show_runs(ran: Sequence[Ran]) -> None:
    table = output.table(("suite", "upstream", ">asked", ">failed", ">cost", "model", "*run"))
    for one in ran:
        cost = fmt.money(one.cost_nano_usd)
        table.add_row(
            one.suite, one.upstream, str(one.asked), str(one.failed), cost,
            output.cell(", ".join(one.models) or "unknown"), output.cell(one.run),
        )  # fmt: skip
    output.show(table)


# -- diff --


def compare(
    named: Path | None,
    name: str | None,
    *,
    before: str | None,
    after: str | None,
    upstream: str | None,
    alpha: float,
    accept: bool,
    json: bool,
) -> int:
    """What changed. Exit code 1 when something did, unless it is accepted at once."""
    config = settings(named).config
    found: list[SuiteDiff] = []
    lacking: list[str] = []
    with opened(config) as store:
        suites = _looking(config, store)
        where = [
            (each, one)
            for each in _names(config, name)
            for one in suites.upstreams(each)
            if upstream in (None, one)
        ]
        for each, one in where:
            one_diff = suites.diff(each, one, alpha=alpha / len(where), before=before, after=after)
            if one_diff is None:
                lacking.append(f"{each} on {one}: fewer than two runs; `tocsin sentinels run`")
            else:
                found.append(one_diff)
        if accept:
            for one_diff in found:
                _accept(suites, one_diff)
        if json:
            output.print_json({"diffs": [_as_json(d) for d in found], "lacking": lacking})
        else:
            for one_diff in found:
                _show(store, one_diff, suites)
            for line in lacking:
                output.say(line, output.LOOK)
    changed = any(d.changes or d.moved for d in found)
    if accept and not json:
        output.say("Accepted: later runs are compared with these.")
    return FAILED if changed and not accept else OK


def _accept(suites: Sentinels, found: SuiteDiff) -> None:
    ran = [one for one in suites.runs(found.suite, found.upstream) if one.run == found.run]
    suites.accept(found.suite, found.upstream, ran[0], f"tocsin sentinels, {_me()}")


def _me() -> str:
    with contextlib.suppress(OSError, KeyError):
        return getpass.getuser()
    return "unknown"


def _as_json(found: SuiteDiff) -> dict[str, Any]:
    made: dict[str, Any] = msgspec.to_builtins(found)
    changes = [change.signal for change in found.changes]
    return {**made, "changed": changes, "model_moved": found.moved}


def _show(store: Store, found: SuiteDiff, suites: Sentinels) -> None:
    changed = bool(found.changes or found.moved)
    output.say(fmt.visible(summary_of(found)), output.LOOK if changed else output.GOOD)
    past = fmt.plural(len(found.past), "past run")
    output.say(
        f"{fmt.plural(found.pairs, 'prompt')} in run {found.run}, against {past}; "
        f"{found.lost} not asked this time. Any change by chance: at most {found.alpha:.2g}.",
        output.QUIET,
    )
    if found.fingerprints_before != found.fingerprints_after:
        old, new = _joined(found.fingerprints_before), _joined(found.fingerprints_after)
        output.say(f"System fingerprint: {old} → {new}", output.QUIET)
    table = output.table(("signal", ">before", ">after", ">change", "95 % interval", ">pairs",
                          ">differ", ">p", "*verdict"))  # fmt: skip
    for row in sorted(found.signals, key=lambda s: (_rank(s), s.p_value or 1.0, s.signal)):
        table.add_row(*_cells(row, suites.catalogue.get(row.signal, SAME_WORDS)))
    output.show(table)
    for change in found.changes[:3]:
        for example in change.examples:
            _show_example(store, change, example, suites.catalogue.get(change.signal, SAME_WORDS))
    output.say("")


def _rank(row: SignalDiff) -> int:
    order = ("worse", "different", "better", "underpowered", "same", "untested")
    return order.index(row.verdict)


def _cells(row: SignalDiff, signal: Signal) -> tuple[Any, ...]:
    verdict: str = row.verdict if row.verdict != "same" else "no difference seen"
    if row.verdict == "underpowered":
        verdict = f"underpowered: {fmt.plural(row.needed, 'more prompt')} needed"
    elif row.note and row.verdict == "untested":
        verdict = f"untested: {row.note}"
    d = row.difference
    sign = "×" if signal.log else ""
    return (
        row.signal,
        _value(row.before, signal),
        _value(row.after, signal),
        _step(d.value, signal),
        f"{_step(d.low, signal)} to {_step(d.high, signal)}" if sign or d.low != d.high else "",
        str(row.pairs),
        str(row.changed),
        "" if row.p_value is None else f"{row.p_value:.2g}",
        output.cell(verdict, _STYLES.get(row.verdict, "")),
    )


def _value(estimate: Estimate, signal: Signal) -> str:
    if signal.kind == "rate":
        return f"{100 * estimate.value:.1f} %"
    return f"{estimate.value:.3g} {signal.unit}".strip()


def _step(value: float, signal: Signal) -> str:
    if signal.log:
        return f"×{value:.3g}"
    return f"{100 * value:+.1f}" if signal.kind == "rate" else f"{value:+.3g}"


def _show_example(store: Store, change: SignalDiff, example: Example, signal: Signal) -> None:
    before = Estimate(example.before, 0.0, 0.0, 1)
    after = Estimate(example.after, 0.0, 0.0, 1)
    output.say(
        f"\n{change.signal}, prompt {fmt.visible(example.prompt)}: "
        f"{_value(before, signal)} → {_value(after, signal)}"
    )
    for word, call in (("before", example.call_before), ("after", example.call_after)):
        output.say(f"  {word:6}  {call}  {fmt.one_line(_answer(store, call), _SHOWN)}")


def _answer(store: Store, call: str) -> str:
    entry = store.entry(call) if call else None
    if entry is None or entry.output is None:
        return "(no answer)"
    return text_of_message(entry.output.raw) or "(empty)"


def _joined(words: Sequence[str]) -> str:
    return fmt.visible(", ".join(words)) or "none"


__all__ = ["compare", "listed", "record", "run"]
