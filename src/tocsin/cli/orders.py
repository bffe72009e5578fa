"""Names, options and help of the commands that stop and limit calls. Light, as ``commands`` is."""

from pathlib import Path
from typing import Annotated

import typer

from tocsin.cli.guard import guarded
from tocsin.cli.options import ConfigFile, Json, example

app = typer.Typer(rich_markup_mode=None)
limits_app = typer.Typer(
    help="Show what limits have left; raise one; settle what is uncertain.\n\n"
    "Without a command: every account, the fullest first.",
    invoke_without_command=True,
    rich_markup_mode=None,
    epilog=example("tocsin limits", "tocsin limits --name daily --json"),
)
app.add_typer(limits_app, name="limits")

Run = Annotated[str | None, typer.Option("--run", help="This run, and the runs that it started.")]
Feature = Annotated[str | None, typer.Option("--feature", help="Every call of this feature.")]
Key = Annotated[str | None, typer.Option("--key", help="Every call with this key: id or name.")]
All = Annotated[bool, typer.Option("--all", help="Every call there is.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; callers and pages are told.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before --all.")]
OneRun = Annotated[str, typer.Option("--run", help="The run's id, from `tocsin runs`.")]


@app.command(
    epilog=example(
        "tocsin stop --run run_1k8hq3... --reason 'buys in a circle'",
        "tocsin stop --feature support",
        "tocsin stop --all --yes",
    )
)
@guarded
def stop(
    run: Run = None,
    feature: Feature = None,
    key: Key = None,
    all: All = False,  # noqa: A002 - the option's name
    reason: Reason = "",
    yes: Yes = False,
    config: ConfigFile = None,
    json: Json = False,
) -> int:
    """Kill switch: refuse new calls, cut those in flight.

    Streams too. In force when this returns; running Tocsins on this store obey within 0.3 s. Says
    how many calls were cut and how long it took. `tocsin resume` lifts it.
    """
    from tocsin.cli.stops import give

    return give(
        config, "kill", run=run, feature=feature, key=key, everything=all,
        reason=reason, yes=yes, json=json,
    )  # fmt: skip


@app.command(
    epilog=example("tocsin pause --run run_1k8hq3...", "tocsin pause --key nightly-batch --json")
)
@guarded
def pause(
    run: Run = None,
    feature: Feature = None,
    key: Key = None,
    all: All = False,  # noqa: A002 - the option's name
    reason: Reason = "",
    yes: Yes = False,
    config: ConfigFile = None,
    json: Json = False,
) -> int:
    """Hold new calls until somebody decides; those in flight end.

    A call of a paused run waits as long as its feature's `wait_s` says, then gets the error
    `run_paused`. Decide with `tocsin resume`, `tocsin redirect` or `tocsin end`.
    """
    from tocsin.cli.stops import give

    return give(
        config, "pause", run=run, feature=feature, key=key, everything=all,
        reason=reason, yes=yes, json=json,
    )  # fmt: skip


@app.command(epilog=example("tocsin resume stop_019e...", "tocsin resume --run run_1k8hq3..."))
@guarded
def resume(
    id: Annotated[  # noqa: A002 - the argument's name
        str | None, typer.Argument(help="The stop's id, from `tocsin stops`.")
    ] = None,
    run: Annotated[str | None, typer.Option("--run", help="What stops this run itself.")] = None,
    feature: Annotated[
        str | None, typer.Option("--feature", help="What stops this feature.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="What stops this key: id or name.")
    ] = None,
    all: Annotated[  # noqa: A002 - the option's name
        bool, typer.Option("--all", help="What was stopped with --all; other stops stay.")
    ] = False,
    config: ConfigFile = None,
    json: Json = False,
) -> int:
    """Lift a stop or a pause: calls go on. Exit code 1 when there is none."""
    from tocsin.cli.stops import resume as lift

    return lift(config, id, run=run, feature=feature, key=key, everything=all, json=json)


@app.command(
    epilog=example("tocsin redirect --run run_1k8hq3... --note 'Use the EU index instead.'")
)
@guarded
def redirect(
    run: OneRun,
    note: Annotated[str, typer.Option("--note", help="What the model is told, once.")],
    config: ConfigFile = None,
    json: Json = False,
) -> int:
    """Let a paused run go on with a note put before the model.

    The note stands in the run's next request, as a message that the app does not see.
    """
    from tocsin.cli.stops import redirect as lift

    return lift(config, run, note, json=json)


@app.command(epilog=example("tocsin end --run run_1k8hq3..."))
@guarded
def end(run: OneRun, reason: Reason = "", config: ConfigFile = None, json: Json = False) -> int:
    """End a run for good: its calls stay refused.

    It cannot be resumed after that. Calls in flight end; `tocsin stop` cuts them.
    """
    from tocsin.cli.stops import end as lift

    return lift(config, run, reason=reason, json=json)


@app.command(epilog=example("tocsin stops", "tocsin stops --all --json"))
@guarded
def stops(
    all: Annotated[  # noqa: A002 - the option's name
        bool, typer.Option("--all", help="Also those that were lifted.")
    ] = False,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most this many.")
    ] = 50,
    config: ConfigFile = None,
    json: Json = False,
) -> int:
    """List stops: who gave them, why, and what they cut.

    The newest first, with the time from the order to the last byte of the last call that was cut.
    """
    from tocsin.cli.stops import listed

    return listed(config, lifted=all, limit=limit, json=json)


Usd = Annotated[float | None, typer.Option("--usd", min=0, help="US dollars.")]
Tokens = Annotated[int | None, typer.Option("--tokens", min=0, help="Tokens.")]
Calls = Annotated[int | None, typer.Option("--calls", min=0, help="Calls.")]
ToolCalls = Annotated[int | None, typer.Option("--tool-calls", min=0, help="Tool calls.")]
LimitName = Annotated[str, typer.Argument(help="The limit's name in tocsin.toml.")]
Value = Annotated[
    str, typer.Option("--value", help="Which feature, key, end user or run it is about.")
]
RunOf = Annotated[str | None, typer.Option("--run", help="The run, where the limit is per run.")]


@limits_app.callback()
def limits(
    context: typer.Context,
    name: Annotated[str | None, typer.Option("--name", help="Only this limit.")] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most this many.")
    ] = 50,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Show what limits have left; raise one; settle what is uncertain.

    Without a command: every account, the fullest first.
    """
    if context.invoked_subcommand is None:
        _limits(config, name, limit, json)


@guarded
def _limits(config: Path | None, name: str | None, most: int, json: bool) -> int:
    from tocsin.cli.limits import listed

    return listed(config, name, most=most, json=json)


@limits_app.command(
    "raise",
    epilog=example(
        "tocsin limits raise daily --usd 5",
        "tocsin limits raise support-run --value support --run run_1k8hq3... --usd 2.50",
        "tocsin limits raise users --value user-4711 --tokens 200000",
    ),
)
@guarded
def limits_raise(
    name: LimitName,
    value: Value = "",
    run: RunOf = None,
    usd: Usd = None,
    tokens: Tokens = None,
    calls: Calls = None,
    tool_calls: ToolCalls = None,
    config: ConfigFile = None,
    json: Json = False,
) -> int:
    """Give one account of a limit so much more, until its window ends.

    For good, change the limit in tocsin.toml instead.
    """
    from tocsin.cli.limits import more

    given = {"nano_usd": usd, "tokens": tokens, "calls": calls, "tool_calls": tool_calls}
    return more(config, name, value=value, run=run, given=given, json=json)


@limits_app.command(
    "reconcile",
    epilog=example(
        "tocsin limits reconcile daily --usd 1.20", "tocsin limits reconcile daily --json"
    ),
)
@guarded
def limits_reconcile(
    name: LimitName,
    value: Value = "",
    run: RunOf = None,
    usd: Usd = None,
    tokens: Tokens = None,
    calls: Calls = None,
    tool_calls: ToolCalls = None,
    config: ConfigFile = None,
    json: Json = False,
) -> int:
    """Settle what is uncertain in an account: say what of it was really spent.

    The rest is given back. What is not named was all spent.
    """
    from tocsin.cli.limits import settle

    given = {"nano_usd": usd, "tokens": tokens, "calls": calls, "tool_calls": tool_calls}
    return settle(config, name, value=value, run=run, given=given, json=json)
