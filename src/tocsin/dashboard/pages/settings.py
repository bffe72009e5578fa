"""Settings: keys, upstreams, policies, storage, and who changed what."""

import asyncio
from typing import Any, get_args

from starlette.responses import RedirectResponse, Response

from tocsin.core.call import Role
from tocsin.core.errors import CallError, InputError, TocsinError
from tocsin.dashboard import render
from tocsin.dashboard.deps import IssuedKey
from tocsin.dashboard.view import View
from tocsin.store.api import KeyRow

ROLES: tuple[Role, ...] = tuple(role for role in get_args(Role) if role != "anonymous")
_ROLE_MEANING: dict[Role, str] = {
    "caller": "may call models",
    "viewer": "may also read these pages",
    "operator": "may also act on features",
    "admin": "may also manage keys and settings",
}
_DAY = 86_400_000_000
_AUDIT = 50
_MOST_DAYS = 3650


async def settings(view: View) -> Response:
    """The settings page. Keys and the audit log are for operators, forms for admins."""
    return await _page(view)


async def issue_key(view: View) -> Response:
    """Issue a key from the form; its secret is on this answer and nowhere else."""
    form = await view.form()
    try:
        name, role, features, expires = _wanted(form, view.now)
        issued = await view.read(
            view.deps.issue_key, name, role, features, expires, actor=_actor(view)
        )
    except (TocsinError, ValueError) as error:
        said = error.message if isinstance(error, CallError) else str(error)
        return await _page(view, status=400, form=form, form_error=said)
    return await _page(view, issued=issued)


async def revoke_key(view: View) -> Response:
    """Revoke a key, then back to the settings page."""
    await view.form()
    key_id = view.request.path_params["key_id"]
    await view.read(view.deps.revoke_key, key_id, actor=_actor(view))
    return RedirectResponse("/settings#keys", 303, dict(render.PAGE_HEADERS))


def _actor(view: View) -> str:
    return view.principal.key_id or view.principal.name


def _wanted(form: dict[str, str], now: int) -> tuple[str, Role, tuple[str, ...], int | None]:
    """Name, role, features and expiry of the form. Raises ``InputError`` that names the field."""
    name = form.get("name", "").strip()
    if not name:
        raise InputError("Name: give the key a name that says who uses it.")
    role = next((r for r in ROLES if r == form.get("role")), None)
    if role is None:
        raise InputError(f"Role: choose one of {', '.join(ROLES)}.")
    features = tuple(f.strip() for f in form.get("features", "").split(",") if f.strip())
    days = form.get("days", "").strip()
    if not days:
        return name, role, features, None
    if not days.isascii() or not days.isdecimal() or not 1 <= int(days) <= _MOST_DAYS:
        raise InputError(f"Expires: a number of days from 1 to {_MOST_DAYS}, or nothing for never.")
    return name, role, features, now + int(days) * _DAY


async def _page(
    view: View,
    *,
    status: int = 200,
    issued: IssuedKey | None = None,
    form: dict[str, str] | None = None,
    form_error: str = "",
) -> Response:
    store = view.deps.store
    operates = view.may("operator")
    stats, keys, audit = await asyncio.gather(
        view.read(store.stats),
        view.read(store.keys) if operates else _nothing(),
        view.read(store.audit, limit=_AUDIT) if operates else _nothing(),
    )
    shown: dict[str, Any] = {
        "stats": stats,
        "keys": sorted(keys, key=lambda key: (_ended(key, view.now), -key.created_at)),
        "key_names": {key.id: key.name for key in keys},
        "audit": audit,
        "settings": view.deps.settings(),
        "issued": issued,
        "form": form or {},
        "form_error": form_error,
        "roles": [(role, _ROLE_MEANING[role]) for role in ROLES],
        "ended": lambda key: _ended(key, view.now),
    }
    return await view.page("settings.html", status, section="settings", **shown)


async def _nothing() -> list[Any]:
    return []


def _ended(key: KeyRow, now: int) -> str:
    """Why a key no longer works: ``revoked``, ``expired``, or empty while it does."""
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= now else ""
