"""Names, options and help of the command that labels answers. Light, as ``commands`` is."""

from pathlib import Path
from typing import Annotated

import typer

from tocsin.cli.guard import guarded
from tocsin.cli.options import ConfigFile, Json, example

app = typer.Typer(rich_markup_mode=None)


@app.command(
    epilog=example(
        "tocsin label --feature support",
        "tocsin label --from judged --count 30",
        "tocsin label call_1k8hq3... --wrong --comment 'wrong price'",
        "tocsin label --export labels.jsonl",
    )
)
@guarded
def label(
    call: Annotated[
        str | None, typer.Argument(help="A call's id; without it, go through a sample.")
    ] = None,
    config: ConfigFile = None,
    right: Annotated[bool, typer.Option("--right", help="The answer was right.")] = False,
    wrong: Annotated[bool, typer.Option("--wrong", help="The answer was wrong.")] = False,
    comment: Annotated[str, typer.Option(help="Why, or anything else to keep.")] = "",
    feature: Annotated[str | None, typer.Option(help="Only this feature.")] = None,
    origin: Annotated[
        str,
        typer.Option(
            "--from",
            help="random; judged (by a model); disagreements (of verdicts); alert (that fires).",
        ),
    ] = "random",
    count: Annotated[int, typer.Option(min=1, max=1000, help="At most this many.")] = 20,
    since: Annotated[
        str | None, typer.Option(help="From: 24h, 7d, a date such as 2026-11-01, or all.")
    ] = "30d",
    seed: Annotated[int | None, typer.Option(help="Take the same sample again.")] = None,
    export: Annotated[
        Path | None, typer.Option(help="Write every labelled call to this file, JSON lines.")
    ] = None,
    json: Json = False,
) -> int:
    """Say which answers were right: one by one in the terminal, or by id.

    Shows request and answer of a sample and keeps your verdict on each. With --json it prints the
    sample instead, and asks nothing. Labels make up the signal labelled_right, and tell how far a
    judge may be believed.
    """
    from tocsin.cli import label as work

    if export is not None:
        return work.export(config, export, feature=feature, since=since)
    if call is not None:
        return work.by_id(config, call, right=right, wrong=wrong, comment=comment, json=json)
    return work.review(
        config, feature=feature, origin=origin, count=count, since=since, seed=seed, json=json
    )
