"""Retries, fallback, balancing and cool-down, with scripted upstreams and a scripted clock."""

import asyncio
import json
import random
from collections import Counter
from typing import Any

import pytest

from provider_calls import make_call
from tocsin.config.model import Config
from tocsin.core.call import Call
from tocsin.core.errors import BadRequest, Unavailable, UpstreamFailed
from tocsin.core.policy import Reply
from tocsin.core.wire import reader_for
from tocsin.providers.routing import MAX_RETRY_AFTER_S, Router
from tocsin.providers.scripted import ScriptedProvider, Step, error, text
from tocsin.testing import FakeClock


class World:
    """A router over scripted upstreams, whose pauses take no time and are noted."""

    def __init__(self, config: dict[str, Any], **scripts: Any) -> None:
        self.clock = FakeClock()
        self.pauses: list[float] = []
        self.providers = {
            name: script if isinstance(script, ScriptedProvider) else ScriptedProvider(script)
            for name, script in scripts.items()
        }
        for name, provider in self.providers.items():
            provider.name = name
        settings = {"retries": 0, **config.pop("defaults", {})}
        upstreams = config.pop("upstreams", {})
        self.config = Config.model_validate(
            {
                "upstreams": {
                    name: {"kind": "scripted", **settings, **upstreams.get(name, {})}
                    for name in scripts
                },
                **config,
            }
        )
        self.router = Router(
            self.config, self.providers, self.clock, random.Random(7), sleep=self._sleep
        )

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.clock.advance(seconds)

    async def send(self, call: Call | None = None) -> Reply:
        return await self.router(call or make_call())


def two_tiers(**more: Any) -> dict[str, Any]:
    targets = [{"upstream": "a"}, {"upstream": "b", "tier": 1}]
    return {"features": {"default": {"targets": targets}}, **more}


async def said(reply: Reply) -> str:
    """What the model said, of a whole or a streamed reply."""
    reader = reader_for("openai", "chat", reply.chunks is not None)
    if reply.chunks is None:
        reader.feed_body(reply.body or b"")
    else:
        async for chunk in reply.chunks:
            reader.feed(chunk)
    return reader.text


def tries(call: Call) -> list[tuple[str, str, int | None]]:
    return [(a.upstream, a.reason, a.status) for a in call.draft.attempts]


async def test_one_upstream_that_answers_is_one_attempt() -> None:
    world = World({}, a="fine")
    call = make_call()
    reply = await world.send(call)
    assert await said(reply) == "fine"
    assert tries(call) == [("a", "first", 200)]
    assert reply.attempt == call.draft.attempts[0]


async def test_a_failure_is_retried_after_a_jittered_pause_that_doubles() -> None:
    world = World(
        {"defaults": {"retries": 3, "backoff_s": 1.0}}, a=[error(500), error(503), error(500), "ok"]
    )
    call = make_call()
    assert await said(await world.send(call)) == "ok"
    assert [reason for _, reason, _ in tries(call)] == ["first", "retry", "retry", "retry"]
    assert all(pause <= 2**n for n, pause in enumerate(world.pauses))
    assert len(set(world.pauses)) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
async def test_an_error_that_is_the_callers_own_is_passed_on_at_once(status: int) -> None:
    world = World(two_tiers(defaults={"retries": 5}), a=[error(status, "yours")], b="unused")
    reply = await world.send()
    assert reply.status == status
    assert len(world.providers["a"].calls) == 1
    assert world.providers["b"].calls == []


async def test_retry_after_wins_over_the_backoff() -> None:
    world = World({"defaults": {"retries": 1}}, a=[error(429, retry_after="7"), "ok"])
    assert (await world.send()).status == 200
    assert world.pauses == [7.0]


async def test_retry_after_ms_and_dates_are_understood() -> None:
    date = "Tue, 14 Nov 2023 22:13:25 GMT"  # five seconds after the scripted clock's start
    for header, pause in (({"retry_after_ms": "250"}, 0.25), ({"retry_after": date}, 5.0)):
        world = World({"defaults": {"retries": 1}}, a=[error(429, **header), "ok"])
        await world.send()
        assert world.pauses == [pause]


async def test_a_retry_after_that_is_too_long_is_the_callers_to_wait() -> None:
    world = World(
        {"defaults": {"retries": 3}}, a=[error(429, retry_after=str(MAX_RETRY_AFTER_S + 1)), "ok"]
    )
    reply = await world.send()
    assert reply.status == 429
    assert reply.header(b"retry-after") == b"31.0"
    assert world.pauses == []


async def test_with_another_upstream_at_hand_a_long_retry_after_is_not_waited_for() -> None:
    world = World(
        two_tiers(defaults={"retries": 3}), a=[error(429, retry_after="20"), "late"], b="now"
    )
    assert await said(await world.send()) == "now"
    assert world.pauses == []


async def test_an_upstream_that_says_not_to_retry_is_not_asked_again() -> None:
    world = World({"defaults": {"retries": 3}}, a=[error(503, x_should_retry="false"), "ok"])
    assert (await world.send()).status == 503


async def test_the_next_tier_takes_over_when_retries_are_used_up() -> None:
    world = World(two_tiers(defaults={"retries": 1}), a=[error(500)], b="from b")
    call = make_call()
    assert await said(await world.send(call)) == "from b"
    assert tries(call) == [("a", "first", 500), ("a", "retry", 500), ("b", "fallback", 200)]
    assert world.router.stats.of("a").retries == 1
    assert world.router.stats.of("b").fallbacks == 1


async def test_an_upstream_without_an_answer_is_replaced() -> None:
    world = World(two_tiers(), a=[Step(fail=True)], b="from b")
    call = make_call()
    assert await said(await world.send(call)) == "from b"
    assert "fails by its script" in (call.draft.attempts[0].error or "")


async def test_the_last_error_of_an_upstream_is_passed_on_as_it_came() -> None:
    world = World(
        two_tiers(),
        a=[Step(fail=True)],
        b=[Step(status=529, body=b'{"odd":1}', headers=((b"x-request-id", b"r1"),))],
    )
    call = make_call()
    reply = await world.send(call)
    assert (reply.status, reply.body) == (529, b'{"odd":1}')
    assert call.draft.attempts[-1].request_id == "r1"


async def test_without_any_answer_the_error_lists_what_was_tried() -> None:
    world = World(two_tiers(), a=[Step(fail=True)], b=[Step(fail=True)])
    with pytest.raises(Unavailable, match=r"Tried a: .*; b: "):
        await world.send()
    alone = World({}, a=[Step(fail=True, sent=False)])
    with pytest.raises(UpstreamFailed) as caught:
        await alone.send()
    assert not caught.value.sent


async def test_a_stream_that_dies_before_its_first_byte_falls_back() -> None:
    world = World(two_tiers(), a=[Step(cut_after=0)], b="from b")
    call = make_call(stream=True)
    assert await said(await world.send(call)) == "from b"
    assert [a.upstream for a in call.draft.attempts] == ["a", "b"]


async def test_a_stream_that_begins_with_an_error_falls_back() -> None:
    broken = Step(chunks=(b'data: {"error":{"message":"overloaded"}}\n\n',))
    world = World(two_tiers(), a=[broken], b="from b")
    assert await said(await world.send(make_call(stream=True))) == "from b"
    alone = World({}, a=[broken])
    reply = await alone.send(make_call(stream=True))
    assert reply.chunks is not None
    assert b"overloaded" in b"".join([chunk async for chunk in reply.chunks])


async def test_a_stream_that_dies_after_its_first_byte_is_not_replaced() -> None:
    world = World(two_tiers(), a=[Step(answer=text("one two three").answer, cut_after=300)], b="b")
    call = make_call(stream=True)
    reply = await world.send(call)
    with pytest.raises(UpstreamFailed):
        await said(reply)
    assert [a.upstream for a in call.draft.attempts] == ["a"]
    assert "broke off" in (call.draft.attempts[0].error or "")
    assert world.router.stats.of("a").broken_streams == 1


async def test_the_attempt_of_a_stream_lasts_until_its_end() -> None:
    world = World({}, a="one two")
    call = make_call(stream=True)
    reply = await world.send(call)
    world.clock.advance(3)
    await said(reply)
    attempt = call.draft.attempts[0]
    assert (attempt.first_chunk_us, attempt.duration_us) == (0, 3_000_000)
    assert len(call.draft.attempts) == 1


async def test_a_cancelled_call_has_its_attempt_recorded_once() -> None:
    world = World(two_tiers(), a=[Step(hang=True)], b="b")
    call = make_call()
    task = asyncio.create_task(world.send(call))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [(a.upstream, a.error) for a in call.draft.attempts] == [
        ("a", "cancelled: the caller left before the end")
    ]
    assert world.providers["a"].left == [call]


async def test_a_caller_that_leaves_a_stream_is_not_the_upstreams_failure() -> None:
    world = World({"defaults": {"cooldown_failures": 1}}, a="one two three")
    call = make_call(stream=True)
    reply = await world.send(call)
    assert reply.chunks is not None
    await reply.chunks.aclose()  # type: ignore[attr-defined]
    assert world.providers["a"].left == [call]
    assert "caller left" in (call.draft.attempts[0].error or "")
    assert world.router.stats.of("a").failures == 0


async def test_a_provider_that_crashes_is_replaced_like_one_that_is_down() -> None:
    def crash(_: Call) -> Step:
        raise RuntimeError("bug")

    world = World(two_tiers(), a=crash, b="from b")
    assert await said(await world.send()) == "from b"


async def test_a_failing_upstream_is_left_out_until_its_rest_is_over_then_probed_once() -> None:
    world = World(
        two_tiers(defaults={"cooldown_failures": 2, "cooldown_s": 30}),
        a=[error(500), error(500), Step(delay_s=0.01, answer=text("well again").answer)],
        b="from b",
    )
    for _ in range(5):
        assert await said(await world.send()) == "from b"
    assert len(world.providers["a"].calls) == 2
    world.clock.advance(30)
    first, second = await asyncio.gather(world.send(), world.send())
    assert {await said(first), await said(second)} == {"well again", "from b"}
    assert len(world.providers["a"].calls) == 3
    assert await said(await world.send()) == "well again"


async def test_a_probe_that_fails_begins_another_rest() -> None:
    world = World(
        two_tiers(defaults={"cooldown_failures": 1, "cooldown_s": 10, "retries": 2}),
        a=[error(500)],
        b="from b",
    )
    await world.send()
    world.clock.advance(10)
    await world.send()
    await world.send()
    assert len(world.providers["a"].calls) == 2


async def test_a_probe_whose_caller_leaves_frees_the_next_one() -> None:
    world = World(
        two_tiers(defaults={"cooldown_failures": 1, "cooldown_s": 10}),
        a=[error(500), Step(hang=True), "well"],
        b="from b",
    )
    await world.send()
    world.clock.advance(10)
    task = asyncio.create_task(world.send())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await said(await world.send()) == "well"


async def test_when_every_upstream_rests_it_is_better_to_try_than_to_refuse() -> None:
    world = World(
        two_tiers(defaults={"cooldown_failures": 1, "retries": 2}),
        a=[error(500), "back"],
        b=[error(500)],
    )
    await world.send()
    assert await said(await world.send()) == "back"


async def test_the_only_upstream_is_never_left_out_but_no_call_insists() -> None:
    world = World(
        {"defaults": {"cooldown_failures": 2, "retries": 2}}, a=[error(500), error(500), error(503)]
    )
    await world.send()
    assert len(world.providers["a"].calls) == 2
    assert (await world.send()).status == 503
    assert len(world.providers["a"].calls) == 3


async def test_traffic_is_shared_by_weight() -> None:
    targets = [
        {"upstream": "a", "weight": 3},
        {"upstream": "b", "weight": 1},
        {"upstream": "c", "weight": 0},
    ]
    world = World({"features": {"default": {"targets": targets}}}, a="a", b="b", c="c")
    count = Counter([await said(await world.send()) for _ in range(800)])
    assert count["c"] == 0
    assert 540 < count["a"] < 660


async def test_the_rest_of_a_tier_comes_before_the_next_tier() -> None:
    targets = [
        {"upstream": "a"},
        {"upstream": "b", "weight": 0.001},
        {"upstream": "c", "tier": 1},
    ]
    world = World({"features": {"default": {"targets": targets}}}, a=[error(500)], b="b", c="c")
    assert await said(await world.send()) == "b"


async def test_a_target_may_name_another_model() -> None:
    targets = [{"upstream": "a"}, {"upstream": "b", "tier": 1, "model": "other"}]
    world = World({"features": {"default": {"targets": targets}}}, a=[error(500)], b="b")
    call = make_call(temperature=0.5)
    await world.send(call)
    sent = world.providers["b"].calls[0]
    assert json.loads(sent.body) == {**json.loads(call.body), "model": "other"}
    assert call.draft.attempts[-1].model == "other"
    assert call.draft.attempts[0].model == "gpt-4o"


async def test_without_targets_the_first_upstream_that_serves_the_model_is_taken() -> None:
    world = World(
        {"upstreams": {"a": {"models": ["claude-*"]}, "b": {"models": ["gpt-*", "o?"]}}},
        a="a",
        b="b",
    )
    assert await said(await world.send(make_call(model="gpt-4o"))) == "b"
    assert await said(await world.send(make_call(model="claude-x"))) == "a"
    with pytest.raises(BadRequest, match=r"'llama'.*a: claude-\*; b: gpt-\*, o\?") as caught:
        await world.send(make_call(model="llama"))
    assert caught.value.status == 404


async def test_a_dialect_that_no_upstream_speaks_is_refused_by_name() -> None:
    world = World({}, a="a")
    world.providers["a"].dialects = frozenset({"openai"})
    with pytest.raises(BadRequest, match=r"anthropic dialect.*'a' \(openai\)"):
        await world.send(make_call(dialect="anthropic"))
    with pytest.raises(Unavailable, match="No upstream is configured"):
        await World({}).send()


async def test_what_may_create_something_is_not_sent_twice() -> None:
    upload = {"operation": "other", "path": "/v1/files"}
    world = World(two_tiers(defaults={"retries": 3}), a=[error(500), "ok"], b="b")
    assert (await world.send(make_call(**upload))).status == 500
    unsent = World({"defaults": {"retries": 3}}, a=[Step(fail=True, sent=False), "ok"])
    assert (await unsent.send(make_call(**upload))).status == 200
    sent = World({"defaults": {"retries": 3}}, a=[Step(fail=True, sent=True), "ok"])
    with pytest.raises(UpstreamFailed):
        await sent.send(make_call(**upload))
    read = World({"defaults": {"retries": 3}}, a=[error(500), "ok"])
    assert (await read.send(make_call(**upload, method="GET"))).status == 200


async def test_a_time_limit_goes_to_another_upstream_and_not_to_the_same() -> None:
    class Slow(ScriptedProvider):
        async def send(self, call: Call) -> Reply:
            self.calls.append(call)
            raise UpstreamFailed("too slow", sent=True, timeout=True)

    slow = Slow("unused")
    world = World(two_tiers(defaults={"retries": 3}), a=slow, b="b")
    assert await said(await world.send()) == "b"
    assert len(slow.calls) == 1
