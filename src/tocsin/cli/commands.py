"""Every command's name, options and help. What a command does stands in the module it imports.

Only ``typer`` is loaded here, so that ``tocsin --help`` answers at once.
"""

from pathlib import Path
from typing import Annotated

import typer

from tocsin.cli import behaviour, labelling, orders
from tocsin.cli.extensions import Commands
from tocsin.cli.guard import guarded
from tocsin.cli.options import ConfigFile, Json
from tocsin.cli.options import example as _example
from tocsin.cli.watching import sentinels_app
from tocsin.cli.working import After, Id, operations_app, webhooks_app

app = typer.Typer(
    cls=Commands,
    name="tocsin",
    help="The reliability layer for LLM products: one process in front of your models.\n\n"
    "Start it with `tocsin up`, then point OPENAI_BASE_URL or ANTHROPIC_BASE_URL at it.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
keys_app = typer.Typer(
    help="Issue, list and revoke the keys of callers and people.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(keys_app, name="keys")
app.add_typer(sentinels_app, name="sentinels")
app.add_typer(operations_app, name="operations")
app.add_typer(webhooks_app, name="webhooks")

Since = Annotated[
    str | None, typer.Option(help="From: 30m, 24h, 7d, 2w, a date such as 2026-11-01, or all.")
]
Until = Annotated[str | None, typer.Option(help="To: the same forms.")]
Feature = Annotated[str | None, typer.Option(help="Only this feature.")]
Model = Annotated[str | None, typer.Option(help="Only this model.")]
User = Annotated[str | None, typer.Option(help="Only this end user.")]
Release = Annotated[str | None, typer.Option(help="Only this release.")]
KeyId = Annotated[str | None, typer.Option("--key", help="Only calls with this key's id.")]
Upstream = Annotated[str | None, typer.Option(help="Only this upstream.")]
Outcome = Annotated[
    str | None, typer.Option(help="Only this outcome: complete, truncated, error, denied, ...")
]
Source = Annotated[str | None, typer.Option(help="Only from: gateway, sdk, otlp or import.")]
Text = Annotated[
    str | None, typer.Option("--search", "-q", help="Only where a message contains these words.")
]


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    """Options that stand before a command."""
    if version:
        from tocsin import __version__

        typer.echo(f"tocsin {__version__}")
        raise typer.Exit


# -- running --


@app.command(epilog=_example("tocsin up", "tocsin up --port 8080 --config prod.toml"))
@guarded
def up(
    config: ConfigFile = None,
    host: Annotated[str | None, typer.Option(help="Address to bind; wins over the file.")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port; 0 picks a free one.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder for all data.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print problems only.")] = False,
) -> int:
    """Start Tocsin: the gateway for your apps, and the dashboard.

    Prints the base URLs to put into your clients and a link that signs you in to the dashboard.
    Ctrl-C or SIGTERM ends it once the calls under way are done; SIGHUP reads the settings again.
    """
    from tocsin.cli.serve import up as run

    return run(config, host=host, port=port, data_dir=data_dir, quiet=quiet)


@app.command(
    epilog=_example("tocsin follow resp_018f...", "tocsin follow resp_018f... --after 41 --json")
)
@guarded
def follow(operation: Id, config: ConfigFile = None, after: After = -1, json: Json = False) -> int:
    """Print an operation's events from any point, live, until it ends.

    The same lines however often and from wherever they are read. Exit code 1 when it ended
    otherwise than complete.
    """
    from tocsin.cli.operations import follow as work

    return work(config, operation, after=after, json=json)


@app.command(epilog=_example("tocsin demo", "tocsin demo --once"))
@guarded
def demo(
    once: Annotated[
        bool, typer.Option("--once", help="Check what happened, say OK or FAIL, and end.")
    ] = False,
    port: Annotated[
        int | None, typer.Option(help="TCP port; default: 4600, or a free one when it is taken.")
    ] = None,
    data_dir: Annotated[
        Path, typer.Option(help="Folder for the demo's data; emptied first.")
    ] = Path(".tocsin-demo"),
    sessions: Annotated[int, typer.Option(min=1, help="At most this many recorded sessions.")] = 13,
) -> int:
    """See it work: a real model and real recorded agent runs.

    Starts the gateway with a small model in this process, sends recorded coding-agent sessions and
    a few live calls through it over HTTP, then shows where to look. Without a terminal (CI=true) it
    behaves as with --once.
    """
    from tocsin.cli.demo import demo as run

    return run(once=once, port=port, data_dir=data_dir, count=sessions)


@app.command(
    epilog=_example(
        "tocsin replay traces.jsonl",
        "tocsin replay export.json.gz --html report.html",
        "tocsin replay runs/*.json --keep --feature support",
        "tocsin replay traces.jsonl --policy agents",
        "tocsin replay traces.jsonl --detectors",
    )
)
@guarded
def replay(
    files: Annotated[list[Path], typer.Argument(help="Files of traces, also .gz or .zst.")],
    config: ConfigFile = None,
    json: Json = False,
    html: Annotated[Path | None, typer.Option(help="Write the report as a page, too.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Put what was read into the store.")] = False,
    format: Annotated[  # noqa: A002 - the option's name
        str | None, typer.Option(help="Name of the format, where it is not found out.")
    ] = None,
    feature: Annotated[
        str, typer.Option(help="Feature of what the file assigns to none.")
    ] = "default",
    policy: Annotated[
        str | None,
        typer.Option(help="Say what this policy would have done instead: agents."),
    ] = None,
    detectors: Annotated[
        bool, typer.Option("--detectors", help="Say what alarms would have rung instead, and when.")
    ] = False,
) -> int:
    """Report on traces of other systems: runs, tools, spend, loops.

    Reads OpenAI messages (JSONL), OTLP (JSON, protobuf), Langfuse and LangSmith exports, tau-bench
    trajectories and Tocsin's own export. Records that cannot be read are counted and named by line,
    and make the exit code 1.

    With --policy agents it says where the supervisor would have nudged, paused and killed runs,
    what that would have saved and, where the file tells success from failure, how often it would
    have been right, beside the rule of three identical calls.
    """
    from tocsin.cli.replay import replay as run

    return run(
        files,
        config,
        json=json,
        html=html,
        keep=keep,
        format=format,
        feature=feature,
        policy=policy,
        detectors=detectors,
    )


@app.command(epilog=_example("tocsin login"))
@guarded
def login(config: ConfigFile = None, json: Json = False) -> int:
    """Print a link that signs you in to the dashboard.

    It works once, within ten minutes, for whoever opens it: treat it as a password.
    """
    from tocsin.cli.keys import login as run

    return run(config, json=json)


# -- looking --


@app.command(
    epilog=_example("tocsin runs --since 24h --sort cost", "tocsin runs -q 'refund' --json")
)
@guarded
def runs(
    config: ConfigFile = None,
    since: Since = None,
    until: Until = None,
    feature: Feature = None,
    model: Model = None,
    user: User = None,
    release: Release = None,
    key: KeyId = None,
    upstream: Upstream = None,
    outcome: Outcome = None,
    source: Source = None,
    search: Text = None,
    sort: Annotated[
        str,
        typer.Option(help="last_at, started_at, cost, calls, tokens, duration or errors."),
    ] = "last_at",
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most this many.")
    ] = 20,
    json: Json = False,
) -> int:
    """List runs: pieces of agentic work, the last active first."""
    from tocsin.cli.records import runs as run

    where = {
        "since": since,
        "until": until,
        "feature": feature,
        "model": model,
        "end_user": user,
        "release": release,
        "key_id": key,
        "upstream": upstream,
        "outcome": outcome,
        "source": source,
        "text": search,
    }
    return run(config, where, sort=sort, limit=limit, json=json)


@app.command(epilog=_example("tocsin show run_1k8hq3...", "tocsin show call_1k8hq3... --full"))
@guarded
def show(
    id: Annotated[  # noqa: A002 - the argument's name
        str, typer.Argument(help="A run's or a call's id; the beginning of it is enough.")
    ],
    config: ConfigFile = None,
    full: Annotated[bool, typer.Option("--full", help="Print messages whole.")] = False,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, help="At most this many calls of a run.")
    ] = 200,
    json: Json = False,
) -> int:
    """Tell a run or a call as a story.

    What was asked, called, answered, waited for and paid, in order.
    """
    from tocsin.cli.show import show as run

    return run(config, id, full=full, limit=limit, json=json)


@app.command(epilog=_example("tocsin tail", "tocsin tail --outcome error --json"))
@guarded
def tail(
    config: ConfigFile = None,
    lines: Annotated[
        int,
        typer.Option("--lines", "-n", min=0, max=1000, help="First print this many past calls."),
    ] = 10,
    feature: Feature = None,
    model: Model = None,
    user: User = None,
    key: KeyId = None,
    upstream: Upstream = None,
    outcome: Outcome = None,
    source: Source = None,
    json: Json = False,
) -> int:
    """Print a line for every call as it ends, until Ctrl-C."""
    from tocsin.cli.records import tail as run

    where = {
        "feature": feature,
        "model": model,
        "end_user": user,
        "key_id": key,
        "upstream": upstream,
        "outcome": outcome,
        "source": source,
    }
    return run(config, where, lines=lines, json=json)


@app.command(epilog=_example("tocsin spend --by model", "tocsin spend --by end_user --since 24h"))
@guarded
def spend(
    config: ConfigFile = None,
    by: Annotated[
        str,
        typer.Option(help="feature, model, release, end_user, run_id, key_id or upstream."),
    ] = "feature",
    since: Since = "30d",
    until: Until = None,
    feature: Feature = None,
    model: Model = None,
    user: User = None,
    top: Annotated[int, typer.Option(min=1, max=10_000, help="Rows, dearest first.")] = 20,
    json: Json = False,
) -> int:
    """Say where the money goes. Calls without a known price are counted, never taken as free."""
    from tocsin.cli.records import spend as run

    where = {"since": since, "until": until, "feature": feature, "model": model, "end_user": user}
    return run(config, where, by=by, top=top, json=json)


# -- behaviour --

app.add_typer(behaviour.app)
app.add_typer(labelling.app)

# -- stopping and limiting --

app.add_typer(orders.app)


# -- keys --


@keys_app.command(
    "issue",
    epilog=_example(
        "tocsin keys issue support-bot --feature support",
        "tocsin keys issue ana --role viewer --expires 90d",
    ),
)
@guarded
def keys_issue(
    name: Annotated[str, typer.Argument(help="Who or what will use it.")],
    config: ConfigFile = None,
    role: Annotated[
        str, typer.Option(help="caller (calls models), viewer (looks), operator or admin.")
    ] = "caller",
    feature: Annotated[
        list[str] | None, typer.Option(help="Only this feature; may be given more than once.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="When it ends: 12h, 90d or a date. Default: never.")
    ] = None,
    json: Json = False,
) -> int:
    """Make a key. It is printed once; only its digest is stored."""
    from tocsin.cli.keys import issue as run

    return run(config, name, role=role, features=feature or [], expires=expires, json=json)


@keys_app.command("list", epilog=_example("tocsin keys list", "tocsin keys list --json"))
@guarded
def keys_list(config: ConfigFile = None, json: Json = False) -> int:
    """List every key: its role, features and end, never its secret."""
    from tocsin.cli.keys import listed as run

    return run(config, json=json)


@keys_app.command("revoke", epilog=_example("tocsin keys revoke key_1k8hq3..."))
@guarded
def keys_revoke(
    id: Annotated[  # noqa: A002 - the argument's name
        str, typer.Argument(help="The key's id, from `tocsin keys list`.")
    ],
    config: ConfigFile = None,
) -> int:
    """End a key, everywhere within two seconds."""
    from tocsin.cli.keys import revoke as run

    return run(config, id)


# -- care --


@app.command(epilog=_example("tocsin check", "tocsin check --config prod.toml --json"))
@guarded
def check(config: ConfigFile = None, json: Json = False) -> int:
    """Check the settings; names file, line, setting and fix.

    Exit code 2 when something is wrong.
    """
    from tocsin.cli.check import check as run

    return run(config, json=json)


@app.command(epilog=_example("tocsin doctor", "tocsin doctor --online"))
@guarded
def doctor(
    config: ConfigFile = None,
    online: Annotated[
        bool, typer.Option("--online", help="Connect to each upstream, too (sends no key).")
    ] = False,
    json: Json = False,
) -> int:
    """Check the machine that Tocsin runs on.

    Python, SQLite, disk space, port, clock, store, keys, extras, and whether upstreams answer.
    """
    from tocsin.cli.doctor import doctor as run

    return run(config, online=online, json=json)


@app.command(epilog=_example("tocsin verify"))
@guarded
def verify(config: ConfigFile = None, json: Json = False) -> int:
    """Prove every stored record, message and link whole. Exit code 1 when one is not."""
    from tocsin.cli.care import verify as run

    return run(config, json=json)


@app.command(
    epilog=_example(
        "tocsin export calls.jsonl.zst --since 7d", "tocsin export spend.parquet --feature chat"
    )
)
@guarded
def export(
    file: Annotated[
        Path, typer.Argument(help="Ends in .jsonl, .jsonl.gz, .jsonl.zst or .parquet.")
    ],
    config: ConfigFile = None,
    since: Since = None,
    until: Until = None,
    feature: Feature = None,
    model: Model = None,
    user: User = None,
    outcome: Outcome = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the file if there is one.")
    ] = False,
    json: Json = False,
) -> int:
    """Write calls to a file of JSON lines or Parquet.

    JSON lines hold everything, and `tocsin replay` reads them back; Parquet holds the figures
    without the messages.
    """
    from tocsin.cli.care import export as run

    where = {
        "since": since,
        "until": until,
        "feature": feature,
        "model": model,
        "end_user": user,
        "outcome": outcome,
    }
    return run(config, file, where, force=force, json=json)


@app.command(epilog=_example("tocsin rebuild"))
@guarded
def rebuild(config: ConfigFile = None, json: Json = False) -> int:
    """Make segments and search index again from the records."""
    from tocsin.cli.care import rebuild as run

    return run(config, json=json)


@app.command(epilog=_example("tocsin forget user-4711", "tocsin forget user-4711 --yes"))
@guarded
def forget(
    user: Annotated[str, typer.Argument(help="The end user, as calls name them.")],
    config: ConfigFile = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> int:
    """Delete everything recorded of one end user. There is no undo."""
    from tocsin.cli.care import forget as run

    return run(config, user, yes=yes, json=json)


@app.command(epilog=_example('eval "$(tocsin completion bash)"', "tocsin completion fish | source"))
@guarded
def completion(
    shell: Annotated[str, typer.Argument(help="bash, zsh or fish.")] = "bash",
) -> int:
    """Print the script that completes commands in your shell."""
    from tocsin.cli.extensions import completion_script

    typer.echo(completion_script(shell))
    return 0
