"""Which retry finds which try, under any interleaving: nothing is answered twice or mixed up."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.core.call import Principal
from tocsin.gateway.audience import Room
from tocsin.gateway.repeats_asked import Asked, Rules
from tocsin.gateway.repeats_joins import MOST, Joins
from tocsin.gateway.wire import AsgiWire, Wire

ROOM = 10_000
RULES = Rules(
    retries=True,
    window_s=60,
    linger_s=60,
    refuse=False,
    keep_us=1,
    most=1000,
    owner_timeout_us=1,
    required=frozenset(),
)


def request(who: str, body: str, count: int) -> Asked:
    headers = ((b"x-stainless-retry-count", b"%d" % count), (b"authorization", who.encode()))
    return Asked("POST", "/v1/x", b"", headers, Principal(), body.encode())


class Client:
    """One request: its connection, its task, and what it was sent."""

    def __init__(self, world: "World", asked: Asked, count: int) -> None:
        self.asked, self.count = asked, count
        self.said: list[Any] = []
        self.left = False
        self.wire = AsgiWire(self._send)
        self.task = asyncio.create_task(world.joins.serve(asked, count, self.wire, world.answer))
        self.wire.task = self.task

    async def _send(self, message: Any) -> None:
        self.said.append(message)

    @property
    def status(self) -> int | None:
        return next((m["status"] for m in self.said if "status" in m), None)

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.said)

    @property
    def waits(self) -> bool:
        return not self.left and self.status is None


class World:
    def __init__(self, rules: Rules = RULES) -> None:
        self.room = Room(ROOM)
        self.joins = Joins(lambda: rules, self.room)
        self.made: list[tuple[Asked, asyncio.Future[int]]] = []
        self.clients: list[Client] = []

    async def answer(self, *given: Any) -> None:
        *asked, wire = given
        status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        number = len(self.made)
        self.made.append((Asked(*asked), status))
        code = await status
        await wire.whole(code, [], b"%d" % number)

    async def ask(self, who: str, body: str, count: int) -> Client:
        client = Client(self, request(who, body, count), count)
        self.clients.append(client)
        await settle()
        return client

    async def leave(self, client: Client) -> None:
        client.left = True
        if not self.joins.left(client.wire):
            client.task.cancel()
        await settle()

    async def finish(self, number: int, status: int) -> None:
        done = self.made[number][1]
        if not done.done():
            done.set_result(status)
        await settle()

    async def close(self) -> None:
        await self.joins.stop()
        for client in self.clients:
            client.task.cancel()
        await asyncio.gather(*(c.task for c in self.clients), return_exceptions=True)


async def settle() -> None:
    for _ in range(12):
        await asyncio.sleep(0)


Steps = Sequence[tuple[str, int, int]]
steps = st.lists(
    st.tuples(
        st.sampled_from(("first", "first", "retry", "retry", "leave", "finish", "fail")),
        st.integers(0, 3),
        st.integers(0, 5),
    ),
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(steps)
def test_no_interleaving_mixes_up_answers(plan: Steps) -> None:
    asyncio.run(play(plan))


async def play(plan: Steps) -> None:
    world = World()
    try:
        for what, which, number in plan:
            await step(world, what, which, number)
            check(world)
        for number in range(len(world.made)):
            await world.finish(number, 200)
        check(world)
        stuck = [c for c in world.clients if c.waits]
        assert stuck == [], "a client waits for an answer that nobody makes"
    finally:
        await world.close()
    assert world.joins._number == 0
    assert world.joins._open == {}
    assert world.room.left == ROOM, "room was not given back"


async def step(world: World, what: str, which: int, number: int) -> None:
    who, body = ("ab"[which % 2], "xy"[which // 2])
    if what == "first":
        made = len(world.made)
        await world.ask(who, body, 0)
        assert len(world.made) == made + 1, "a first try did not get a call of its own"
    elif what == "retry":
        await world.ask(who, body, 1 + number % 3)
    elif what == "leave":
        there = [c for c in world.clients if c.waits]
        if there:
            await world.leave(there[number % len(there)])
    elif world.made:
        await world.finish(number % len(world.made), 200 if what == "finish" else 429)


def check(world: World) -> None:
    """Whoever was answered got the answer to its own request."""
    for client in world.clients:
        if client.status is not None:
            made, _ = world.made[int(client.body)]
            assert (made.body, made.headers[1]) == (client.asked.body, client.asked.headers[1])
    firsts = [c for c in world.clients if c.count == 0 and c.status == 200]
    assert len({c.body for c in firsts}) == len(firsts), "two first tries share an answer"


async def test_n_calls_that_all_time_out_are_n_generations() -> None:
    """Samples of one prompt: each retry gets another one of them."""
    world = World()
    for _ in range(8):
        await world.leave(await world.ask("a", "x", 0))
    retries = [await world.ask("a", "x", 1) for _ in range(8)]
    for number in range(8):
        await world.finish(number, 200)
    assert Counter(c.body for c in retries) == Counter(b"%d" % n for n in range(8))
    assert len(world.made) == 8
    await world.close()


async def test_a_retry_prefers_a_try_that_nobody_listens_to() -> None:
    """Also a second retry whose client's first one never came here."""
    world = World()
    for _ in range(2):
        await world.leave(await world.ask("a", "x", 0))
    retries = [await world.ask("a", "x", 1), await world.ask("a", "x", 2)]
    for number in range(2):
        await world.finish(number, 200)
    assert sorted(c.body for c in retries) == [b"0", b"1"]
    await world.close()


async def test_the_retry_of_a_failed_try_leaves_its_siblings_alone() -> None:
    world = World()
    for _ in range(3):
        await world.ask("a", "x", 0)
    await world.finish(0, 429)
    await world.ask("a", "x", 1)
    assert len(world.made) == 4
    # One failure, one new try: the next retry belongs to somebody else.
    await world.ask("a", "x", 1)
    assert len(world.made) == 4
    await world.close()


async def test_tries_that_wait_for_nobody_are_few() -> None:
    world = World()
    for number in range(MOST + 5):
        client = Client(world, request("a", str(number), 0), 0)
        world.clients.append(client)
        await asyncio.sleep(0)
        client.left = True
        if not world.joins.left(client.wire):
            client.task.cancel()
    await settle()
    assert world.joins._number == MOST
    assert sum(c.task.done() for c in world.clients) == 5, "the others were cut at once"
    # What is complete makes way for what is not.
    await world.finish(0, 200)
    await world.leave(await world.ask("a", "new", 0))
    assert world.joins._number == MOST
    assert not world.clients[-1].task.done()
    await world.close()


async def test_failures_that_are_remembered_are_few() -> None:
    world = World()
    for number in range(MOST + 5):
        await world.ask("a", str(number), 0)
        await world.finish(number, 503)
    assert len(world.joins._failed) == MOST
    await world.close()


async def test_kept_answers_take_no_more_than_their_room() -> None:
    """The answer that does not fit is not kept; its retry is a new call."""

    class Wide(World):
        async def answer(self, *given: Any) -> None:
            self.made.append((given[0], asyncio.get_running_loop().create_future()))
            await self.made[-1][1]
            wire: Wire = given[-1]
            await wire.whole(200, [], b"x" * 900)

    world = Wide()
    for number in range(12):
        await world.leave(await world.ask("a", str(number), 0))
        await world.finish(number, 200)
    assert world.room.left < 900
    assert world.joins._number == ROOM // 900
    await world.close()
    assert world.room.left == ROOM
