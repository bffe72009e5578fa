"""Every route × every role × every method, on the site as it is served. Deny by default."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute

from adminkit import Site, running
from tocsin.app import build
from tocsin.cli.context import Settings
from tocsin.cli.frontdoor import FrontDoor, _table
from tocsin.config.model import Config, Server, Upstream
from tocsin.gateway.access import RANKS, Access, RouteRole, shape_of

ROLES = ("anonymous", "caller", "viewer", "operator", "admin")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")

# What the product promises, written down a second time: a route that is added, or whose role is
# changed, must be changed here too, by somebody who thinks about it.
EXPECTED = {
    "GET /healthz": "public",
    "GET /readyz": "public",
    "GET /login": "public",
    "POST /login": "public",
    "GET /static/{name}": "public",
    "POST /v1/traces": "caller",
    "GET /metrics": "viewer",
    "POST /logout": "viewer",
    "GET /": "viewer",
    "GET /runs": "viewer",
    "GET /runs/{run_id}": "viewer",
    "GET /runs/{run_id}/markdown": "viewer",
    "GET /runs/{run_id}/json": "viewer",
    "GET /calls": "viewer",
    "GET /calls/{call_id}": "viewer",
    "GET /calls/{call_id}/markdown": "viewer",
    "GET /calls/{call_id}/json": "viewer",
    "GET /calls/{call_id}/curl": "viewer",
    "POST /calls/{call_id}/feedback": "viewer",
    "GET /signals/{feature}": "viewer",
    "GET /signals/{feature}/{signal}": "viewer",
    "GET /signals/{feature}/{signal}/markdown": "viewer",
    "GET /signals/{feature}/{signal}/json": "viewer",
    "POST /signals/{feature}/{signal}/accept": "operator",
    "POST /signals/{feature}/{signal}/forget": "operator",
    "GET /compare": "viewer",
    "GET /compare/markdown": "viewer",
    "GET /compare/json": "viewer",
    "GET /alerts": "viewer",
    "GET /alerts/{fingerprint}": "viewer",
    "GET /alerts/{fingerprint}/markdown": "viewer",
    "GET /supervisor": "viewer",
    "GET /supervisor/confirm": "operator",
    "POST /supervisor/act": "operator",
    "GET /operations": "viewer",
    "GET /operations/{operation_id}": "viewer",
    "GET /operations/{operation_id}/json": "viewer",
    "POST /operations/{operation_id}/cancel": "operator",
    "POST /operations/{operation_id}/answer": "operator",
    "GET /spend": "viewer",
    "GET /settings": "viewer",
    "GET /live/runs": "viewer",
    "GET /live/runs/{run_id}": "viewer",
    "GET /api/openapi.json": "viewer",
    "GET /api/interactions": "viewer",
    "GET /api/interactions/{id}": "viewer",
    "GET /api/runs": "viewer",
    "GET /api/runs/{id}": "viewer",
    "GET /api/runs/{id}/steps": "viewer",
    "GET /api/overview": "viewer",
    "GET /api/spend": "viewer",
    "GET /api/facets": "viewer",
    "GET /api/upstreams": "viewer",
    "GET /api/stats": "viewer",
    "GET /api/runs/{id}/findings": "viewer",
    "GET /api/supervisor": "viewer",
    "GET /api/alerts": "viewer",
    "GET /api/limits": "viewer",
    "GET /api/stops": "viewer",
    "GET /api/stops/{id}": "caller",
    "POST /api/stops": "operator",
    "POST /api/stops/{id}/lift": "operator",
    "POST /api/runs/{id}/pause": "operator",
    "POST /api/runs/{id}/resume": "operator",
    "POST /api/runs/{id}/redirect": "operator",
    "POST /api/runs/{id}/end": "operator",
    "POST /api/runs/{id}/kill": "operator",
    "POST /api/limits/raise": "operator",
    "GET /api/signals": "viewer",
    "GET /api/signals/{feature}/{signal}": "viewer",
    "GET /api/slices/{feature}/{signal}": "viewer",
    "GET /api/interactions/{id}/scores": "viewer",
    "GET /api/interactions/{id}/feedback": "viewer",
    "POST /api/feedback": "caller",
    "GET /api/baselines": "viewer",
    "POST /api/baselines": "operator",
    "DELETE /api/baselines/{feature}/{signal}": "operator",
    "GET /api/operations": "viewer",
    "POST /api/operations": "caller",
    "GET /api/operations/{id}": "caller",
    "DELETE /api/operations/{id}": "caller",
    "GET /api/operations/{id}/events": "caller",
    "GET /api/operations/{id}/stream": "caller",
    "GET /api/operations/{id}/result": "caller",
    "POST /api/operations/{id}/cancel": "caller",
    "POST /api/operations/{id}/answer": "operator",
    "GET /api/effects": "viewer",
    "POST /api/effects": "caller",
    "POST /api/effects/{key}": "caller",
    "GET /api/deliveries": "viewer",
    "POST /api/deliveries/{id}/replay": "operator",
    "GET /api/callback-secret": "caller",
    "POST /api/endpoints/enable": "operator",
    "POST /settings/keys": "admin",
    "POST /settings/keys/{key_id}/revoke": "admin",
    "GET /api/keys": "admin",
    "POST /api/keys": "admin",
    "DELETE /api/keys/{id}": "admin",
    "GET /api/config": "admin",
    "GET /api/audit": "admin",
    "DELETE /api/end-users/{id:path}": "admin",
    "POST /api/reload": "admin",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory.mktemp("site"), require_key=True) as found:
        yield found


@pytest.fixture(scope="module")
def keys(site: Site) -> dict[str, str]:
    return {role: site.key(role).secret for role in ROLES if role != "anonymous"}


def served(site: Site) -> dict[str, set[str]]:
    """Path pattern → methods, as the assembled app has them."""
    found: dict[str, set[str]] = {}
    for route in site.routes:
        path, methods = shape_of(route)
        found.setdefault(path, set()).update(methods)
    return found


def concrete(path: str) -> str:
    return (
        path.replace("{id:path}", "{id}")
        .replace("{id}", "nobody")
        .replace("{name}", "none.css")
        .replace("{run_id}", "nobody")
        .replace("{call_id}", "nobody")
        .replace("{key_id}", "nobody")
    )


def test_the_routes_that_are_served_are_the_routes_that_were_thought_about(site: Site) -> None:
    routes = {f"{method} {path}" for path, methods in served(site).items() for method in methods}
    assert routes == set(EXPECTED)


def test_the_real_front_door_serves_the_same_routes_under_the_same_roles(tmp_path: Path) -> None:
    config = Config(
        server=Server(data_dir=str(tmp_path)), upstreams={"s": Upstream(kind="scripted")}
    )
    app = build(config, env={})
    try:
        door = FrontDoor(app, Settings(config, None, {}))
        routes = {
            f"{m} {path}"
            for r in door._routes(door._dashboard())
            for path, ms in [shape_of(r)]
            for m in ms
        }
        roles = {
            f"{m} {rule.path}": rule.role
            for rule in _table()
            for m in rule.methods
            if rule.path != "/v1/{path:path}"  # calls, served by the gateway beside the site
        }
    finally:
        app.store.close()
    assert routes == set(EXPECTED)
    assert roles == EXPECTED


def test_the_role_table_says_what_was_promised(site: Site) -> None:
    said = {f"{m} {rule.path}": rule.role for rule in site.table for m in rule.methods}
    # Calls are served beside the site, by the gateway, under this line of the table.
    calls = {route: role for route, role in said.items() if "/v1/{path:path}" in route}
    assert set(calls.values()) == {"caller"}
    assert {route: role for route, role in said.items() if route not in calls} == EXPECTED


@pytest.mark.parametrize("role", ROLES)
def test_each_route_and_method_lets_in_the_roles_that_it_names_and_no_other(
    site: Site, keys: dict[str, str], role: str
) -> None:
    ours = {"origin": f"http://127.0.0.1:{site.port}"}
    for path, methods in served(site).items():
        for method in METHODS:
            known = "GET" if method == "HEAD" else method
            least = EXPECTED.get(f"{known} {path}")
            form = {"content-type": "application/x-www-form-urlencoded", **ours}
            posted = {"headers": form, "body": b"csrf=none"} if method == "POST" else {}
            reply = site.request(method, concrete(path), key=keys.get(role), **posted)
            where = f"{role} {method} {path}: {reply.status} {reply.body[:200]!r}"
            if known not in methods:
                # Who may use no method of a path is not told which ones there are.
                assert reply.status in (401, 403, 303, 405), where
                if reply.status == 405:
                    allow = set((reply.header("allow") or "").split(", "))
                    assert allow - {"HEAD"} == methods, where
            elif least == "public" or RANKS[role] >= RANKS[least]:
                assert reply.status not in (401, 403, 421) or path == "/login", where
                assert reply.status < 500, where
                # A page that is refused leads to /login; nothing that is read leads anywhere.
                assert method not in ("GET", "HEAD") or reply.status != 303, where
            elif role == "anonymous":
                assert reply.status in (401, 303), where
                if reply.status == 303:
                    assert (reply.header("location") or "").startswith("/login"), where
            else:
                assert reply.status == 403, where


def test_a_path_that_stands_in_no_table_is_not_there_for_anybody(
    site: Site, keys: dict[str, str]
) -> None:
    for path in (
        "/admin",
        "/api",
        "/api/",
        "/api/keys/",
        "//api/keys",
        "/api//keys",
        "/API/keys",
        "/api/keys/..;/",
        "/static/../api/keys",
        "/static/..%2f..%2fsecret",
        "/runs/",
        "/v1",
        "/docs",
        "/.env",
    ):
        for key in (None, keys["admin"]):
            assert site.request("GET", path, key=key).status == 404, path


def test_an_encoded_path_is_the_same_route_with_the_same_role(
    site: Site, keys: dict[str, str]
) -> None:
    for path in ("/api/%6beys", "/api%2fkeys"):
        assert site.request("GET", path, key=keys["viewer"]).status == 403
        assert site.request("GET", path).status == 401


def test_a_route_without_a_role_stops_the_start(site: Site) -> None:
    async def page(_request: Request) -> Response:
        return Response("hello")

    access = Access(site.keyring, site.sessions)
    table = (RouteRole(path="/known", methods=("GET",), role="viewer"),)
    for route in (
        Route("/unknown", page, methods=["GET"]),
        Route("/known", page, methods=["GET", "POST"]),
        WebSocketRoute("/known", page),
    ):
        with pytest.raises(ValueError, match=r"role|judge"):
            access.guard([route], table)
    twice = (*table, RouteRole(path="/known", methods=("GET",), role="public"))
    with pytest.raises(ValueError, match="two roles"):
        access.guard([Route("/known", page, methods=["GET"])], twice)


def test_what_is_refused_says_how_to_get_in(site: Site, keys: dict[str, str]) -> None:
    nobody = site.request("GET", "/api/runs")
    assert nobody.header("content-type") == "application/problem+json"
    assert nobody.header("www-authenticate") == 'Bearer realm="tocsin"'
    assert nobody.json()["code"] == "invalid_api_key"
    low = site.request("GET", "/api/keys", key=keys["viewer"]).json()
    assert "admin" in low["detail"]
    page = site.request("GET", "/runs?feature=a&x=%26")
    assert page.header("location") == "/login?next=/runs%3Ffeature%3Da%26x%3D%2526"


def test_an_expired_or_revoked_key_opens_nothing(site: Site) -> None:
    made = site.key("admin")
    assert site.request("GET", "/api/stats", key=made.secret).status in (200, 500, 503)
    site.keyring.revoke(made.row.id, actor="test")
    assert site.request("GET", "/api/stats", key=made.secret).status == 401
    short = site.key("admin", expires_at=site.clock.now_us() + 30_000_000)
    site.clock.advance(31)
    assert site.request("GET", "/api/keys", key=short.secret).status == 401


def test_a_key_and_a_session_together_are_judged_by_the_key(
    site: Site, keys: dict[str, str]
) -> None:
    session = site.sign_in("admin")
    reply = site.request("GET", "/api/keys", key=keys["viewer"], session=session)
    assert reply.status == 403


def test_metrics_are_open_only_where_that_was_asked_for(tmp_path: Path, site: Site) -> None:
    assert site.request("GET", "/metrics").status == 401
    with running(tmp_path, open_metrics=True) as open_site:
        assert open_site.request("GET", "/metrics").status == 200
        assert open_site.request("GET", "/api/stats").status == 401


def test_every_answer_carries_the_security_headers(site: Site, keys: dict[str, str]) -> None:
    for path, key in (
        ("/healthz", None),
        ("/api/runs", None),
        ("/nowhere", None),
        ("/api/keys", keys["admin"]),
        ("/", keys["viewer"]),
        ("/login", None),
    ):
        reply = site.request("GET", path, key=key)
        assert reply.header("x-content-type-options") == "nosniff", path
        assert reply.header("x-frame-options") == "DENY", path
        policy = reply.header("content-security-policy") or ""
        assert "default-src 'none'" in policy or "default-src 'self'" in policy, path
        assert reply.header("access-control-allow-origin") is None, path
        names = [name.lower() for name, _ in reply.headers]
        assert len(names) == len(set(names)), path


# -- which host --


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "LOCALHOST:1",
        "[::1]:4600",
        "tocsin.example:8443",
        "plain.example",
        "plain.example:9",
    ],
)
def test_our_own_names_are_answered(site: Site, host: str) -> None:
    assert site.request("GET", "/healthz", host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil.example:4600",
        "tocsin.example",
        "tocsin.example:8444",
        "sub.plain.example",
        "localhost.",
        "user@localhost",
        "localhost/x",
        "localhost:4600:1",
        "localhost:x",
        "localhost:99999",
        "localhost:0",
        "0.0.0.0",
        "127.0.0.1, evil.example",
        "[::1",
        "::1",
        "2130706433",
        "10.0.0.1",
    ],
)
def test_any_other_host_is_misdirected(site: Site, host: str) -> None:
    reply = site.request("GET", "/healthz", host=host)
    assert reply.status == 421
    assert reply.json()["code"] == "misdirected_request"


def test_no_host_and_two_hosts_are_refused(site: Site) -> None:
    assert site.request("GET", "/healthz", host="").status in (400, 421)
    twice = site.request("GET", "/healthz", headers=[("host", "evil.example")])
    assert twice.status in (400, 421)
    same = site.request("GET", "/healthz", headers=[("host", "localhost")])
    assert same.status in (400, 421)
