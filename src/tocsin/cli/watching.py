"""Names, options and help of the commands about sentinels. Light, as ``commands`` is."""

from typing import Annotated

import typer

from tocsin.cli.guard import guarded
from tocsin.cli.options import ConfigFile, Json, example

sentinels_app = typer.Typer(
    help="Ask a suite of prompts again and again, and compare the answers with their past.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str | None, typer.Argument(help="The suite; default: every one.")]


@sentinels_app.command(
    "record",
    epilog=example(
        "tocsin sentinels record support --feature support --count 100",
        "tocsin sentinels record support --since 30d --force",
    ),
)
@guarded
def record(
    name: Annotated[str, typer.Argument(help="The suite, as in [sentinels.NAME].")],
    config: ConfigFile = None,
    feature: Annotated[
        str | None, typer.Option(help="Take this feature's calls; default: that of the suite.")
    ] = None,
    count: Annotated[int, typer.Option(min=2, max=10_000, help="At most this many prompts.")] = 100,
    since: Annotated[
        str | None, typer.Option(help="From recorded calls since: 24h, 7d, a date, or all.")
    ] = "30d",
    force: Annotated[bool, typer.Option("--force", help="Replace the suite there is.")] = False,
    json: Json = False,
) -> int:
    """Make a suite from recorded calls: diverse, each prompt once.

    Secrets of known shapes and who asked are taken out. What else people wrote stays: read the file
    through before you share it.
    """
    from tocsin.cli.sentinels import record as work

    return work(config, name, feature=feature, count=count, since=since, force=force, json=json)


@sentinels_app.command(
    "run", epilog=example("tocsin sentinels run", "tocsin sentinels run support --json")
)
@guarded
def run(name: Name = None, config: ConfigFile = None, json: Json = False) -> int:
    """Ask every prompt of a suite, now, of each of its upstreams.

    The calls take the path of all calls, limits included, and cost what they cost. They are
    recorded under the feature sentinel:NAME:UPSTREAM, so no signal of your features counts them.
    """
    from tocsin.cli.sentinels import run as work

    return work(config, name, json=json)


@sentinels_app.command(
    "diff",
    epilog=example(
        "tocsin sentinels diff",
        "tocsin sentinels diff support --from run_018f... --to run_0190...",
        "tocsin sentinels diff support --accept",
    ),
)
@guarded
def diff(
    name: Name = None,
    config: ConfigFile = None,
    before: Annotated[
        str | None,
        typer.Option("--from", help="Compare with this run; default: the first accepted ones."),
    ] = None,
    after: Annotated[
        str | None, typer.Option("--to", help="The run to look at; default: the latest.")
    ] = None,
    upstream: Annotated[str | None, typer.Option(help="Only this upstream.")] = None,
    alpha: Annotated[
        float,
        typer.Option(min=1e-9, max=0.5, help="Chance of any change by chance, over all of it."),
    ] = 0.05,
    accept: Annotated[
        bool, typer.Option("--accept", help="Call the run normal from now on.")
    ] = False,
    json: Json = False,
) -> int:
    """Say what changed in the answers, prompt by prompt, and by how much.

    Compares the latest run with the first runs since somebody accepted one, over every signal at
    once. Exit code 1 when something changed.
    """
    from tocsin.cli.sentinels import compare

    return compare(
        config, name, before=before, after=after, upstream=upstream, alpha=alpha,
        accept=accept, json=json,
    )  # fmt: skip


@sentinels_app.command("list", epilog=example("tocsin sentinels list"))
@guarded
def listed(config: ConfigFile = None, json: Json = False) -> int:
    """List suites: prompts, upstreams, schedule and runs."""
    from tocsin.cli.sentinels import listed as work

    return work(config, json=json)
