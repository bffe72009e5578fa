"""Names, options and help of the commands about operations and webhooks. Light, as ``commands``."""

from typing import Annotated

import typer

from tocsin.cli.guard import guarded
from tocsin.cli.options import ConfigFile, Json, example

operations_app = typer.Typer(
    help="Durable work: what runs, what waits for a person, how it ended.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
webhooks_app = typer.Typer(
    help="What is told to webhooks: messages, tries, endpoints that were given up.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Id = Annotated[str, typer.Argument(help="The operation: resp_... or op_...")]
After = Annotated[
    int, typer.Option(min=-1, help="Begin behind the event of this number; -1: from the first.")
]


@operations_app.command(
    "list",
    epilog=example(
        "tocsin operations list",
        "tocsin operations list --status waiting",
        "tocsin operations list --outcome unknown --json",
    ),
)
@guarded
def listed(
    config: ConfigFile = None,
    status: Annotated[
        str | None, typer.Option(help="Only: queued, running, waiting or ended.")
    ] = None,
    outcome: Annotated[
        str | None, typer.Option(help="Only this outcome: complete, unknown, cancelled, ...")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="Only this kind: response, batch, ...")] = None,
    feature: Annotated[str | None, typer.Option(help="Only this feature.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most this many.")] = 50,
    json: Json = False,
) -> int:
    """List operations, newest first."""
    from tocsin.cli.operations import listed as work

    return work(
        config, status=status, outcome=outcome, kind=kind, feature=feature, limit=limit, json=json
    )


@operations_app.command("show", epilog=example("tocsin operations show resp_018f..."))
@guarded
def show(
    operation: Id,
    config: ConfigFile = None,
    events: Annotated[int, typer.Option(min=0, help="Print at most this many events.")] = 40,
    json: Json = False,
) -> int:
    """Show one operation: how it stands, its steps and side effects, its events, its result."""
    from tocsin.cli.operations import show as work

    return work(config, operation, events=events, json=json)


@operations_app.command("follow", epilog=example("tocsin operations follow resp_018f..."))
@guarded
def follow(operation: Id, config: ConfigFile = None, after: After = -1, json: Json = False) -> int:
    """Print an operation's events from any point, live, until it ends (as tocsin follow)."""
    from tocsin.cli.operations import follow as work

    return work(config, operation, after=after, json=json)


@operations_app.command("cancel", epilog=example("tocsin operations cancel resp_018f..."))
@guarded
def cancel(operation: Id, config: ConfigFile = None, json: Json = False) -> int:
    """End an operation, whichever process runs it, and name what it had changed by then."""
    from tocsin.cli.operations import cancel as work

    return work(config, operation, json=json)


@operations_app.command(
    "answer", epilog=example('tocsin operations answer op_018f... --yes --note "checked"')
)
@guarded
def answer(
    operation: Id,
    config: ConfigFile = None,
    approve: Annotated[
        bool | None, typer.Option("--yes/--no", help="Approve, or refuse.", show_default=False)
    ] = None,
    note: Annotated[str, typer.Option(help="What the work is told with it.")] = "",
    json: Json = False,
) -> int:
    """Answer what a waiting operation asks; without --yes or --no, print the question."""
    from tocsin.cli.operations import answer as work

    return work(config, operation, approve=approve, note=note, json=json)


@webhooks_app.command(
    "list", epilog=example("tocsin webhooks list", "tocsin webhooks list --state failed")
)
@guarded
def deliveries(
    config: ConfigFile = None,
    state: Annotated[
        str | None, typer.Option(help="Only: pending, delivered, failed or disabled.")
    ] = None,
    operation: Annotated[str | None, typer.Option(help="Only of this operation.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most this many.")] = 50,
    json: Json = False,
) -> int:
    """List messages to webhooks, newest first, with how often each was tried."""
    from tocsin.cli.webhooks import listed as work

    return work(config, state=state, operation=operation, limit=limit, json=json)


@webhooks_app.command("replay", epilog=example("tocsin webhooks replay whd_018f..."))
@guarded
def replay(
    delivery: Annotated[str, typer.Argument(help="The message's id.")],
    config: ConfigFile = None,
    json: Json = False,
) -> int:
    """Send a message again, under the same webhook-id: a receiver that has it does nothing."""
    from tocsin.cli.webhooks import replay as work

    return work(config, delivery, json=json)


@webhooks_app.command("enable", epilog=example("tocsin webhooks enable https://example.com/hook"))
@guarded
def enable(
    url: Annotated[str, typer.Argument(help="The URL that was given up.")],
    config: ConfigFile = None,
    json: Json = False,
) -> int:
    """Tell an endpoint again that answered 410; what waited for it is sent."""
    from tocsin.cli.webhooks import enable as work

    return work(config, url, json=json)
