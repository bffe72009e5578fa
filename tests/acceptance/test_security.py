"""The security floor, on the real process: who gets in, what gets out, what it survives."""

import asyncio
import gzip
import http.client
import json
import re
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.process import Tocsin
from tocsin.gateway.auth import Keyring, load_secret
from tocsin.store import Filter, Store
from tocsin.store.operations_api import OperationFilter

# No known shape: only a redactor that was told the value can find it.
UPSTREAM_KEY = "zq9.upstream.canary.7731"
PROVIDER_KEY = "sk-proj-CanaryOfTheCallersOwn0123456789"
UNKNOWN_KEY = "tk-" + "CanaryOfNobody" * 2 + "0123456789AB"
HOSTILE = "</script><img src=x onerror=alert(document.domain)>"

CONFIG = """
[auth]
require_key = true

[upstreams.main]
base_url = "http://127.0.0.1:{port}/v1"
api_key_env = "CANARY_UPSTREAM_KEY"
models = ["mine"]
retries = 0

[upstreams.theirs]
base_url = "http://127.0.0.1:{port}/v1"
models = ["*"]
retries = 0
"""


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def request(
    tocsin: Tocsin,
    method: str,
    path: str,
    *,
    key: str | None = None,
    headers: Mapping[str, str] = {},
    body: bytes | None = None,
    host: str | None = None,
) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", tocsin.port, timeout=30)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        connection.putheader("host", host or f"127.0.0.1:{tocsin.port}")
        if key is not None:
            connection.putheader("authorization", f"Bearer {key}")
        for name, value in headers.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("content-length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        named = {name.lower(): value for name, value in answer.getheaders()}
        return Reply(answer.status, named, answer.read())
    finally:
        connection.close()


def chat(model: str = "mine", text: str = "hello", **more: Any) -> bytes:
    messages = [{"role": "user", "content": text}]
    return json.dumps({"model": model, "messages": messages, **more}).encode()


JSON = {"content-type": "application/json"}


class Echo:
    """A provider that says too much: its errors repeat the credential and the URL that came."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.port = 0
        self._clients: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Echo":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = re.search(r"content-length: (\d+)", head, re.I)
                body = await reader.readexactly(int(length[1]) if length else 0)
                self.heads.append(head)
                await self._answer(head, body, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client left, or the test is over
        finally:
            self._clients.discard(task)
            writer.close()

    async def _answer(self, head: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        sent = re.search(r"authorization: (?:bearer )?(\S+)", head, re.I)
        credential = sent[1] if sent else "nothing"
        if b"complain" in body:
            message = f"Incorrect API key provided: {credential} for {head.split()[1]}"
            status = 400 if b"for good" in body else 401
            answer: dict[str, Any] = {"error": {"message": message, "type": "invalid_api_key"}}
        else:
            choice = {"role": "assistant", "content": HOSTILE}
            status, answer = 200, {
                "id": "r1",
                "object": "chat.completion",
                "model": "mine",
                "choices": [{"index": 0, "message": choice, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
            }  # fmt: skip
        data = json.dumps(answer).encode()
        writer.write(
            b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
            % (status, len(data), data)
        )
        await writer.drain()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    async with Echo() as found:
        yield found


@pytest.fixture
async def tocsin(tmp_path: Path, echo: Echo) -> AsyncIterator[Tocsin]:
    env = {"CANARY_UPSTREAM_KEY": UPSTREAM_KEY}
    with Tocsin(tmp_path, CONFIG.format(port=echo.port), env=env) as found:
        await found.ready()
        await asyncio.to_thread(announced, found)
        yield found


def announced(tocsin: Tocsin) -> None:
    """Wait until the first start has printed the admin's key."""
    deadline = time.monotonic() + 10
    while "tk-" not in tocsin.log.read_text():
        assert time.monotonic() < deadline, tocsin.log.read_text()
        time.sleep(0.02)


async def ask(tocsin: Tocsin, method: str, path: str, **more: Any) -> Reply:
    """A request from a thread, while the provider answers on this loop."""
    return await asyncio.to_thread(request, tocsin, method, path, **more)


async def issue(tocsin: Tocsin, role: str, **more: Any) -> str:
    body = json.dumps({"name": role, "role": role, **more}).encode()
    reply = await ask(tocsin, "POST", "/api/keys", key=tocsin.admin_key(), headers=JSON, body=body)
    assert reply.status == 201, reply.body
    secret: str = reply.json()["secret"]
    return secret


# -- secrets stay in --


async def use_every_way(tocsin: Tocsin, key: str) -> list[Reply]:
    """Calls, good and bad, with each secret in each place that a user could put it."""
    path = "/v1/chat/completions"
    complain = chat(text="complain")
    tries: list[tuple[str, str, dict[str, str], bytes | None]] = [
        ("POST", path, {"authorization": f"Bearer {key}"}, chat()),
        ("POST", path, {"authorization": f"Bearer {key}"}, complain),
        ("POST", path, {"x-api-key": key}, complain),
        ("POST", f"{path}?api_key={key}", {"authorization": f"Bearer {key}"}, complain),
        ("POST", path, {"authorization": f"Bearer {PROVIDER_KEY}", "tocsin-key": key},
         chat("other", "complain")),
        ("POST", path, {"authorization": f"Bearer {UNKNOWN_KEY}"}, chat()),
        ("POST", path, {"authorization": UNKNOWN_KEY, "x-api-key": PROVIDER_KEY}, chat()),
        ("POST", path, {"authorization": f"Bearer {key}"}, b"{not json " + key.encode()),
        ("GET", f"/v1/files/{UNKNOWN_KEY}", {"authorization": f"Bearer {PROVIDER_KEY}"}, None),
        ("GET", f"/api/runs?api_key={key}", {"authorization": f"Bearer {key}"}, None),
        ("GET", f"/login?code={UNKNOWN_KEY}", {}, None),
        ("POST", "/login", {"sec-fetch-site": "same-origin"}, f"key={UNKNOWN_KEY}".encode()),
        ("POST", "/v1/traces", {"authorization": f"Bearer {UNKNOWN_KEY}", **JSON}, b"{}"),
        ("GET", f"http://u:{UNKNOWN_KEY}@127.0.0.1/x", {}, None),
    ]  # fmt: skip
    tries += durable_work(key)
    return [await ask(tocsin, m, p, headers=h, body=b) for m, p, h, b in tries]


def durable_work(key: str) -> list[tuple[str, str, dict[str, str], bytes | None]]:
    """The same in work that is kept: its input, its events, its result, its steps, its repeats."""
    ours = {"authorization": f"Bearer {key}", **JSON}
    theirs = {"authorization": f"Bearer {PROVIDER_KEY}", "tocsin-key": key, **JSON}
    repeated = {**theirs, "idempotency-key": "once"}
    made: list[tuple[str, str, dict[str, str], bytes | None]] = []
    for model, headers in (("mine", ours), ("other", theirs), ("other", repeated)):
        for more in ({}, {"stream": True}, {"background": True}):
            body = json.dumps({"model": model, "input": "complain", **more}).encode()
            made.append(("POST", "/v1/responses", headers, body))
    batch = {"requests": [{"model": "other", "input": "complain"}]}
    body = json.dumps({"kind": "batch", "input": batch}).encode()
    effect = json.dumps({"scope": "s", "name": "charge"}).encode()
    return [
        *made,
        (
            "POST",
            "/v1/chat/completions",
            {**theirs, "idempotency-key": "1"},
            chat("o", "complain for good"),
        ),
        (
            "POST",
            "/v1/chat/completions",
            {**theirs, "idempotency-key": "1"},
            chat("o", "complain for good"),
        ),
        ("POST", "/api/operations", theirs, body),
        ("POST", "/api/effects", theirs, effect),
    ]


def stored_texts(store: Store) -> Iterator[tuple[str, bytes]]:
    """Everything the store knows, in plain: the files hold it compressed."""
    page = store.interactions(Filter(), limit=500)
    for interaction in page.rows:
        yield interaction.id, repr(interaction).encode()
        entry = store.entry(interaction.id)
        assert entry is not None
        for message in entry.input:
            yield interaction.id, message.raw
        if entry.output is not None:
            yield interaction.id, entry.output.raw
        for blob in entry.blobs:
            yield interaction.id, blob.data
    book = store.operations
    rows = book.operations(OperationFilter(), limit=500).rows
    assert len(rows) >= 8
    for row in rows:
        yield row.id, repr((row, book.events(row.id), book.steps(row.id))).encode()
        yield row.id, (book.body(row.id) or b"") + (book.result(row.id) or b"")
    yield "deliveries", repr(book.deliveries()).encode()
    yield "keys", repr(store.keys()).encode()
    yield "audit", repr(store.audit()).encode()


PAGES = (
    *("/", "/runs", "/calls", "/spend", "/settings", "/metrics", "/operations"),
    *("/api/operations", "/api/effects", "/api/deliveries"),
    *("/api/interactions", "/api/runs", "/api/keys", "/api/config", "/api/audit"),
    *("/api/upstreams", "/api/stats", "/api/overview", "/api/spend", "/api/facets"),
)


async def shown(tocsin: Tocsin) -> list[tuple[str, bytes]]:
    """Every page and every answer of the API, those about each call included."""
    admin = tocsin.admin_key()
    found = [(p, (await ask(tocsin, "GET", p, key=admin)).body) for p in PAGES]
    rows = (await ask(tocsin, "GET", "/api/interactions", key=admin)).json()["rows"]
    for row in rows:
        for path in (
            f"/api/interactions/{row['id']}?content=true",
            f"/calls/{row['id']}",
            f"/runs/{row['run_id']}",
        ):
            found.append((path, (await ask(tocsin, "GET", path, key=admin)).body))
    rows = (await ask(tocsin, "GET", "/api/operations", key=admin)).json()["rows"]
    for row in rows:
        path = f"/api/operations/{row['id']}"
        for place in (path, f"{path}/events", f"{path}/result", f"/operations/{row['id']}"):
            found.append((place, (await ask(tocsin, "GET", place, key=admin)).body))
    return found


async def test_no_secret_gets_into_log_database_journal_pages_or_exports(
    tocsin: Tocsin, echo: Echo
) -> None:
    key = await issue(tocsin, "caller")
    replies = await use_every_way(tocsin, key)
    assert [reply.status for reply in replies[:2]] == [200, 401]
    first, again, begun, effect = replies[-4:]
    assert (first.status, again.status, begun.status, effect.status) == (400, 400, 202, 200)
    assert again.headers["idempotency-replayed"] == "true"
    # Whose own key it is sees it once; what is kept for a repeat is without it.
    assert PROVIDER_KEY.encode() in first.body
    assert b"[redacted]" in again.body
    assert any(UPSTREAM_KEY in head for head in echo.heads)  # the provider did get it
    await asyncio.sleep(0.5)  # the writer folds what was journaled
    canaries = {
        "the caller's Tocsin key": key,
        "an unknown key": UNKNOWN_KEY,
        "the upstream's key": UPSTREAM_KEY,
        "the provider's own key": PROVIDER_KEY,
    }
    admin = tocsin.admin_key()
    pages = await shown(tocsin)
    journal = [(str(p), p.read_bytes()) for p in tocsin.data.rglob("*") if p.is_file()]
    secret = load_secret(tocsin.data, {})
    tocsin.stop()
    places = [*pages, *journal, ("log", tocsin.log.read_bytes())]
    places += [(str(p), p.read_bytes()) for p in tocsin.data.rglob("*") if p.is_file()]
    store = tocsin.store()
    try:
        places += list(stored_texts(store))
    finally:
        store.close()
    places.append(("export", export(tocsin)))
    leaks = [
        f"{what} in {place}"
        for place, data in places
        for what, canary in {**canaries, "the server secret": secret.hex()}.items()
        if canary.encode() in data
        # What a caller writes into a body is content, and kept as content.
        and not (what == "the caller's Tocsin key" and b"{not json " in data)
    ]
    leaks += [f"the admin key in {place}" for place, data in places
              if place != "log" and admin.encode() in data]  # fmt: skip
    leaks += [f"the server secret in {place}" for place, data in places
              if secret in data and not place.endswith("/secret")]  # fmt: skip
    assert sorted(set(leaks)) == []


def export(tocsin: Tocsin) -> bytes:
    """What ``tocsin export`` writes."""
    path = tocsin.folder / "all.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", "tocsin", "export", str(path), "--config", str(tocsin.config)],
        capture_output=True,
        env={"CANARY_UPSTREAM_KEY": UPSTREAM_KEY, "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    return path.read_bytes() + done.stdout + done.stderr


async def test_a_key_of_ours_never_reaches_a_provider(tocsin: Tocsin, echo: Echo) -> None:
    key = await issue(tocsin, "caller")
    await use_every_way(tocsin, key)
    assert echo.heads
    for head in echo.heads:
        lines = [line for line in head.lower().split("\r\n")[1:] if "tk-" in line]
        assert lines == [], lines
        assert "\ntocsin-key" not in head.lower()
        assert "\ncookie" not in head.lower()
    # With the key in a header of its own, the caller's credential goes on to the provider.
    assert any(PROVIDER_KEY in head for head in echo.heads)


async def test_a_known_key_ends_in_the_running_process_when_another_revokes_it(
    tocsin: Tocsin,
) -> None:
    key = await issue(tocsin, "caller")
    path = "/v1/chat/completions"
    assert (await ask(tocsin, "POST", path, key=key, headers=JSON, body=chat())).status == 200
    store = tocsin.store()
    try:
        elsewhere = Keyring(store, load_secret(tocsin.data, {}))
        rows = elsewhere.keys()
        (mine,) = [row for row in rows if row.role == "caller"]
        elsewhere.revoke(mine.id, actor="test")
    finally:
        store.close()
    await asyncio.sleep(2.05)
    assert (await ask(tocsin, "POST", path, key=key, headers=JSON, body=chat())).status == 401


# -- who gets in --


async def test_under_v1_there_is_no_way_round_the_key(tocsin: Tocsin, echo: Echo) -> None:
    for method, path in (
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/models"),
        ("POST", "/v1/messages"),
        ("POST", "/v1/anything/at/all"),
        ("DELETE", "/v1/files/f1"),
        ("PUT", "/v1/x"),
        ("POST", "/v1/traces"),
        ("POST", "/v1/%63hat/completions"),
        ("POST", "//v1/chat/completions"),
        ("POST", "/v1//chat/completions"),
        ("POST", "/V1/chat/completions"),
    ):
        for headers in ({}, {"authorization": f"Bearer {PROVIDER_KEY}"}, {"x-api-key": "x"}):
            reply = await ask(tocsin, method, path, headers={**JSON, **headers}, body=chat())
            assert reply.status in (401, 404), (method, path, reply.status)
    assert echo.heads == []


async def test_a_path_that_climbs_reaches_neither_the_api_nor_another_place_upstream(
    tocsin: Tocsin, echo: Echo
) -> None:
    key = await issue(tocsin, "caller")
    for path in (
        "/v1/../api/keys",
        "/v1/%2e%2e/api/keys",
        "/v1/..%2fapi/keys",
        "/v1/x/../../api/keys",
        "/v1/.%2e/secret",
    ):
        reply = await ask(tocsin, "GET", path, key=key)
        assert reply.status in (400, 403, 404), (path, reply.status)
        assert b"digest" not in reply.body
    assert echo.heads == []


async def test_a_scoped_key_calls_its_features_and_no_other(tocsin: Tocsin, echo: Echo) -> None:
    key = await issue(tocsin, "caller", features=["support"])
    path = "/v1/chat/completions"
    assert (await ask(tocsin, "POST", path, key=key, headers=JSON, body=chat())).status == 200
    other = {**JSON, "tocsin-feature": "billing"}
    refused = await ask(tocsin, "POST", path, key=key, headers=other, body=chat())
    assert refused.status == 403
    assert len(echo.heads) == 1


@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/api/keys", "/login", "/v1/traces"])
async def test_another_host_name_is_refused_everywhere(tocsin: Tocsin, path: str) -> None:
    for host in ("evil.example", f"evil.example:{tocsin.port}", "127.0.0.1.evil.example"):
        reply = await ask(tocsin, "GET", path, key=tocsin.admin_key(), host=host)
        assert reply.status == 421, (path, host)
        assert reply.headers["content-type"].endswith("json")


def test_an_address_that_others_can_reach_without_a_key_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "tocsin.toml"
    config.write_text(
        f'[server]\nport = 0\ndata_dir = "{tmp_path}/data"\n[auth]\nrequire_key = false\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "tocsin", "up", "--config", str(config), "--host", "0.0.0.0"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode != 0
    assert "auth.require_key" in done.stdout + done.stderr


# -- what it survives --


async def test_hostile_bytes_get_a_refusal_and_the_process_lives(tocsin: Tocsin) -> None:
    key = await issue(tocsin, "caller")
    deep = b"[" * 1_000_000
    path = "/v1/chat/completions"
    bomb = gzip.compress(b'{"a":"' + b"\0" * 100_000_000)
    cases: list[tuple[str, dict[str, str], bytes, tuple[int, ...]]] = [
        (path, JSON, deep, (400,)),
        (path, JSON, b'{"model":"mine","messages":' + deep, (400,)),
        (path, JSON, b'{"model":"mine","messages":[{"role":"user","content":' + deep, (400,)),
        ("/v1/messages", JSON, deep, (400,)),
        ("/v1/embeddings", JSON, deep, (400,)),
        ("/v1/traces", JSON, deep, (400,)),
        ("/v1/traces", {"content-type": "application/x-protobuf"}, b"\xff" * 1000, (400,)),
        ("/v1/traces", {**JSON, "content-encoding": "gzip"}, bomb, (413,)),
        ("/v1/traces", {**JSON, "content-encoding": "gzip"}, bomb[: len(bomb) // 2], (400, 413)),
        ("/v1/traces", {**JSON, "content-encoding": "gzip"}, b"no gzip", (400,)),
        (path, {**JSON, "content-encoding": "gzip"}, bomb, (413,)),
        (path, {**JSON, "content-encoding": "gzip"}, b"no gzip", (400,)),
        (path, {**JSON, "content-encoding": "br"}, b"x", (415,)),
        ("/api/keys", JSON, deep[:60_000], (400, 403)),
    ]
    for target, headers, body, wanted in cases:
        reply = await ask(tocsin, "POST", target, key=key, headers=headers, body=body)
        assert reply.status in wanted, (target, body[:40], reply.status, reply.body[:200])
    assert (await ask(tocsin, "GET", "/readyz")).status == 200
    assert resident_mib(tocsin) < 400


def resident_mib(tocsin: Tocsin) -> int:
    assert tocsin.process is not None
    status = Path(f"/proc/{tocsin.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) // 1024


async def test_requests_that_parsers_read_in_two_ways_are_refused(tocsin: Tocsin) -> None:
    host = b"host: 127.0.0.1\r\n"
    for raw in (
        b"POST /v1/chat/completions HTTP/1.1\r\n"
        + host
        + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\n" + host + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        b"GET /healthz HTTP/1.1\r\n" + host + b"host: evil.example\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET http://evil.example/healthz HTTP/1.1\r\nhost: evil.example\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + host + b" folded: header\r\n\r\n",
    ):
        answer = await asyncio.to_thread(exchange, tocsin.port, raw)
        status = answer.split(b" ", 2)[1] if b" " in answer else b""
        assert status in (b"400", b"401", b"421", b""), (raw, answer[:100])


def exchange(port: int, raw: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(raw)
        try:
            return connection.recv(4096)
        except (TimeoutError, ConnectionError):
            return b""


async def test_what_a_model_says_is_text_on_every_page(tocsin: Tocsin) -> None:
    key = await issue(tocsin, "caller")
    headers = {**JSON, "tocsin-user": HOSTILE, "tocsin-agent": HOSTILE}
    body = chat(text=HOSTILE)
    reply = await ask(tocsin, "POST", "/v1/chat/completions", key=key, headers=headers, body=body)
    assert reply.json()["choices"][0]["message"]["content"] == HOSTILE
    await asyncio.sleep(0.5)
    pages = [(path, data) for path, data in await shown(tocsin) if not path.startswith("/api")]
    assert any(b"onerror" in data for path, data in pages)
    for path, data in pages:
        assert b"<img src=x" not in data, path
    page = await ask(tocsin, "GET", "/runs", key=tocsin.admin_key())
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy


async def test_the_data_folder_is_nobody_elses_to_read(tocsin: Tocsin) -> None:
    assert tocsin.data.stat().st_mode & 0o077 == 0
    assert (tocsin.data / "secret").stat().st_mode & 0o077 == 0
    with sqlite3.connect(tocsin.data / "tocsin.db") as database:
        tables = {row[0] for row in database.execute("select name from sqlite_master")}
    assert "keys" in tables or any("key" in name for name in tables)
