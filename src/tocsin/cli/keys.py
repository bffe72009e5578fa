"""``tocsin keys``: issue, list and revoke. ``tocsin login``: a way in for a person."""

import getpass
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from tocsin.cli import output
from tocsin.cli.context import Settings, future, one_of, opened, settings
from tocsin.cli.guard import OK
from tocsin.config.model import Config
from tocsin.core.call import Role
from tocsin.core.clock import SystemClock
from tocsin.core.errors import NotFound
from tocsin.dashboard import fmt
from tocsin.gateway.auth import Keyring, is_live, load_secret
from tocsin.gateway.sessions import CODE_LIFE_US, LoginCodes
from tocsin.store.api import Store


@contextmanager
def _keyring(found: Settings) -> Iterator[tuple[Keyring, Store]]:
    # A key may be issued before the first start: this makes the folder and the secret.
    folder = Path(found.config.server.data_dir)
    secret = load_secret(folder, found.env)
    with opened(found.config) as store:
        yield Keyring(store, secret), store


def issue(
    config: Path | None,
    name: str,
    *,
    role: str,
    features: Sequence[str],
    expires: str | None,
    json: bool,
) -> int:
    """Make a key and print its secret, this once."""
    wanted = cast(Role, one_of("--role", role, Role))
    expires_at = future(expires, SystemClock().now_us(), "--expires")
    with _keyring(settings(config)) as (keyring, _):
        made = keyring.issue(name, wanted, features=features, expires_at=expires_at, actor=_actor())
    if json:
        output.print_json({**_public(made.row), "secret": made.secret})
        return OK
    output.console().print(made.secret, soft_wrap=True)
    note = (
        f"{made.row.id}: shown this once; send it as `Authorization: Bearer ...`, `x-api-key` or "
        "`tocsin-key`"
    )
    output.console(stderr=True).print(note, style="dim", soft_wrap=True)
    return OK


def listed(config: Path | None, *, json: bool) -> int:
    """Every key, the ended ones last."""
    now = SystemClock().now_us()
    with _keyring(settings(config)) as (_, store):
        keys = sorted(store.keys(), key=lambda k: (not is_live(k, now), -k.created_at))
    if json:
        output.print_json({"keys": [_public(key) for key in keys]})
        return OK
    if not keys:
        output.say("No keys. Make one: tocsin keys issue NAME --role caller")
        return OK
    made = output.table(("id", "name", "role", "features", "ends in", "made", "state"))
    for key in keys:
        live = is_live(key, now)
        state = "live" if live else "revoked" if key.revoked_at is not None else "expired"
        if live and key.expires_at is not None:
            state = f"live until {output.clock_time(key.expires_at)}"
        made.add_row(
            key.id,
            output.cell(key.name),
            key.role,
            output.cell(", ".join(key.features) or "every one"),
            f"…{key.hint}",
            fmt.ago(key.created_at, now),
            output.cell(state, output.GOOD if live else output.QUIET),
        )
    output.show(made)
    return OK


def revoke(config: Path | None, key_id: str) -> int:
    """End a key. Raises ``NotFound`` when it is none or has ended."""
    with _keyring(settings(config)) as (keyring, _):
        if not keyring.revoke(key_id, actor=_actor()):
            raise NotFound(f"no live key has the id {key_id!r}; see `tocsin keys list`")
    output.say(f"{key_id} is revoked; running Tocsins refuse it within two seconds.")
    return OK


def login(config: Path | None, *, json: bool) -> int:
    """Print a sign-in link of the admin's key, which is made when there is none."""
    found = settings(config)
    with _keyring(found) as (keyring, store):
        keyring.ensure_admin()
        now = SystemClock().now_us()
        keys = store.keys()
        key_id = next(key.id for key in keys if key.role == "admin" and is_live(key, now))
    code = LoginCodes(found.config.server.data_dir).issue(key_id)
    link = f"{base_url(found.config, found.config.server.port)}/login?code={code}"
    if json:
        output.print_json({"url": link, "valid_s": CODE_LIFE_US // 1_000_000})
    else:
        output.console().print(link, soft_wrap=True)
    return OK


def base_url(config: Config, port: int) -> str:
    """Where a client on this machine reaches a server with these settings."""
    host = config.server.host
    if host in ("0.0.0.0", "::", ""):  # noqa: S104 - read, not bound
        host = "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _public(key: object) -> dict[str, object]:
    """A key's row without its digest, which is nobody's business."""
    row = cast(dict[str, object], output.plain(key))
    row.pop("digest", None)
    return row


def _actor() -> str:
    """Whom the audit log names: the account that ran the command."""
    try:
        return f"tocsin keys ({getpass.getuser()})"
    except (OSError, KeyError):
        return "tocsin keys"
