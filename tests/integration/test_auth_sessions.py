"""Signing in: links that work once, cookies that cannot be made up, forms that cannot be forged."""

import base64
import json
import re
from collections.abc import Iterator
from html import unescape

import pytest

from adminkit import SECRET, Reply, Site, running
from tocsin.gateway.sessions import LoginCodes, Sessions
from tocsin.gateway.signin import safe_target


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory.mktemp("site")) as found:
        yield found


def cookie_of(reply: Reply) -> str:
    line = reply.header("set-cookie") or ""
    return line.partition(";")[0].partition("=")[2]


def same_origin(site: Site, **more: str) -> dict[str, str]:
    return {"origin": f"http://127.0.0.1:{site.port}", "sec-fetch-site": "same-origin", **more}


FORM = {"content-type": "application/x-www-form-urlencoded"}


def names_of(site: Site) -> list[str]:
    rows = site.keyring.keys()
    return [row.name for row in rows]


# -- the link --


def test_the_link_signs_in_once(site: Site) -> None:
    made = site.key("admin")
    code = site.codes.issue(made.row.id)
    first = site.request("GET", f"/login?code={code}")
    assert first.status == 200
    assert site.request("GET", "/settings", session=cookie_of(first)).status == 200
    again = site.request("GET", f"/login?code={code}")
    assert again.status == 401
    assert again.header("set-cookie") is None


def test_the_cookie_is_for_this_server_and_no_script(site: Site) -> None:
    code = site.codes.issue(site.key("admin").row.id)
    line = site.request("GET", f"/login?code={code}").header("set-cookie") or ""
    parts = {part.strip().lower() for part in line.split(";")[1:]}
    assert parts == {"max-age=43200", "path=/", "httponly", "samesite=strict"}
    behind_tls = site.codes.issue(site.key("admin").row.id)
    https = {"x-forwarded-proto": "https"}
    line = site.request("GET", f"/login?code={behind_tls}", headers=https).header("set-cookie")
    assert (line or "").endswith("; Secure")


def test_a_link_is_too_old_after_ten_minutes(site: Site) -> None:
    key_id = site.key("admin").row.id
    code = site.codes.issue(key_id)
    site.clock.advance(601)
    assert site.request("GET", f"/login?code={code}").status == 401
    fresh = site.codes.issue(key_id)  # which also sweeps the old ones away
    assert len(list((site.data_dir / "login").iterdir())) == 1
    assert site.request("GET", f"/login?code={fresh}").status == 200


def test_a_link_preview_does_not_use_the_link_up(site: Site) -> None:
    code = site.codes.issue(site.key("admin").row.id)
    assert site.request("HEAD", f"/login?code={code}").status == 204
    assert site.request("GET", f"/login?code={code}").status == 200


def test_a_link_of_a_key_that_has_ended_does_not_work(site: Site) -> None:
    made = site.key("admin")
    code = site.codes.issue(made.row.id)
    site.keyring.revoke(made.row.id, actor="test")
    assert site.request("GET", f"/login?code={code}").status == 401


def test_a_link_works_across_processes_and_only_its_hash_is_written_down(site: Site) -> None:
    code = LoginCodes(site.data_dir, site.clock).issue("key_x")
    written = [path.name + path.read_text() for path in (site.data_dir / "login").iterdir()]
    assert not any(code in text for text in written)
    assert all(path.stat().st_mode & 0o077 == 0 for path in (site.data_dir / "login").iterdir())
    assert site.codes.redeem(code) == "key_x"
    assert LoginCodes(site.data_dir, site.clock).redeem(code) is None


@pytest.mark.parametrize("code", ["", "x", "../secret", "%2e%2e%2fsecret", "a" * 5000, "%00", "é"])
def test_a_made_up_code_signs_nobody_in(site: Site, code: str) -> None:
    reply = site.request("GET", f"/login?code={code.replace('é', '%C3%A9')}")
    assert reply.status == 401
    assert reply.header("set-cookie") is None


# -- the pasted key --


@pytest.mark.parametrize(("role", "status"), [("caller", 403), ("viewer", 303), ("admin", 303)])
def test_a_pasted_key_signs_in_those_who_may_look(site: Site, role: str, status: int) -> None:
    made = site.key(role)
    reply = site.request(
        "POST",
        "/login",
        headers={**FORM, **same_origin(site)},
        body=f"key={made.secret}&next=%2Fsettings%3Fa%3D1".encode(),
    )
    assert reply.status == status
    if status == 303:
        assert reply.header("location") == "/settings?a=1"
        assert site.request("GET", "/settings", session=cookie_of(reply)).status == 200
    else:
        assert reply.header("set-cookie") is None
    assert made.secret.encode() not in reply.body


def test_a_wrong_key_gets_the_form_again_and_no_session(site: Site) -> None:
    for key in ("tk-" + "a" * 40, "", "sk-other", "%FF%00"):
        reply = site.request(
            "POST", "/login", headers={**FORM, **same_origin(site)}, body=f"key={key}".encode()
        )
        assert reply.status == 401
        assert reply.header("set-cookie") is None


def test_another_site_cannot_sign_a_browser_in(site: Site) -> None:
    body = f"key={site.key('admin').secret}".encode()
    for headers in (
        {},
        {"origin": "https://evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": f"http://127.0.0.1:{site.port}"},
    ):
        assert site.request("POST", "/login", headers={**FORM, **headers}, body=body).status == 403


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "/a\\b",
        "javascript:alert(1)",
        "/\r\nset-cookie: a=b",
        "/ü",
        "",
        "\\/evil.example",
        "/\t/evil.example",
    ],
)
def test_signing_in_leads_nowhere_else(target: str) -> None:
    assert safe_target(target) == "/"
    assert safe_target("/runs?feature=a%20b&c=d#e") == "/runs?feature=a%20b&c=d#e"


def test_where_the_link_leads_is_escaped(site: Site) -> None:
    code = site.codes.issue(site.key("admin").row.id)
    page = site.request("GET", f"/login?code={code}&next=/%22%3E%3Cscript%3Ealert(1)%3C/script%3E")
    assert b"<script" not in page.body
    assert re.search(r'href="([^"]*)"', page.body.decode()) is not None


# -- the cookie --


def test_a_session_ends_with_its_time(site: Site) -> None:
    session = site.sign_in("viewer")
    assert site.request("GET", "/settings", session=session).status == 200
    site.clock.advance(12 * 3600 + 1)
    assert site.request("GET", "/settings", session=session).status == 303


def test_a_session_ends_with_its_key(site: Site) -> None:
    made = site.key("admin")
    session = site.sessions.start(made.row.id)
    assert site.request("GET", "/settings", session=session).status == 200
    site.keyring.revoke(made.row.id, actor="test")
    assert site.request("GET", "/settings", session=session).status == 303


def test_signing_out_ends_the_session_also_for_a_copy_of_the_cookie(site: Site) -> None:
    session = site.sign_in("viewer")
    token = csrf_of(site, session)
    reply = site.request(
        "POST",
        "/logout",
        session=session,
        headers={**FORM, **same_origin(site)},
        body=f"csrf={token}".encode(),
    )
    assert (reply.status, reply.header("location")) == (303, "/login")
    assert "Max-Age=0" in (reply.header("set-cookie") or "")
    assert site.request("GET", "/settings", session=session).status == 303


def test_no_changed_cookie_is_a_session(site: Site) -> None:
    session = site.sign_in("viewer")
    payload, mac = session.split(".")
    claim = json.loads(base64.urlsafe_b64decode(payload + "=="))
    claim[2] = site.key("admin").row.id
    forged = base64.urlsafe_b64encode(json.dumps(claim).encode()).decode().rstrip("=")
    tampered = [
        f"{forged}.{mac}",
        f"{payload}.{mac[:-1]}",
        f"{payload}.{mac}=",
        f"{payload}.",
        payload,
        f".{mac}",
        f"{payload}.{mac}.{mac}",
        "",
        ".",
        "a" * 4000,
        "\xff.\xff",
    ]
    # Every bit of the last characters too: base64 has several spellings of one value.
    tampered += [f"{payload}.{mac[:-1]}{c}" for c in "ABCDEFGHabcdefgh0123-_" if c != mac[-1]]
    tampered += [f"{payload[:-1]}{c}.{mac}" for c in "ABCDwxyz0189-_" if c != payload[-1]]
    for cookie in tampered:
        assert site.request("GET", "/settings", session=cookie).status == 303, cookie
    assert site.request("GET", "/settings", session=session).status == 200


def test_a_session_of_another_server_is_none_here(site: Site) -> None:
    key_id = site.key("admin").row.id
    other = Sessions(site.keyring, b"another secret, just as long....", site.clock)
    assert other.cookie_name != site.sessions.cookie_name
    assert site.request("GET", "/settings", session=other.start(key_id)).status == 303
    same = Sessions(site.keyring, SECRET, site.clock)
    assert site.request("GET", "/settings", session=same.start(key_id)).status == 200


def test_a_caller_key_makes_no_session(site: Site) -> None:
    session = site.sessions.start(site.key("caller").row.id)
    assert site.request("GET", "/settings", session=session).status == 303


def test_a_session_is_no_credential_for_model_calls_or_traces(site: Site) -> None:
    site.keyring.require_key = True
    try:
        reply = site.request(
            "POST", "/v1/traces", session=site.sign_in("admin"), headers=same_origin(site)
        )
        assert reply.status == 401
    finally:
        site.keyring.require_key = False


# -- forged requests --


def csrf_of(site: Site, session: str) -> str:
    page = site.request("GET", "/settings", session=session).body.decode()
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found is not None
    return unescape(found[1])


def issue(site: Site, session: str, headers: dict[str, str], csrf: str | None) -> int:
    token = {} if csrf is None else {"x-csrf-token": csrf}
    return site.request(
        "POST",
        "/api/keys",
        session=session,
        headers={**headers, **token},
        json_body={"name": "forged"},
    ).status


def test_a_changing_request_of_a_session_needs_our_own_page_and_its_token(site: Site) -> None:
    session, other = site.sign_in(), site.sign_in()
    token = csrf_of(site, session)
    ours = same_origin(site)
    assert issue(site, session, ours, token) == 201
    assert issue(site, session, {"origin": ours["origin"]}, token) == 201
    before = len(names_of(site))
    assert issue(site, session, ours, None) == 403
    assert issue(site, session, ours, "") == 403
    assert issue(site, session, ours, csrf_of(site, other)) == 403
    assert issue(site, session, {}, token) == 403
    assert issue(site, session, {"origin": "https://evil.example"}, token) == 403
    assert issue(site, session, {"origin": "null"}, token) == 403
    assert issue(site, session, {"origin": "http://127.0.0.1:1"}, token) == 403
    assert issue(site, session, {"sec-fetch-site": "same-site"}, token) == 403
    assert len(names_of(site)) == before


def test_a_key_needs_no_token_because_no_other_site_can_send_it(site: Site) -> None:
    reply = site.request(
        "POST", "/api/keys", key=site.key("admin").secret, json_body={"name": "plain"}
    )
    assert reply.status == 201


def test_a_form_carries_the_token_in_a_field_and_arrives_whole(site: Site) -> None:
    session = site.sign_in()
    headers = {**FORM, **same_origin(site)}
    body = f"name=from+the+page&role=caller&csrf={csrf_of(site, session)}".encode()
    reply = site.request("POST", "/settings/keys", session=session, headers=headers, body=body)
    assert reply.status in (200, 201, 303)
    assert "from the page" in names_of(site)
    forged = site.request(
        "POST", "/settings/keys", session=session, headers=headers, body=b"name=evil&role=admin"
    )
    assert forged.status == 403
    assert "evil" not in names_of(site)


def test_a_form_that_is_too_large_is_refused(site: Site) -> None:
    session = site.sign_in()
    body = b"a=" + b"b" * 70_000
    reply = site.request(
        "POST", "/settings/keys", session=session, headers={**FORM, **same_origin(site)}, body=body
    )
    assert reply.status == 413


def test_the_token_is_compared_in_constant_time_and_belongs_to_one_session(site: Site) -> None:
    session = site.sign_in()
    token = csrf_of(site, session)
    for wrong in (token[:-1], token + "a", token.swapcase(), "é" * 20):
        reply = site.request(
            "POST",
            "/api/reload",
            session=session,
            headers={**same_origin(site), "x-csrf-token": wrong.encode().decode("latin-1")},
        )
        assert reply.status == 403
