"""``tocsin digest``: the week as Markdown, printed, written or sent."""

from pathlib import Path

from tocsin.app import signals_known
from tocsin.cli import output
from tocsin.cli.context import moment, opened, settings
from tocsin.cli.guard import OK
from tocsin.config.signals import objectives_of
from tocsin.core.clock import SystemClock
from tocsin.core.errors import ConfigError, InputError
from tocsin.domains.signals.digest import write
from tocsin.domains.signals.objectives import standings
from tocsin.worker.digest import DAY_US, gather, send, urls_of


def digest(config: Path | None, *, since: str, out: Path | None, send: bool, json: bool) -> int:
    """Make the digest. Raises ``InputError``, ``ConfigError`` or ``NotSent``."""
    found = settings(config)
    now = SystemClock().now_us()
    begin = moment(since, now, "--since")
    if begin is None or begin >= now:
        raise InputError("--since: name a span such as 7d or 30d, or a date that has been")
    urls = urls_of(found.config.digest, found.env)
    if send and not urls:
        raise ConfigError(_nowhere(found.config.digest.urls_env))
    catalogue = signals_known(found.config)
    with opened(found.config) as store:
        week = gather(store, now, (now - begin) / DAY_US)
        told = standings(store, objectives_of(found.config), catalogue, now)
    title, text = write(week, told, catalogue)
    if send:
        _send(urls, title, text)
    if out is not None:
        _write(out, text)
    if json:
        output.print_json({"title": title, "markdown": text, "sent": send})
    elif send or out is not None:
        done = [*(("sent",) if send else ()), *((f"written to {out}",) if out else ())]
        output.say(f"{title}: {output.listing(done)}.")
    else:
        output.say(text.rstrip("\n"))
    return OK


def _send(urls: str, title: str, text: str) -> None:
    send(urls, title, text)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--out: {path} cannot be written: {error.strerror}") from None


def _nowhere(variable: str) -> str:
    if not variable:
        return (
            "there is nowhere to send it: set digest.urls_env to the name of an environment "
            "variable that holds Apprise URLs"
        )
    return (
        f"the environment variable {variable} (digest.urls_env) is not set; export it with Apprise "
        "URLs such as mailto://..., separated by spaces"
    )


__all__ = ["digest"]
