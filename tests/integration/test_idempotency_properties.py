"""Keyed requests of two processes on one store, under any interleaving: the table always holds."""

import asyncio
import itertools
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store_world import StoppedClock
from tocsin.core.call import Principal
from tocsin.core.errors import CallError
from tocsin.gateway import repeats_keys
from tocsin.gateway.audience import Room
from tocsin.gateway.repeats_asked import Asked, Rules
from tocsin.gateway.repeats_keys import Keys
from tocsin.gateway.wire import AsgiWire, Wire
from tocsin.runtime.intake import ERROR_HEADER
from tocsin.store import Store

RULES = Rules(
    retries=True,
    window_s=60,
    linger_s=0,
    refuse=False,
    keep_us=10**12,
    most=1000,
    owner_timeout_us=10**9,
    required=frozenset(),
)
ROOM = 1_000_000
Name = tuple[str, str]
_examples = itertools.count()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats_keys, "_FIRST_LOOK_S", 0.002)
    monkeypatch.setattr(repeats_keys, "_LAST_LOOK_S", 0.005)


class Counted:
    """The store, and how many of its calls are under way."""

    def __init__(self, book: Any) -> None:
        self._book = book
        self._lock = threading.Lock()
        self.busy = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._book, name)

        def call(*args: Any, **more: Any) -> Any:
            with self._lock:
                self.busy += 1
            try:
                return method(*args, **more)
            finally:
                with self._lock:
                    self.busy -= 1

        return call


class Made:
    """One call that went to the upstream."""

    def __init__(self, name: Name, payload: bytes) -> None:
        self.name, self.payload = name, payload
        self.ending: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.ended = ""


class Client:
    """One request, and what it was sent."""

    def __init__(self, world: "World", keys: Keys, name: Name, payload: bytes) -> None:
        self.name, self.payload = name, payload
        self.said: list[Any] = []
        self.code = ""
        principal = Principal(key_id=name[0])
        self.asked = Asked("POST", "/v1/x", b"", (), principal, payload)
        self.task = asyncio.create_task(self._run(world, keys))

    async def _run(self, world: "World", keys: Keys) -> None:
        async def send(message: Any) -> None:
            self.said.append(message)

        async def answer(*given: Any) -> None:
            await world.answer(self.name, Asked(*given[:-1]), given[-1])

        try:
            await keys.serve(self.asked, self.name[1], AsgiWire(send), answer)
        except CallError as error:
            self.code = error.code
        except Exception as error:  # a connection that was broken off
            self.code = type(error).__name__

    @property
    def status(self) -> int | None:
        return next((m["status"] for m in self.said if "status" in m), None)

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.said)


class World:
    def __init__(self, store: Store) -> None:
        self.book = Counted(store.operations)
        self.clock = StoppedClock()
        self.example = next(_examples)
        self.room = Room(ROOM)
        self.keys = [
            Keys(lambda: RULES, self.room, self.clock, self.book, f"proc_{self.example}_{n}")
            for n in range(2)
        ]
        self.made: list[Made] = []
        self.clients: list[Client] = []

    async def answer(self, name: Name, asked: Asked, wire: Wire) -> None:
        made = Made(name, asked.body)
        number = len(self.made)
        self.made.append(made)
        how = await made.ending
        body = b"%d" % number
        made.ended = how
        if how == "limited":
            await wire.whole(429, [], body)
        elif how == "denied":
            await wire.whole(403, [(ERROR_HEADER, b"denied")], body)
        elif how == "broken":
            await wire.start(200, [])
            await wire.piece(body)
            await wire.cut()
        elif how == "streamed":
            await wire.start(200, [])
            await wire.piece(body)
            await wire.end()
        else:
            await wire.whole(200, [], body)

    async def quiet(self) -> None:
        still = 0
        while still < 3:
            await asyncio.sleep(0.001)
            still = 0 if self.book.busy else still + 1

    async def close(self) -> None:
        for keys in self.keys:
            await keys.stop(0)
        for client in self.clients:
            client.task.cancel()
        await asyncio.gather(*(c.task for c in self.clients), return_exceptions=True)


steps = st.lists(
    st.tuples(
        st.sampled_from(("ask", "ask", "ask", "leave", "end")),
        st.integers(0, 1),
        st.integers(0, 11),
        st.booleans(),
    ),
    max_size=16,
)
ENDINGS = ("whole", "streamed", "limited", "denied", "broken", "whole")
GOOD = ("whole", "streamed")


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps)
def test_the_table_holds_under_any_interleaving(
    store: Store, plan: Sequence[tuple[str, int, int, bool]]
) -> None:
    asyncio.run(play(store, plan))


async def play(store: Store, plan: Sequence[tuple[str, int, int, bool]]) -> None:
    world = World(store)
    now = world.clock.now_us()
    for number in range(2):
        store.operations.beat(f"proc_{world.example}_{number}", now)
    try:
        for what, process, number, waits in plan:
            step(world, what, process, number)
            if waits:
                await world.quiet()
            else:
                await asyncio.sleep(0)
            check(world)
        await finish(world)
        check(world)
    finally:
        await world.close()
    assert world.room.left == ROOM, "room was not given back"


def step(world: World, what: str, process: int, number: int) -> None:
    if what == "ask":
        name = f"{world.example}-{number % 2}", f"key-{number // 2 % 2}"
        payload = b"payload %d" % (number // 8)
        world.clients.append(Client(world, world.keys[process], name, payload))
    elif what == "leave" and world.clients:
        world.clients[number % len(world.clients)].task.cancel()
    elif what == "end":
        open_ones = [m for m in world.made if not m.ending.done()]
        if open_ones:
            open_ones[number % len(open_ones)].ending.set_result(ENDINGS[number % len(ENDINGS)])


async def finish(world: World) -> None:
    """End everything well; whoever waits is answered."""
    for _ in range(400):
        for made in world.made:
            if not made.ending.done():
                made.ending.set_result("whole")
        await world.quiet()
        if all(c.task.done() for c in world.clients):
            return
    raise AssertionError("a request was never answered")


def check(world: World) -> None:
    for name in {made.name for made in world.made}:
        mine = [made for made in world.made if made.name == name]
        # A call follows another only when that one freed the key.
        assert all(made.ended and made.ended not in GOOD for made in mine[:-1]), mine
    for client in world.clients:
        if client.code:
            others = {m.payload for m in world.made if m.name == client.name} - {client.payload}
            if client.code == "idempotency_key_reused":
                assert others, "refused although everybody asked the same"
            else:
                assert client.code == "Cut", client.code
        if client.status == 200 and client.said[-1].get("more_body") is not True:
            made = world.made[int(client.body)]
            assert made.name == client.name, "another's answer"
            assert made.payload == client.payload, "the answer to another question"


@pytest.mark.parametrize("how", ["whole", "streamed"])
async def test_no_client_sees_the_end_of_an_answer_before_it_is_kept(
    store: Store, how: str
) -> None:
    """So a crash never loses what somebody saw complete; not even a stream's last event."""
    held = threading.Event()

    class Held(World):
        async def answer(self, name: Name, asked: Asked, wire: Wire) -> None:
            if how == "whole":
                await wire.whole(200, [], b"all of it")
                return
            await wire.start(200, [])
            await wire.piece(b"data: all of it\n\n")
            await wire.piece(b"data: [DONE]\n\n")
            await wire.end()

    world = Held(store)
    settle = store.operations.settle_key

    def slowly(*args: Any, **more: Any) -> None:
        held.wait(10)
        settle(*args, **more)

    world.book.settle_key = slowly  # type: ignore[attr-defined]
    client = Client(world, world.keys[0], (f"{world.example}", "key"), b"")
    world.clients.append(client)
    await world.quiet()
    await asyncio.sleep(0.05)
    assert client.body == (b"" if how == "whole" else b"data: all of it\n\n")
    assert not client.task.done()
    held.set()
    await asyncio.wait_for(client.task, 5)
    assert client.body.endswith(b"all of it" if how == "whole" else b"data: [DONE]\n\n")
    await world.close()
