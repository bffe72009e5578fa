"""Names, options and help of the commands on how features behave. Light, as ``commands`` is."""

from pathlib import Path
from typing import Annotated

import typer

from tocsin.cli.guard import guarded
from tocsin.cli.options import ConfigFile, Json, example

app = typer.Typer(rich_markup_mode=None)
signals_app = typer.Typer(
    help="Show how features behave, signal by signal.\n\n"
    "Without a command: each with its interval, and a verdict against the 28 days before.",
    invoke_without_command=True,
    rich_markup_mode=None,
    epilog=example(
        "tocsin signals",
        "tocsin signals --feature support --since 7d --slice release",
        "tocsin signals --list",
    ),
)
app.add_typer(signals_app, name="signals")


@signals_app.callback()
def signals(
    context: typer.Context,
    feature: Annotated[str | None, typer.Option(help="Only this feature.")] = None,
    signal: Annotated[str | None, typer.Option(help="Only this signal.")] = None,
    since: Annotated[
        str, typer.Option(help="From: 30m, 24h, 7d, 2w, a date such as 2026-11-01, or all.")
    ] = "24h",
    slice: Annotated[  # noqa: A002 - the option's name
        str | None,
        typer.Option(
            help="By release, model, upstream, cohort, language, prompt, tool or hour, too."
        ),
    ] = None,
    list: Annotated[  # noqa: A002 - the option's name
        bool, typer.Option("--list", help="Name every signal and say what it means.")
    ] = False,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Show how features behave, signal by signal.

    Each with its interval, and a verdict against the 28 days before.
    """
    if context.invoked_subcommand is None:
        _signals(config, feature, signal, since, slice, list, json)


@guarded
def _signals(
    config: Path | None,
    feature: str | None,
    signal: str | None,
    since: str,
    dimension: str | None,
    names: bool,
    json: bool,
) -> int:
    from tocsin.cli import signals as run

    if names:
        return run.listed(config, json=json)
    return run.shown(
        config, feature=feature, signal=signal, since=since, dimension=dimension, json=json
    )


@signals_app.command(
    "accept",
    epilog=example(
        "tocsin signals accept support answer_words --note 'shorter answers, release 41'",
        "tocsin signals accept support answer_words --since 2026-11-01T14:00",
        "tocsin signals accept support answer_words --undo",
    ),
)
@guarded
def accept(
    feature: Annotated[str, typer.Argument(help="The feature.")],
    signal: Annotated[str, typer.Argument(help="The signal, from `tocsin signals --list`.")],
    since: Annotated[
        str,
        typer.Option(help="From when its level is normal: 2h, 3d, a date; `0s` is now."),
    ] = "0s",
    note: Annotated[str, typer.Option(help="Why; pages show it.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Take the word back.")] = False,
    config: ConfigFile = None,
    json: Json = False,
) -> int:
    """Call a signal's new level normal: its baseline begins anew.

    Detectors and pages hold it against what came since then. The alarm about it ends.
    """
    from tocsin.cli import signals as run

    if undo:
        return run.forget(config, feature, signal, json=json)
    return run.accept(config, feature, signal, since=since, note=note, json=json)


@app.command(epilog=example("tocsin objectives", "tocsin objectives --feature support --json"))
@guarded
def objectives(
    feature: Annotated[str | None, typer.Option(help="Only this feature.")] = None,
    config: ConfigFile = None,
    json: Json = False,
) -> int:
    """Show objectives: error budgets, burn rates, proof.

    Exit code 1 when one burns or has spent its budget.
    """
    from tocsin.cli.objectives import shown

    return shown(config, feature=feature, json=json)


@app.command(
    epilog=example(
        "tocsin digest", "tocsin digest --since 30d --out month.md", "tocsin digest --send"
    )
)
@guarded
def digest(
    since: Annotated[str, typer.Option(help="How far back: 7d, 30d, or a date.")] = "7d",
    out: Annotated[Path | None, typer.Option(help="Write it to this file.")] = None,
    send: Annotated[
        bool, typer.Option("--send", help="Send it to the addresses of [digest], now.")
    ] = False,
    config: ConfigFile = None,
    json: Json = False,
) -> int:
    """Print the digest of the week as Markdown.

    What changed, what burns, what it cost, what needs a person. A running Tocsin sends it by
    itself, once a week, where [digest] says.
    """
    from tocsin.cli.digest import digest as run

    return run(config, since=since, out=out, send=send, json=json)


@app.command(epilog=example("tocsin grafana", "tocsin grafana --out tocsin.json"))
@guarded
def grafana(
    out: Annotated[Path | None, typer.Option(help="Write it to this file.")] = None,
) -> int:
    """Print a Grafana dashboard for Tocsin's Prometheus metrics.

    Import it in Grafana and choose the data source that scrapes `/metrics`.
    """
    from tocsin.cli.grafana import grafana as run

    return run(out)
