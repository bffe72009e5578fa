"""Keys: issued once, found by digest, ended everywhere within two seconds."""

import asyncio
import contextlib
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adminkit import SECRET, Clock
from tocsin.config.model import Auth, Config, Server, StoreSettings
from tocsin.core.credentials import token_in
from tocsin.core.errors import (
    BadRequest,
    ConfigError,
    Forbidden,
    StoreError,
    Unauthenticated,
    Unavailable,
)
from tocsin.gateway.auth import (
    ANONYMOUS,
    Keyring,
    forwardable,
    key_required,
    load_secret,
    refuse_open_bind,
)
from tocsin.store import Store, open_store


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Store:
    return open_store(StoreSettings(), tmp_path, clock)


@pytest.fixture
def keyring(store: Store, clock: Clock) -> Keyring:
    return Keyring(store, SECRET, clock)


def bearer(secret: str) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"authorization", f"Bearer {secret}".encode()),)


async def test_an_issued_key_is_found_by_each_of_its_three_headers(keyring: Keyring) -> None:
    made = keyring.issue("app", "caller", features=["support"], actor="test")
    for headers in (
        bearer(made.secret),
        ((b"authorization", f"bearer   {made.secret} ".encode()),),
        ((b"x-api-key", made.secret.encode()),),
        ((b"authorization", b"Bearer sk-the-providers-own"), (b"tocsin-key", made.secret.encode())),
    ):
        principal = await keyring.authenticate(headers)
        assert (principal.key_id, principal.role) == (made.row.id, "caller")
        assert principal.may_call("support")
        assert not principal.may_call("billing")


def test_the_store_holds_no_secret(keyring: Keyring, store: Store, tmp_path: Path) -> None:
    made = keyring.issue("app", actor="test")
    assert made.secret.startswith("tk-")
    assert len(made.secret) == 43
    assert store.keys() == [made.row]
    written = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert made.secret.encode() not in written
    assert made.row.digest in written


def test_two_keys_are_never_alike(keyring: Keyring) -> None:
    secrets = {keyring.issue(f"key {n}", actor="test").secret for n in range(20)}
    assert len(secrets) == 20


async def test_a_stolen_database_opens_nothing_without_the_server_secret(
    keyring: Keyring, store: Store, clock: Clock
) -> None:
    made = keyring.issue("app", actor="test")
    elsewhere = Keyring(store, b"another secret, just as long....", clock)
    with pytest.raises(Unauthenticated):
        await elsewhere.authenticate(bearer(made.secret))


async def test_a_key_of_ours_that_nobody_knows_is_refused_and_not_taken_for_the_providers(
    keyring: Keyring,
) -> None:
    for token in ("tk-" + "a" * 40, "tk-", "tk-short", "tk-" + "a" * 400, "tk-" + "é" * 40):
        for name in (b"authorization", b"x-api-key", b"tocsin-key"):
            with pytest.raises(Unauthenticated):
                await keyring.authenticate(((name, token.encode()),))


async def test_the_providers_own_token_leaves_the_caller_anonymous(keyring: Keyring) -> None:
    for headers in ((), bearer("sk-proj-1"), ((b"x-api-key", b"sk-ant-1"),)):
        assert await keyring.authenticate(headers, peer="127.0.0.1") is ANONYMOUS


async def test_where_keys_are_required_nobody_is_anonymous(store: Store, clock: Clock) -> None:
    strict = Keyring(store, SECRET, clock, require_key=True)
    for headers in ((), bearer("sk-proj-1"), ((b"x-api-key", b"sk-ant-1"),)):
        with pytest.raises(Unauthenticated):
            await strict.authenticate(headers, peer="127.0.0.1")


async def test_another_machine_is_never_anonymous(keyring: Keyring) -> None:
    for peer in ("10.0.0.7", "192.168.1.4", "2001:db8::1", "127x"):
        with pytest.raises(Unauthenticated):
            await keyring.authenticate((), peer=peer)


async def test_what_a_proxy_forwards_is_never_anonymous(keyring: Keyring) -> None:
    made = keyring.issue("app", actor="test")
    for name in (b"x-forwarded-for", b"forwarded", b"x-real-ip"):
        with pytest.raises(Unauthenticated, match="proxy"):
            await keyring.authenticate(((name, b"203.0.113.9"),), peer="127.0.0.1")
        with_key = ((name, b"203.0.113.9"), *bearer(made.secret))
        assert (await keyring.authenticate(with_key)).key_id == made.row.id


async def test_a_web_page_of_another_origin_cannot_spend_money_without_a_key(
    keyring: Keyring,
) -> None:
    host = (b"host", b"127.0.0.1:4600")
    for header in (
        (b"origin", b"https://evil.example"),
        (b"origin", b"null"),
        (b"sec-fetch-site", b"cross-site"),
        (b"sec-fetch-site", b"same-site"),
    ):
        with pytest.raises(Forbidden):
            await keyring.authenticate((host, header))
    assert await keyring.authenticate((host, (b"origin", b"http://127.0.0.1:4600"))) is ANONYMOUS
    made = keyring.issue("app", actor="test")
    foreign = (host, (b"origin", b"https://app.example"), *bearer(made.secret))
    assert (await keyring.authenticate(foreign)).key_id == made.row.id


async def test_two_different_keys_in_one_request_are_refused(keyring: Keyring) -> None:
    first, second = (keyring.issue(name, actor="test").secret for name in ("one", "two"))
    same = (*bearer(first), (b"x-api-key", first.encode()))
    assert (await keyring.authenticate(same)).role == "caller"
    with pytest.raises(Unauthenticated):
        await keyring.authenticate((*bearer(first), (b"tocsin-key", second.encode())))


async def test_a_key_ends_at_its_time(keyring: Keyring, clock: Clock) -> None:
    made = keyring.issue("app", expires_at=clock.now_us() + 1_500_000, actor="test")
    assert (await keyring.authenticate(bearer(made.secret))).role == "caller"
    clock.advance(1.6)  # still in the cache
    with pytest.raises(Unauthenticated):
        await keyring.authenticate(bearer(made.secret))


async def test_a_revoked_key_ends_at_once_in_this_process(keyring: Keyring) -> None:
    made = keyring.issue("app", actor="test")
    await keyring.authenticate(bearer(made.secret))
    assert keyring.revoke(made.row.id, actor="test")
    with pytest.raises(Unauthenticated):
        await keyring.authenticate(bearer(made.secret))
    assert not keyring.revoke(made.row.id, actor="test")


async def test_a_key_revoked_elsewhere_ends_within_two_seconds_under_steady_traffic(
    store: Store, clock: Clock
) -> None:
    here, elsewhere = Keyring(store, SECRET, clock), Keyring(store, SECRET, clock)
    made = here.issue("app", actor="test")
    await here.authenticate(bearer(made.secret))
    elsewhere.revoke(made.row.id, actor="test")
    for _ in range(20):
        clock.advance(0.1)
        try:
            await here.authenticate(bearer(made.secret))
        except Unauthenticated:
            break
        await asyncio.sleep(0)
    else:
        with pytest.raises(Unauthenticated):
            await here.authenticate(bearer(made.secret))


async def test_a_key_issued_elsewhere_works_within_two_seconds_of_a_failed_try(
    store: Store, clock: Clock
) -> None:
    here, elsewhere = Keyring(store, SECRET, clock), Keyring(store, SECRET, clock)
    made = elsewhere.issue("app", actor="test")
    store.revoke_key(made.row.id, clock.now_us())  # so that the first try fails
    with pytest.raises(Unauthenticated):
        await here.authenticate(bearer(made.secret))
    fresh = elsewhere.issue("app", actor="test")
    assert (await here.authenticate(bearer(fresh.secret))).key_id == fresh.row.id


class Counting:
    """The real store, counting and delaying its key look-ups."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.lookups = 0
        self.at_once = 0
        self.most_at_once = 0
        self.asked = threading.Event()
        self.hold = threading.Event()
        self.hold.set()
        self.broken = False
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def key_by_digest(self, digest: bytes) -> object:
        with self._lock:
            self.lookups += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.asked.set()
            self.hold.wait(5)
            if self.broken:
                raise StoreError("disk on fire")
            return self._store.key_by_digest(digest)
        finally:
            with self._lock:
                self.at_once -= 1


async def test_a_hundred_callers_with_one_new_key_ask_the_store_once(
    store: Store, clock: Clock
) -> None:
    counting = Counting(store)
    keyring = Keyring(counting, SECRET, clock)  # type: ignore[arg-type]
    made = keyring.issue("app", actor="test")
    found = await asyncio.gather(*(keyring.authenticate(bearer(made.secret)) for _ in range(100)))
    assert {principal.key_id for principal in found} == {made.row.id}
    assert counting.lookups == 1


async def test_a_flood_of_unknown_keys_takes_few_threads_and_little_memory(
    store: Store, clock: Clock
) -> None:
    counting = Counting(store)
    keyring = Keyring(counting, SECRET, clock)  # type: ignore[arg-type]
    tokens = [f"tk-{n:040d}" for n in range(1500)]
    found = await asyncio.gather(
        *(keyring.authenticate(bearer(token)) for token in tokens), return_exceptions=True
    )
    assert all(isinstance(error, Unauthenticated) for error in found)
    assert counting.most_at_once <= 8
    assert len(keyring._unknown) <= 1024


async def test_a_look_up_never_blocks_the_event_loop(store: Store, clock: Clock) -> None:
    counting = Counting(store)
    counting.hold.clear()
    keyring = Keyring(counting, SECRET, clock)  # type: ignore[arg-type]
    made = keyring.issue("app", actor="test")
    asked = asyncio.create_task(keyring.authenticate(bearer(made.secret)))
    assert await asyncio.to_thread(counting.asked.wait, 5)
    assert not asked.done()  # and yet this test runs on
    counting.hold.set()
    assert (await asked).key_id == made.row.id


async def test_an_answer_older_than_a_revocation_is_not_remembered(
    store: Store, clock: Clock
) -> None:
    counting = Counting(store)
    keyring = Keyring(counting, SECRET, clock)  # type: ignore[arg-type]
    made = keyring.issue("app", actor="test")
    row = made.row

    def late(digest: bytes) -> object:
        keyring.revoke(row.id, actor="test")  # between the store's answer and its arrival
        return row

    counting.key_by_digest = late  # type: ignore[method-assign]
    await keyring.authenticate(bearer(made.secret))
    del counting.key_by_digest  # type: ignore[misc]
    with pytest.raises(Unauthenticated):
        await keyring.authenticate(bearer(made.secret))


async def test_a_store_that_cannot_answer_lets_nobody_in(store: Store, clock: Clock) -> None:
    counting = Counting(store)
    counting.broken = True
    keyring = Keyring(counting, SECRET, clock)  # type: ignore[arg-type]
    made = keyring.issue("app", actor="test")
    with pytest.raises(Unavailable) as caught:
        await keyring.authenticate(bearer(made.secret))
    assert caught.value.retryable
    counting.broken = False
    assert (await keyring.authenticate(bearer(made.secret))).key_id == made.row.id


tokens = st.binary(max_size=80) | st.from_regex(rb"\A(Bearer |bearer\t)?tk-[ -~]{0,60}\Z")
names = st.sampled_from([b"authorization", b"x-api-key", b"tocsin-key", b"origin", b"host"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(headers=st.lists(st.tuples(names, tokens), max_size=5).map(tuple))
def test_no_credential_header_crashes_or_gets_in(
    keyring: Keyring, headers: tuple[tuple[bytes, bytes], ...]
) -> None:
    with contextlib.suppress(Unauthenticated, Forbidden):
        assert asyncio.run(keyring.authenticate(headers)) is ANONYMOUS
    for name, value in forwardable(headers):
        assert name not in (b"authorization", b"x-api-key") or token_in(name, value)[:3] != b"tk-"
        assert name != b"tocsin-key"


def test_neither_our_keys_nor_our_cookies_are_forwarded() -> None:
    headers = (
        (b"authorization", b"Bearer sk-provider"),
        (b"x-api-key", b"tk-ours"),
        (b"tocsin-key", b"tk-ours"),
        (b"cookie", b"tocsin_ab=x"),
        (b"accept", b"*/*"),
    )
    assert forwardable(headers) == (headers[0], headers[4])
    assert forwardable(((b"authorization", b"Bearer tk-ours"),)) == ()


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"name": ""}, "name"),
        ({"name": " x"}, "name"),
        ({"name": "x\n"}, "name"),
        ({"name": "x", "role": "anonymous"}, "role"),
        ({"name": "x", "role": "root"}, "role"),
        ({"name": "x", "features": ["a b"]}, "features"),
        ({"name": "x", "features": ["a"] * 101}, "features"),
        ({"name": "x", "expires_at": 1}, "expires_at"),
    ],
)
def test_a_key_that_makes_no_sense_is_not_issued(
    keyring: Keyring, arguments: dict[str, object], param: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        keyring.issue(**arguments, actor="test")  # type: ignore[arg-type]
    assert caught.value.param == param
    assert keyring.keys() == []


def test_the_first_start_makes_one_admin_key(keyring: Keyring) -> None:
    made = keyring.ensure_admin()
    assert made is not None
    assert made.row.role == "admin"
    assert keyring.ensure_admin() is None
    keyring.revoke(made.row.id, actor="test")
    assert keyring.ensure_admin() is not None


def test_issuing_and_revoking_are_audited_without_the_secret(
    keyring: Keyring, store: Store
) -> None:
    made = keyring.issue("app", features=["a"], actor="ann")
    keyring.revoke(made.row.id, actor="bob")
    rows = store.audit()
    assert {(row.actor, row.action, row.target) for row in rows} == {
        ("ann", "key.issue", made.row.id),
        ("bob", "key.revoke", made.row.id),
    }
    assert made.secret not in repr(rows)


# -- the server secret --


def test_the_secret_is_made_once_and_is_nobody_elses_to_read(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    secret = load_secret(folder, {})
    assert len(secret) == 32
    assert load_secret(folder, {}) == secret
    assert (folder / "secret").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o077 == 0
    assert [p.name for p in folder.iterdir()] == ["secret"]


def test_processes_that_start_at_once_agree_on_one_secret(tmp_path: Path) -> None:
    found: list[bytes] = []
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        found.append(load_secret(tmp_path, {}))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_secret_that_others_can_read_is_closed_to_them(tmp_path: Path) -> None:
    load_secret(tmp_path, {})
    (tmp_path / "secret").chmod(0o644)
    load_secret(tmp_path, {})
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_a_damaged_or_short_secret_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"short")
    with pytest.raises(ConfigError, match="restore it from a backup"):
        load_secret(tmp_path, {})
    with pytest.raises(ConfigError, match="TOCSIN_SECRET"):
        load_secret(tmp_path, {"TOCSIN_SECRET": "hunter2"})
    given = "a long secret from the environment"
    assert load_secret(tmp_path, {"TOCSIN_SECRET": given}) == given.encode()


# -- where we may listen --


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "tocsin.internal", "[::]"])
def test_an_address_that_others_can_reach_needs_keys(host: str) -> None:
    config = Config(server=Server(host=host))
    assert key_required(config)
    refuse_open_bind(config)
    open_config = Config(server=Server(host=host), auth=Auth(require_key=False))
    with pytest.raises(ConfigError, match=r"auth\.require_key"):
        refuse_open_bind(open_config)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.8.8.8"])
def test_loopback_needs_no_key_unless_asked_for(host: str) -> None:
    config = Config(server=Server(host=host))
    assert not key_required(config)
    refuse_open_bind(config)
    assert key_required(Config(server=Server(host=host), auth=Auth(require_key=True)))
