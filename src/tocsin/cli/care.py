"""``tocsin verify``, ``export``, ``rebuild`` and ``forget``: looking after what is recorded."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tocsin.cli import output
from tocsin.cli.context import chosen, opened, settings
from tocsin.cli.guard import FAILED, OK
from tocsin.core.clock import SystemClock
from tocsin.core.errors import InputError, NotFound
from tocsin.dashboard import fmt
from tocsin.store.api import AuditRow, Filter, Progress, Store
from tocsin.store.operations_api import OperationFilter


@contextmanager
def progress(words: str, *, hidden: bool = False) -> Iterator[Progress]:
    """A bar on standard error while long work goes on; nothing where nobody watches."""
    console = output.console(stderr=True)
    if hidden or not console.is_terminal:
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn(words), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task(words, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def verify(config: Path | None, *, json: bool) -> int:
    """Prove the store whole; each problem is a line, and makes the exit code 1."""
    found = []
    with opened(settings(config).config) as store:
        stats = store.stats()
        with progress("Verifying", hidden=json) as report:
            for problem in store.verify(report):
                found.append(problem)
                if not json:
                    output.complain(f"{problem.kind} {problem.id}: {problem.message}")
    if json:
        output.print_json({"ok": not found, "calls": stats.interactions, "problems": found})
    elif found:
        output.complain(
            f"{fmt.plural(len(found), 'problem')} found. Segments and runs: `tocsin rebuild` makes "
            "them again. Records: restore a backup, or keep what is whole with `tocsin export`."
        )
    else:
        output.say(
            f"{fmt.plural(stats.interactions, 'call')} in {fmt.plural(stats.runs, 'run')}, "
            f"{fmt.plural(stats.contents, 'message')}: all whole",
            output.GOOD,
        )
    return FAILED if found else OK


def rebuild(config: Path | None, *, json: bool) -> int:
    """Make again what derives from the records."""
    with opened(settings(config).config) as store, progress("Rebuilding", hidden=json) as report:
        rows = store.rebuild(report)
    if json:
        output.print_json({"calls": rows})
    else:
        output.say(f"Segments and search index made again from {fmt.plural(rows, 'call')}.")
    return OK


def forget(config: Path | None, user: str, *, yes: bool, json: bool) -> int:
    """Delete one end user's data. Raises ``NotFound`` when there is none."""
    with opened(settings(config).config) as store:
        where = Filter(end_user=user)
        operations = store.operations.operations(OperationFilter(end_user=user), limit=1)
        if not operations.rows and not store.interactions(where, limit=1).rows:
            raise NotFound(f"nothing is recorded of the end user {user!r}")
        if not yes and not _confirmed(store, where, user):
            output.complain("Nothing was deleted.")
            return FAILED
        swept = store.delete_end_user(user)
        # The user's name stays out of the audit log: it was to be forgotten.
        now = SystemClock().now_us()
        detail = f"{swept.interactions} calls, {swept.operations} operations"
        store.record_audit(
            AuditRow(
                at=now, actor="tocsin forget", action="end_user.delete", target="", detail=detail
            )
        )
    if json:
        output.print_json(swept)
    else:
        output.say(
            f"Deleted {fmt.plural(swept.interactions, 'call')} in {fmt.plural(swept.runs, 'run')}, "
            f"{fmt.plural(swept.contents, 'message')} and "
            f"{fmt.plural(swept.operations, 'operation')}; {fmt.size(swept.freed_bytes)} freed."
        )
    return OK


def _confirmed(store: Store, where: Filter, user: str) -> bool:
    """Ask for the user's name once more. Raises ``InputError`` where nobody can answer."""
    if not sys.stdin.isatty():
        raise InputError("forget: there is no terminal to ask at; say --yes")
    calls = store.overview(where).total.calls
    output.say(
        f"This deletes {fmt.plural(calls, 'call')} of {fmt.visible(user)} for good, with every "
        "message that nobody else's calls share, and all durable work for them."
    )
    return input("Type the end user's name to go on: ") == user


# -- export --


def export(
    config: Path | None,
    file: Path,
    options: Mapping[str, str | None],
    *,
    force: bool,
    json: bool,
) -> int:
    """Write matching calls to ``file``; the ending says how. A file is whole or not there."""
    from tocsin.cli.export import SUFFIXES, write_lines  # only this command writes files

    kind = next((suffix for suffix in SUFFIXES if file.name.endswith(suffix)), None)
    if kind is None:
        raise InputError(f"{file}: the name must end in one of {', '.join(SUFFIXES)}")
    if file.exists() and not force:
        raise InputError(f"{file}: exists already; say --force to replace it")
    if not file.absolute().parent.is_dir():
        raise InputError(f"{file.parent}: there is no such folder")
    where = chosen(SystemClock().now_us(), options)
    draft = file.with_name(f".{file.name}.part")
    try:
        with opened(settings(config).config) as store:
            if kind == ".parquet":
                rows = store.export_parquet(str(draft), where)
            else:
                total = store.overview(where).total.calls
                with progress("Exporting", hidden=json) as report:
                    rows = write_lines(store, where, draft, kind, lambda n: report(n, total))
        draft.replace(file)
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)
    size = file.stat().st_size
    if json:
        output.print_json({"file": str(file), "calls": rows, "bytes": size})
    else:
        output.say(f"{fmt.plural(rows, 'call')} in {file}, {fmt.size(size)}.")
    return OK
