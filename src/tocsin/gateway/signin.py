"""Signing in and out of the pages: a one-time link, a pasted key, a button."""

import html
from typing import Protocol
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from tocsin.core.errors import Forbidden, Unauthenticated
from tocsin.gateway.access import MAX_FORM, session_in
from tocsin.gateway.auth import Keyring, same_origin
from tocsin.gateway.problems import problem
from tocsin.gateway.sessions import LoginCodes, Sessions


class LoginPage(Protocol):
    """Draws the form that posts ``key`` and ``next`` to ``/login``."""

    def __call__(self, error: str = "", *, next_path: str = "/", status: int = 200) -> Response: ...


def routes(
    *, keyring: Keyring, sessions: Sessions, codes: LoginCodes, login_page: LoginPage
) -> list[BaseRoute]:
    """``/login`` and ``/logout``, to be put behind ``Access.guard``."""
    desk = _Desk(keyring, sessions, codes, login_page)
    return [
        Route("/login", desk.login, methods=["GET"]),
        Route("/login", desk.login_with_key, methods=["POST"]),
        Route("/logout", desk.logout, methods=["POST"]),
    ]


_USED_LINK = (
    "This link has been used or is older than ten minutes. Restart `tocsin up` for a new one, or "
    "paste a viewer or admin key."
)


class _Desk:
    def __init__(
        self, keyring: Keyring, sessions: Sessions, codes: LoginCodes, login_page: LoginPage
    ) -> None:
        self._keyring = keyring
        self._sessions = sessions
        self._codes = codes
        self._login_page = login_page

    async def login(self, request: Request) -> Response:
        """The form, or with ``?code=`` the session that the one-time link stands for."""
        code = request.query_params.get("code")
        target = safe_target(request.query_params.get("next"))
        if code is None:
            return self._login_page(next_path=target)
        if request.method != "GET":
            return Response(status_code=204)  # a link preview must not use the code up
        key_id = await run_in_threadpool(self._codes.redeem, code)
        if key_id is None or await self._keyring.holder(key_id) is None:
            return self._login_page(_USED_LINK, next_path=target, status=401)
        await run_in_threadpool(self._keyring.audit, "sign-in link", "session.start", key_id)
        # Not a redirect: coming from another program's link, the browser would follow it without
        # the SameSite=Strict cookie. From a page of ours it sends it.
        response = _welcome(target)
        response.headers["set-cookie"] = self._cookie(request, self._sessions.start(key_id))
        return response

    async def login_with_key(self, request: Request) -> Response:
        """The session of a pasted key."""
        if not same_origin(tuple(request.headers.raw)):
            raise Forbidden("sign in on this server's own page", code="foreign_origin")
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MAX_FORM:
                return problem(413, "too_large", "a key is never that long")
        form = parse_qs(body.decode("latin-1"), max_num_fields=20)
        target = safe_target(form.get("next", [None])[0])
        key = form.get("key", [""])[0].strip()
        try:
            cookie = await self._sessions.start_with_key(key)
        except ValueError as error:
            return self._login_page(str(error), next_path=target, status=403)
        except Unauthenticated as error:
            return self._login_page(error.message, next_path=target, status=401)
        await run_in_threadpool(self._keyring.audit, f"key …{key[-4:]}", "session.start", "")
        response = RedirectResponse(target, 303, headers={"cache-control": "no-store"})
        response.headers["set-cookie"] = self._cookie(request, cookie)
        return response

    async def logout(self, request: Request) -> Response:
        """End this browser's session."""
        session = session_in(request.scope)
        if session is not None:
            self._sessions.end(session)
        response = RedirectResponse("/login", 303, headers={"cache-control": "no-store"})
        response.headers["set-cookie"] = self._sessions.clear_cookie(secure=_is_https(request))
        return response

    def _cookie(self, request: Request, value: str) -> str:
        return self._sessions.set_cookie(value, secure=_is_https(request))


def safe_target(target: str | None) -> str:
    """A path on this server to go on to; ``/`` for anything that could lead elsewhere."""
    if target is None or not target.startswith("/") or target.startswith(("//", "/\\")):
        return "/"
    if not all(" " < character <= "~" for character in target) or "\\" in target:
        return "/"
    return target


def _is_https(request: Request) -> bool:
    # Whoever makes the header up only takes the cookie from itself over http.
    forwarded = request.headers.get("x-forwarded-proto", "").lower()
    return "https" in (request.scope.get("scheme"), forwarded)


def _welcome(target: str) -> Response:
    place = html.escape(target, quote=True)
    return Response(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Signed in · Tocsin</title>"
        f'<meta http-equiv=refresh content="0;url={place}">'
        f'<p>Signed in. <a href="{place}">Go on</a></p></html>',
        media_type="text/html",
        headers={"cache-control": "no-store"},
    )
