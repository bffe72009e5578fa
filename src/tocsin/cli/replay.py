"""``tocsin replay``: files of traces become a report, and with ``--keep`` records in the store."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from tocsin.cli import output
from tocsin.cli.care import progress
from tocsin.cli.context import settings
from tocsin.cli.guard import FAILED, OK
from tocsin.config.model import Config
from tocsin.config.supervision import supervision_of
from tocsin.core.clock import SystemClock
from tocsin.core.errors import InputError
from tocsin.core.interaction import Entry
from tocsin.dashboard import fmt
from tocsin.importers import BadRecord, read
from tocsin.importers.report import Report
from tocsin.importers.report_html import as_html
from tocsin.importers.report_text import as_text
from tocsin.providers import Pricer, TokenCounter
from tocsin.runtime.enrich import Enricher
from tocsin.store import Store, open_store

_BATCH = 256
_INDEXED = 2000

Done = Callable[[int], None]


def replay(
    files: Sequence[Path],
    named: Path | None,
    *,
    json: bool,
    html: Path | None,
    keep: bool,
    format: str | None,  # noqa: A002 - the option's name
    feature: str,
    policy: str | None = None,
    detectors: bool = False,
) -> int:
    """Read files into a report. Exit code 1 when a record could not be read.

    Raises ``InputError`` for a file that cannot be read at all.
    """
    config = settings(named).config
    if policy is not None and detectors:
        raise InputError("--policy and --detectors are two backtests: give one at a time")
    if policy is not None:
        return _backtest(files, config, policy, json=json, other=bool(html or keep),
                         format=format, feature=feature)  # fmt: skip
    if detectors:
        return _detectors(files, config, json=json, other=bool(html or keep),
                          format=format, feature=feature)  # fmt: skip
    if html is not None and not html.absolute().parent.is_dir():
        raise InputError(f"{html.parent}: there is no such folder")
    sizes = [_size(path) for path in files]
    report = Report(str(path) for path in files)
    kept = _Kept()
    with _store(config) if keep else contextlib.nullcontext() as store:
        with progress("Reading", hidden=json) as told:
            records = _records(files, sizes, told, format, _enriching(config, feature))
            for batch in _batches(records):
                for record in batch:
                    report.add(record)
                if store is not None:
                    kept.append(store, [r for r in batch if isinstance(r, Entry)])
        if store is not None:
            _settle(store, config, hidden=json)
    result = report.result()
    if html is not None:
        html.write_text(as_html(result), encoding="utf-8")
    if json:
        output.print_json({**output.plain(result), **({"kept": kept.new} if keep else {})})
    else:
        console = output.console()
        text = as_text(result, width=console.width, color=console.is_terminal)
        console.file.write(text if text.endswith("\n") else text + "\n")
        _say_what_else(config, kept if keep else None, html)
    return FAILED if result.bad else OK


def _backtest(
    files: Sequence[Path],
    config: Config,
    policy: str,
    *,
    json: bool,
    other: bool,
    format: str | None,  # noqa: A002 - as above
    feature: str,
) -> int:
    """What a policy would have done to the runs in the files.

    Raises ``InputError`` for a policy that cannot be tried, and with ``--html`` or ``--keep``.
    """
    # The engine compares texts with a library that reading traces alone does not need.
    from tocsin.cli.backtest import show
    from tocsin.domains.agents.backtest import Backtest

    if policy != "agents":
        raise InputError(f"--policy {policy}: there is only `agents` to try on recorded runs")
    if other:
        raise InputError("--policy goes without --html and --keep: it prints what it finds")
    sizes = [_size(path) for path in files]
    bad: list[BadRecord] = []
    tried = Backtest(expected_calls=lambda name: supervision_of(config, name).expected_calls)
    with progress("Trying", hidden=json) as told:
        for record in _records(files, sizes, told, format, _enriching(config, feature)):
            if isinstance(record, BadRecord):
                bad.append(record)
            else:
                tried.add(record)
    show(tried.report(), bad, json=json)
    return FAILED if bad else OK


def _detectors(
    files: Sequence[Path],
    config: Config,
    *,
    json: bool,
    other: bool,
    format: str | None,  # noqa: A002 - as above
    feature: str,
) -> int:
    """What would have rung over the calls in the files. Raises ``InputError`` as ``_backtest``."""
    from tocsin.cli.detect_backtest import detect, show  # evaluators are much to load

    if other:
        raise InputError("--detectors goes without --html and --keep: it prints what it finds")
    sizes = [_size(path) for path in files]
    with progress("Judging", hidden=json) as told:
        records = _records(files, sizes, told, format, _enriching(config, feature))
        report, bad = detect(records, config)
    show(report, bad, json=json)
    return FAILED if bad else OK


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


@contextlib.contextmanager
def _store(config: Config) -> Iterator[Store]:
    """The store, made when it is not there yet: what is kept may come before the first start."""
    folder = Path(config.server.data_dir)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.closing(open_store(config.store, folder, SystemClock())) as store:
        yield store


def _enriching(config: Config, feature: str) -> Callable[[Entry], Entry]:
    """What live traffic gets as well: estimated tokens, prices, and a feature."""
    enrich = Enricher(Pricer(config.prices), TokenCounter())

    def run(entry: Entry) -> Entry:
        call = entry.interaction
        if feature != "default" and call.feature == "default":
            call = msgspec.structs.replace(call, feature=feature)
            entry = msgspec.structs.replace(entry, interaction=call)
        return enrich(entry)

    return run


def _records(
    files: Sequence[Path],
    sizes: Sequence[int],
    told: Callable[[int, int], None],
    format: str | None,  # noqa: A002 - as above
    enrich: Callable[[Entry], Entry],
) -> Iterator[Entry | BadRecord]:
    """Everything in every file, one after another; the bar counts bytes of all of them."""
    total, before = max(sum(sizes), 1), 0
    for path, size in zip(files, sizes, strict=True):
        start = before

        def moved(done: int, _of: int, start: int = start) -> None:
            told(start + done, total)

        for record in read(path, format, moved):
            yield record if isinstance(record, BadRecord) else enrich(record)
        before += size


def _batches(records: Iterator[Entry | BadRecord]) -> Iterator[list[Entry | BadRecord]]:
    batch: list[Entry | BadRecord] = []
    for record in records:
        batch.append(record)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


class _Kept:
    """How many records went into the store, and how many were there already."""

    def __init__(self) -> None:
        self.new = self.known = 0

    def append(self, store: Store, entries: list[Entry]) -> None:
        new = store.append(entries)
        self.new += new
        self.known += len(entries) - new


def _settle(store: Store, config: Config, *, hidden: bool) -> None:
    """Fold, index and score what came, as the worker does while Tocsin runs."""
    while store.fold():
        pass
    while store.index(limit=_INDEXED):
        pass
    if config.signals.evaluate:
        # Scoring loads what reading traces alone does not need.
        from tocsin.cli.scoring import score

        score(store, config, hidden=hidden)


def _say_what_else(config: Config, kept: _Kept | None, html: Path | None) -> None:
    if html is not None:
        output.say(f"Report: {html.absolute()}")
    if kept is not None:
        known = f"; {fmt.plural(kept.known, 'call')} there already" if kept.known else ""
        where = os.path.relpath(config.server.data_dir)
        output.say(f"Kept {fmt.plural(kept.new, 'new call')} in {where}{known}.")
