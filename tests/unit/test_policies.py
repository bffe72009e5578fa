"""Policies as layers: modes, failure modes and time limits hold whatever a policy does."""

import asyncio

import pytest

from tocsin.core.call import Call
from tocsin.core.errors import Denied, PolicyFailed, UpstreamFailed
from tocsin.core.interaction import Mode
from tocsin.core.policy import FailureMode, Next, Policy, Reply
from tocsin.runtime.policies import Watch, nest
from unit.calls import call, message


class Base:
    name = "probe"
    timeout_s = 0.1

    def __init__(self, failure: FailureMode = "open") -> None:
        self.failure: FailureMode = failure


class Denies(Base):
    async def __call__(self, call: Call, next: Next) -> Reply:
        raise Denied("over the limit")


class Crashes(Base):
    async def __call__(self, call: Call, next: Next) -> Reply:
        raise ZeroDivisionError("oops")


class CrashesAfter(Base):
    async def __call__(self, call: Call, next: Next) -> Reply:
        await next(call)
        raise ZeroDivisionError("late")


class Hangs(Base):
    async def __call__(self, call: Call, next: Next) -> Reply:
        await asyncio.sleep(60)
        return await next(call)


class Rewrites(Base):
    async def __call__(self, call: Call, next: Next) -> Reply:
        return await next(call.evolve(body=b"changed"))


class Upstream:
    def __init__(self, delay: float = 0, error: Exception | None = None) -> None:
        self.bodies: list[bytes] = []
        self.delay = delay
        self.error = error

    async def __call__(self, call: Call) -> Reply:
        self.bodies.append(call.body)
        await asyncio.sleep(self.delay)
        if self.error is not None:
            raise self.error
        return Reply(status=200, headers=[], body=b"{}")


async def run(policy: Policy, mode: Mode, upstream: Upstream) -> tuple[Call, Reply]:
    asked = call([message("user", "hi")])
    watch = Watch()
    watch.start()
    watch.enter(asked.id)
    try:
        return asked, await nest(((policy, mode),), upstream, watch)(asked)
    finally:
        watch.stop()


def actions(asked: Call) -> list[tuple[str, str]]:
    return [(d.mode, d.action) for d in asked.draft.decisions]


async def test_a_denial_stops_the_call_when_enforced() -> None:
    upstream = Upstream()
    with pytest.raises(Denied):
        await run(Denies(), "enforce", upstream)
    assert upstream.bodies == []


async def test_a_denial_is_only_written_down_when_observed() -> None:
    upstream = Upstream()
    asked, reply = await run(Denies(), "observe", upstream)
    assert reply.status == 200
    assert actions(asked) == [("observe", "deny")]


async def test_a_policy_that_is_off_is_not_there() -> None:
    asked, reply = await run(Denies(), "off", Upstream())
    assert (reply.status, actions(asked)) == (200, [])


async def test_a_change_goes_through_when_enforced_and_not_when_observed() -> None:
    enforced, observed = Upstream(), Upstream()
    await run(Rewrites(), "enforce", enforced)
    asked, _ = await run(Rewrites(), "observe", observed)
    assert enforced.bodies == [b"changed"]
    assert observed.bodies == [asked.body]
    assert actions(asked) == [("observe", "modify")]


@pytest.mark.parametrize(("policy", "action"), [(Crashes, "crashed"), (Hangs, "timed_out")])
async def test_a_broken_policy_that_fails_open_is_recorded_and_left_out(
    policy: type[Base], action: str
) -> None:
    upstream = Upstream()
    asked, reply = await run(policy("open"), "enforce", upstream)  # type: ignore[arg-type]
    assert (reply.status, len(upstream.bodies)) == (200, 1)
    assert actions(asked) == [("enforce", action)]


@pytest.mark.parametrize(("policy", "action"), [(Crashes, "crashed"), (Hangs, "timed_out")])
async def test_a_broken_policy_that_fails_closed_refuses_the_call(
    policy: type[Base], action: str
) -> None:
    upstream = Upstream()
    with pytest.raises(PolicyFailed):
        await run(policy("closed"), "enforce", upstream)  # type: ignore[arg-type]
    assert upstream.bodies == []


async def test_a_policy_that_fails_closed_lets_calls_pass_while_it_is_observed() -> None:
    _, reply = await run(Hangs("closed"), "observe", Upstream())
    assert reply.status == 200


async def test_a_crash_after_the_answer_does_not_ask_the_upstream_twice() -> None:
    upstream = Upstream()
    asked, reply = await run(CrashesAfter("open"), "enforce", upstream)
    assert (reply.status, len(upstream.bodies)) == (200, 1)
    assert actions(asked) == [("enforce", "crashed")]


async def test_a_slow_upstream_is_not_the_policys_fault() -> None:
    asked, reply = await run(Rewrites("closed"), "enforce", Upstream(delay=0.4))
    assert reply.status == 200
    assert actions(asked) == [("enforce", "modify")]


async def test_an_upstream_error_passes_through_a_policy_untouched() -> None:
    with pytest.raises(UpstreamFailed):
        await run(Rewrites("open"), "enforce", Upstream(error=UpstreamFailed("gone", sent=True)))
