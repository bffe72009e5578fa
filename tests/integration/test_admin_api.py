"""The admin API over real HTTP and a real store: exact money, honest nulls, named mistakes."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from adminkit import Reply, Site, entry, running
from tocsin.core.interaction import Entry, Interaction, Usage
from tocsin.core.messages import chain, parse_message
from tocsin.gateway.admin_models import usd

HOSTILE = "</script><img src=x onerror=alert(1)>\"'`\u2028\u202e\x00\x1b[31m\ufffe"
COUNT = 12


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory.mktemp("site")) as found:
        now = found.clock.now_us()
        found.store.append([entry(n, started_at=now - (COUNT - n) * 1000) for n in range(COUNT)])
        found.store.append(
            [
                entry(
                    100,
                    started_at=now,
                    outcome="error",
                    run_id="run_unpriced",
                    cost_nano_usd=None,
                    cost_source="unknown",
                    usage=Usage(),
                    attempts=(),
                    status=None,
                    feature="billing",
                )
            ]
        )
        yield found


@pytest.fixture(scope="module")
def admin(site: Site) -> str:
    return site.key("admin").secret


def get(site: Site, path: str, key: str) -> Any:
    reply = site.request("GET", path, key=key)
    assert reply.status == 200, reply.body
    assert reply.header("content-type") == "application/json"
    assert reply.header("cache-control") == "no-store"
    return reply.json()


def faults(reply: Reply) -> list[tuple[str, str]]:
    assert reply.header("content-type") == "application/problem+json"
    problem = reply.json()
    assert problem["status"] == reply.status
    assert problem["title"]
    return [(fault["where"], fault["name"]) for fault in problem["faults"]]


# -- records --


def test_pages_of_interactions_give_each_once_newest_first(site: Site, admin: str) -> None:
    seen: list[str] = []
    cursor = ""
    for _ in range(10):
        page = get(site, f"/api/interactions?limit=4{cursor}", admin)
        assert len(page["rows"]) <= 4
        seen += [row["id"] for row in page["rows"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert seen == ["call_000100", *(f"call_{n:06d}" for n in reversed(range(COUNT)))]


def test_filters_narrow_what_is_listed(site: Site, admin: str) -> None:
    rows = get(site, "/api/interactions?feature=billing", admin)["rows"]
    assert [row["id"] for row in rows] == ["call_000100"]
    assert get(site, "/api/interactions?outcome=refused", admin)["rows"] == []
    runs = get(site, "/api/runs?feature=support&sort=calls&descending=false", admin)["rows"]
    assert {run["id"] for run in runs} == {"run_0", "run_1", "run_2"}


def test_money_is_exact_twice_and_unknown_is_null(site: Site, admin: str) -> None:
    known = get(site, "/api/interactions/call_000003", admin)
    assert (known["cost_nano_usd"], known["cost_usd"]) == (4_200_000, "0.0042")
    assert known["attempts"][0]["cost_usd"] == "0.0042"
    unknown = get(site, "/api/interactions/call_000100", admin)
    for field in ("cost_nano_usd", "cost_usd", "status", "first_chunk_us", "end_user", "release"):
        assert field in unknown
        assert unknown[field] is None
    assert unknown["usage"]["input_tokens"] is None
    run = get(site, "/api/runs/run_unpriced", admin)
    assert (run["cost_nano_usd"], run["unpriced"]) == (0, 1)


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (None, None),
        (0, "0"),
        (1, "0.000000001"),
        (1_000_000_000, "1"),
        (120_500_000_000, "120.5"),
        (123_456_789_012_345_678, "123456789.012345678"),
    ],
)
def test_dollars_are_written_exactly(nano: int | None, text: str | None) -> None:
    assert usd(nano) == text


def test_content_is_given_only_when_asked_for(site: Site, admin: str) -> None:
    assert get(site, "/api/interactions/call_000003", admin)["content"] is None
    content = get(site, "/api/interactions/call_000003?content=true", admin)["content"]
    assert content["messages"] == [
        {"role": "user", "message": {"role": "user", "content": "hello 3"}}
    ]
    assert content["output"]["message"] == {"role": "assistant", "content": "hello"}
    assert content["params"] == {"model": "gpt-4o-mini", "temperature": 0}
    assert content["request_body"] is None


def test_steps_come_in_order_and_in_pages(site: Site, admin: str) -> None:
    first = get(site, "/api/runs/run_1/steps?limit=3", admin)
    rest = get(site, f"/api/runs/run_1/steps?limit=3&offset={first['next_offset']}", admin)
    ids = [row["id"] for row in first["rows"] + rest["rows"]]
    assert ids == ["call_000001", "call_000004", "call_000007", "call_000010"]
    assert rest["next_offset"] is None


@pytest.mark.parametrize(
    "path", ["/api/interactions/none", "/api/runs/none", "/api/runs/none/steps"]
)
def test_what_is_not_there_is_a_404_problem(site: Site, admin: str, path: str) -> None:
    reply = site.request("GET", path, key=admin)
    assert reply.status == 404
    assert reply.json()["code"] == "not_found"
    assert "none" in reply.json()["detail"]


# -- hostile content --


def hostile_entries(started_at: int) -> list[Entry]:
    raws = [
        json.dumps({"role": "user", "content": HOSTILE}).encode(),
        b'{"role":"user","content":' + b"[" * 400 + b"]" * 400 + b"}",
        b'{"role":"user","content":"x","n":' + b"9" * 5000 + b"}",
        b'{"role":"user","__proto__":{"polluted":true},"content":"\\u0000"}',
    ]
    made = []
    for number, raw in enumerate(raws):
        message = parse_message(raw)
        base = entry(900 + number, started_at=started_at, feature="hostile")
        node = chain((message,))
        changes = {"input_node": node[0].hash, "output_node": None, "error_message": HOSTILE}
        fields = {f: getattr(base.interaction, f) for f in base.interaction.__struct_fields__}
        made.append(
            Entry(interaction=Interaction(**{**fields, **changes}), input=(message,), nodes=node)
        )
    return made


def test_hostile_trace_text_comes_back_as_data(site: Site, admin: str) -> None:
    entries = hostile_entries(site.clock.now_us())
    site.store.append(entries)
    for made in entries:
        path = f"/api/interactions/{made.interaction.id}?content=true"
        reply = site.request("GET", path, key=admin)
        assert reply.status == 200
        assert reply.header("content-type") == "application/json"
        assert reply.header("x-content-type-options") == "nosniff"
        # Verbatim: a number of 5,000 digits stays one, and Python must be told to read it.
        whole = json.loads(reply.body, parse_int=lambda digits: int(digits[:4000]))
        (message,) = whole["content"]["messages"]
        sent = made.input[0].raw
        if len(sent) < 1000:
            assert message["message"] == json.loads(sent)
        assert whole["error_message"] == made.interaction.error_message
    listed = get(site, "/api/interactions?feature=hostile", admin)["rows"]
    assert {row["id"] for row in listed} == {made.interaction.id for made in entries}


# -- named mistakes --


@pytest.mark.parametrize(
    ("path", "where", "name"),
    [
        ("/api/interactions?limit=0", "query", "limit"),
        ("/api/interactions?limit=501", "query", "limit"),
        ("/api/interactions?limit=1_0", "query", "limit"),
        ("/api/interactions?limit=abc", "query", "limit"),
        ("/api/interactions?limit=", "query", "limit"),
        ("/api/interactions?since=-1", "query", "since"),
        ("/api/interactions?since=99999999999999999999", "query", "since"),
        ("/api/interactions?outcome=nice", "query", "outcome"),
        ("/api/interactions?feature=%00", "query", "feature"),
        ("/api/interactions?nonsense=1", "query", "nonsense"),
        ("/api/interactions?limit=1&limit=2", "query", "limit"),
        ("/api/interactions/call_000003?content=1", "query", "content"),
        ("/api/interactions/call_000003?id=x", "query", "id"),
        ("/api/runs?sort=beauty", "query", "sort"),
        ("/api/runs/run_1/steps?offset=-1", "query", "offset"),
        ("/api/interactions/a%00b", "path", "id"),
    ],
)
def test_a_wrong_parameter_is_named(
    site: Site, admin: str, path: str, where: str, name: str
) -> None:
    reply = site.request("GET", path, key=admin)
    assert reply.status == 422
    assert faults(reply) == [(where, name)]


def test_a_cursor_of_nobody_leads_nowhere(site: Site, admin: str) -> None:
    reply = site.request("GET", "/api/interactions?cursor=x", key=admin)
    assert reply.status == 404
    assert reply.json()["code"] == "unknown_cursor"


def test_a_thousand_parameters_are_refused_before_they_are_read(site: Site, admin: str) -> None:
    query = "&".join(f"a{n}=1" for n in range(1000))
    reply = site.request("GET", f"/api/interactions?{query}", key=admin)
    assert reply.status == 400


# -- keys --


def post(site: Site, admin: str, body: bytes, kind: str = "application/json") -> Reply:
    return site.request("POST", "/api/keys", key=admin, headers={"content-type": kind}, body=body)


def test_a_key_is_issued_listed_and_revoked(site: Site, admin: str) -> None:
    reply = site.request(
        "POST",
        "/api/keys",
        key=admin,
        json_body={"name": "ci", "role": "viewer", "features": ["a"], "expires_in_s": 60},
    )
    assert reply.status == 201
    made = reply.json()
    assert site.request("GET", "/api/interactions", key=made["secret"]).status == 200
    listed = get(site, "/api/keys", admin)["rows"]
    (row,) = [row for row in listed if row["id"] == made["id"]]
    assert "secret" not in row
    assert "digest" not in row
    assert (row["hint"], row["features"]) == (made["secret"][-4:], ["a"])
    assert row["expires_at"] - row["created_at"] == pytest.approx(60_000_000, abs=5_000_000)
    path = f"/api/keys/{made['id']}"
    assert site.request("DELETE", path, key=admin).json() == {"id": made["id"], "revoked": True}
    assert site.request("DELETE", path, key=admin).json()["revoked"] is False
    assert site.request("GET", "/api/interactions", key=made["secret"]).status == 401
    assert site.request("DELETE", "/api/keys/none", key=admin).status == 404


def test_the_key_in_hand_is_not_ended_by_mistake(site: Site) -> None:
    made = site.key("admin")
    reply = site.request("DELETE", f"/api/keys/{made.row.id}", key=made.secret)
    assert (reply.status, reply.json()["code"]) == (409, "own_key")
    assert site.request("GET", "/api/keys", key=made.secret).status == 200


def test_no_answer_ever_shows_a_secret_again(site: Site, admin: str) -> None:
    for path in ("/api/keys", "/api/audit", "/api/config", "/api/stats"):
        body = site.request("GET", path, key=admin).body
        assert admin.encode() not in body


@pytest.mark.parametrize(
    ("body", "status", "fault"),
    [
        ({}, 422, ("body", "name")),
        ({"name": ""}, 422, ("body", "name")),
        ({"name": 7}, 422, ("body", "name")),
        ({"name": "x", "role": "root"}, 422, ("body", "role")),
        ({"name": "x", "role": "anonymous"}, 422, ("body", "role")),
        ({"name": "x", "features": ["a b"]}, 422, ("body", "features.0")),
        ({"name": "x", "expires_in_s": 0}, 422, ("body", "expires_in_s")),
        ({"name": "x", "expires_in_s": "60"}, 422, ("body", "expires_in_s")),
        ({"name": "x", "admin": True}, 422, ("body", "admin")),
        ([], 422, ("body", "body")),
    ],
)
def test_a_wrong_field_of_a_new_key_is_named(
    site: Site, admin: str, body: Any, status: int, fault: tuple[str, str]
) -> None:
    reply = site.request("POST", "/api/keys", key=admin, json_body=body)
    assert reply.status == status
    assert faults(reply) == [fault]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"", "application/json", 400),
        (b'{"name": NaN}', "application/json", 400),
        (b'{"name": "\\ud800"}', "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"[" * 60_000, "application/json", 400),
        (b'{"name":' * 7_000, "application/json", 400),
        (b'{"name": "' + b"a" * 70_000 + b'"}', "application/json", 413),
        (b"name=x", "application/x-www-form-urlencoded", 415),
        (b'{"name": "x"}', "text/plain", 415),
    ],
)
def test_a_body_that_is_no_small_plain_json_is_refused(
    site: Site, admin: str, body: bytes, kind: str, status: int
) -> None:
    reply = post(site, admin, body, kind)
    assert reply.status == status
    assert reply.header("content-type") == "application/problem+json"


# -- settings and care --


def test_settings_are_shown_and_reloaded(site: Site, admin: str) -> None:
    assert get(site, "/api/upstreams", admin)["rows"][0]["name"] == "openai"
    assert get(site, "/api/config", admin) == {"config": {"server": {"host": "127.0.0.1"}}}
    done = site.request("POST", "/api/reload", key=admin)
    assert done.json() == {"changed": ["prices"], "needs_restart": ["server"]}
    site.broken_config = True
    try:
        failed = site.request("POST", "/api/reload", key=admin)
    finally:
        site.broken_config = False
    assert failed.status == 422
    assert "line 3" in failed.json()["detail"]


def test_who_changed_what_is_audited(site: Site, admin: str) -> None:
    site.request("POST", "/api/reload", key=admin)
    made = site.request("POST", "/api/keys", key=admin, json_body={"name": "audited"}).json()
    rows = get(site, "/api/audit?limit=5", admin)["rows"]
    mine = [row for row in rows if row["target"] == made["id"]]
    assert mine[0]["action"] == "key.issue"
    assert mine[0]["actor"].startswith("a admin (key_")
    assert "config.reload" in {row["action"] for row in rows}
