"""A stream that is cut can be gone on with from anywhere, byte for byte, also after a restart."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from responses_world import World, gateway, upstream, words
from tocsin.providers.scripted_server import ScriptedServer, Seen

DONE = "data: [DONE]\n\n"
WORDS = 50


def script(_: Seen) -> Any:
    return words(WORDS)


async def begun(world: World, **more: Any) -> str:
    """A response in the background; its id."""
    made = await world.client().responses.create(model="m", input="Go on.", background=True, **more)
    return str(made.id)


async def text_of(world: World, path: str, **headers: str) -> str:
    async with world.http() as http:
        answer = await http.get(path, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.text


def blocks_of(text: str) -> list[str]:
    """The events of a whole stream, each with its end."""
    assert text.endswith(DONE)
    return [block + "\n\n" for block in text.removesuffix(DONE).split("\n\n") if block]


async def test_every_cut_joins_through_every_form(tmp_path: Path) -> None:
    async with gateway(tmp_path, script) as (world, server):
        name = await begun(world)
        path = f"/responses/{name}?stream=true"
        whole = await text_of(world, path)
        blocks = blocks_of(whole)
        assert len(blocks) >= WORDS + 8
        assert [block.split("\n")[0] for block in blocks] == [
            f"id: {number}" for number in range(len(blocks))
        ]
        for number in range(len(blocks)):
            before, rest = "".join(blocks[: number + 1]), "".join(blocks[number + 1 :]) + DONE
            assert await text_of(world, f"{path}&starting_after={number}") == rest
            assert await text_of(world, path, **{"last-event-id": str(number)}) == rest
            bare = await text_of(world, f"/responses/{name}", **{"last-event-id": str(number)})
            assert before + bare == whole
        assert await text_of(world, path) == whole
        await world.stop()
        await world.start()
        assert await text_of(world, path) == whole
        for number in range(0, len(blocks), 7):
            rest = "".join(blocks[number + 1 :]) + DONE
            assert await text_of(world, f"{path}&starting_after={number}") == rest
        assert len(server.seen) == 1


async def test_the_client_goes_on_from_every_event(tmp_path: Path) -> None:
    async with gateway(tmp_path, script) as (world, _):
        client = world.client()
        stream = await client.responses.create(
            model="m", input="Go on.", background=True, stream=True
        )
        whole = [event async for event in stream]
        name = whole[0].response.id  # type: ignore[union-attr]
        assert [event.type for event in whole[:3]] == [
            "response.created",
            "response.queued",
            "response.in_progress",
        ]
        for number in range(len(whole)):
            again = await client.responses.retrieve(name, stream=True, starting_after=number)
            assert [event async for event in again] == whole[number + 1 :]
            if number % 5:
                continue
            # The helper asks from the beginning and filters on its own.
            async with client.responses.stream(response_id=name, starting_after=number) as filtered:
                numbers = [event.sequence_number async for event in filtered]
                final = await filtered.get_final_response()
            assert numbers == list(range(number + 1, len(whole)))
            assert final.output_text == " ".join(f"w{n}" for n in range(WORDS))


async def test_a_client_that_leaves_after_every_event_misses_none(tmp_path: Path) -> None:
    async with gateway(tmp_path, lambda _: words(40, gap_s=0.01)) as (world, server):
        name = await begun(world)
        parts: list[str] = []
        forms = 0
        while not (parts and "response.completed" in parts[-1]):
            after, headers = len(parts) - 1, {}
            path = f"/responses/{name}?stream=true"
            if forms % 3 == 0:
                path += f"&starting_after={after}"
            elif forms % 3 == 1 and parts:
                headers = {"last-event-id": str(after)}
            skip = 0 if headers or forms % 3 == 0 else len(parts)
            forms += 1
            async with world.http() as http, http.stream("GET", path, headers=headers) as answer:
                seen = ""
                async for piece in answer.aiter_text():
                    seen += piece
                    found = seen.split("\n\n")[:-1][skip:]
                    if found:
                        parts += [block + "\n\n" for block in found[:1]]
                        break
        whole = await text_of(world, f"/responses/{name}?stream=true")
        assert "".join(parts) + DONE == whole
        assert len(server.seen) == 1


async def test_a_foreground_stream_goes_on_without_its_caller(tmp_path: Path) -> None:
    async with gateway(tmp_path, lambda _: words(20, gap_s=0.02)) as (world, server):
        client = world.client()
        stream = await client.responses.create(model="m", input="Go on.", stream=True)
        first = await anext(aiter(stream))
        await stream.close()
        name = first.response.id  # type: ignore[union-attr]
        again = await client.responses.retrieve(name, stream=True, starting_after=0)
        last = [event async for event in again][-1]
    assert last.type == "response.completed"
    assert not server.seen[0].left


async def test_a_foreground_answer_that_nobody_comes_for_is_cut(tmp_path: Path) -> None:
    settings = {"linger_s": 0.1}
    slow = words(200, gap_s=0.05)
    async with gateway(tmp_path, lambda _: slow, operations=settings) as (world, server):
        client = world.client()
        stream = await client.responses.create(model="m", input="Go on.", stream=True)
        name = (await anext(aiter(stream))).response.id  # type: ignore[union-attr]
        await stream.close()
        await server.until(lambda: server.seen[0].left)
        operation = await world.app.operations.ended(name, 5)
        kept = await client.responses.retrieve(name)
    assert operation.outcome == "cancelled"
    assert kept.status == "cancelled"


async def test_a_response_is_cancelled(tmp_path: Path) -> None:
    async with gateway(tmp_path, lambda _: words(200, gap_s=0.05)) as (world, server):
        client = world.client()
        stream = await client.responses.create(
            model="m", input="Go on.", background=True, stream=True
        )
        events = aiter(stream)
        name = (await anext(events)).response.id  # type: ignore[union-attr]
        async for event in events:
            if event.type == "response.output_text.delta":
                break
        standing = await client.responses.retrieve(name)
        cut = await client.responses.cancel(name)
        again = await client.responses.cancel(name)
        rest = [event async for event in events]
        await server.until(lambda: server.seen[0].left)
    assert standing.status == "in_progress"
    assert standing.output_text.startswith("w0")
    assert (cut.status, again) == ("cancelled", cut)
    assert cut.output_text.startswith(standing.output_text)
    assert rest[-1].type == "response.incomplete"
    assert rest[-1].response.status == "cancelled"
    assert cut.model_extra is not None
    assert cut.model_extra["tocsin"]["outcome"] == "cancelled"


async def test_what_ran_when_tocsin_stopped_is_unknown_and_what_did_not_is_done(
    tmp_path: Path,
) -> None:
    def slow_first(seen: Seen) -> Any:
        return words(100, gap_s=0.2) if b"first" in seen.body else "done"

    settings = {"concurrency": 1}
    async with gateway(tmp_path, slow_first, operations=settings) as (world, server):
        client = world.client()
        make = client.responses.create
        first = await make(model="m", input="first", background=True)
        second = await make(model="m", input="second", background=True)
        await server.until(lambda: len(server.seen) == 1)
        before = await first_events(world, first.id, 6)
        await world.stop()
        await world.start()
        client = world.client()
        one = await world.app.operations.ended(first.id, 10)
        two = await world.app.operations.ended(second.id, 10)
        whole = await text_of(world, f"/responses/{first.id}?stream=true")
        unknown = await client.responses.retrieve(first.id)
        done = await client.responses.retrieve(second.id)
    assert (one.outcome, two.outcome) == ("unknown", "complete")
    assert whole.startswith(before)
    assert blocks_of(whole)[-1].split("\n")[1] == "event: response.failed"
    assert (unknown.status, done.output_text) == ("failed", "done")
    assert unknown.output_text.startswith("w0")
    assert unknown.model_extra is not None
    assert unknown.model_extra["tocsin"]["outcome"] == "unknown"
    assert len(server.seen) == 2


async def first_events(world: World, name: str, count: int) -> str:
    """The bytes of the first events, as they come."""
    path = f"/responses/{name}?stream=true"
    async with world.http() as http, http.stream("GET", path) as answer:
        seen = ""
        async for piece in answer.aiter_text():
            seen += piece
            blocks = seen.split("\n\n")
            if len(blocks) > count:
                return "".join(block + "\n\n" for block in blocks[:count])
    raise AssertionError("the stream ended before")


@pytest.mark.parametrize("policy", ["report", "retry"])
async def test_a_request_without_a_word_of_an_answer_may_be_asked_again(
    tmp_path: Path, policy: str
) -> None:
    hanging = True

    def hang_once(_: Seen) -> Any:
        return words(3, hang=hanging)

    settings = {"on_unknown": policy}
    async with gateway(tmp_path, hang_once, operations=settings) as (world, server):
        name = await begun(world)
        await server.until(lambda: len(server.seen) == 1)
        await world.stop()
        hanging = False
        await world.start()
        operation = await world.app.operations.ended(name, 10)
        blocks = blocks_of(await text_of(world, f"/responses/{name}?stream=true"))
        assert len(server.seen) == (2 if policy == "retry" else 1)
    assert operation.outcome == ("complete" if policy == "retry" else "unknown")
    assert operation.restarts == 1
    assert [block.split("\n")[0] for block in blocks] == [f"id: {n}" for n in range(len(blocks))]
    assert "event: response.in_progress" in blocks[2]
    assert sum("event: response.in_progress" in block for block in blocks) == 1


async def test_a_key_that_only_the_caller_had_is_gone_with_the_process(tmp_path: Path) -> None:
    def bare(server: ScriptedServer) -> dict[str, Any]:
        return {"main": upstream(server, api_key_env="")}

    settings = {"concurrency": 1, "on_unknown": "retry"}
    async with gateway(
        tmp_path, lambda _: words(2, hang=True), upstreams=bare, operations=settings
    ) as (world, server):
        make = world.client("sk-callers-own").responses.create
        first = await make(model="m", input="first", background=True)
        second = await make(model="m", input="second", background=True)
        await server.until(lambda: len(server.seen) == 1)
        assert server.seen[0].headers["authorization"] == "Bearer sk-callers-own"
        await world.stop()
        await world.start()
        one = await world.app.operations.ended(first.id, 10)
        two = await world.app.operations.ended(second.id, 10)
        stored = await asyncio.to_thread(everything_in, tmp_path)
    assert (one.outcome, two.outcome) == ("unknown", "error")
    assert two.error_type == "credential_gone"
    assert b"sk-callers-own" not in stored
    assert len(server.seen) == 1


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def test_where_a_client_cannot_go_on_from(tmp_path: Path) -> None:
    async with gateway(tmp_path, script) as (world, _):
        name = await begun(world)
        await world.app.operations.ended(name, 5)
        async with world.http() as http:
            for query in ("stream=true&starting_after=x", "starting_after=3"):
                answer = await http.get(f"/responses/{name}?{query}")
                assert answer.status_code == 400
                assert answer.json()["error"]["param"] == "starting_after"
            end = await http.get(f"/responses/{name}?stream=true&starting_after=100000")
        assert end.text == DONE


async def test_the_first_byte_does_not_wait_for_the_model(tmp_path: Path) -> None:
    async with gateway(tmp_path, lambda _: words(2, delay_s=2)) as (world, _):
        loop = asyncio.get_running_loop()
        for background in (False, True):
            began = loop.time()
            stream = await world.client().responses.create(
                model="m", input="Hi", stream=True, background=background
            )
            first = await anext(aiter(stream))
            assert first.type == "response.created"
            assert loop.time() - began < 1
            await stream.close()


async def test_on_either_store(tmp_path: Path, store_url: str) -> None:
    async with gateway(tmp_path, script, store={"url": store_url}) as (world, server):
        client = world.client()
        conversation = await client.conversations.create()
        name = await begun(world, conversation=conversation.id)
        whole = await text_of(world, f"/responses/{name}?stream=true")
        assert whole.endswith(DONE)
        await world.stop()
        await world.start()
        assert await text_of(world, f"/responses/{name}?stream=true") == whole
        blocks = blocks_of(whole)
        rest = await text_of(world, f"/responses/{name}", **{"last-event-id": "20"})
        assert "".join(blocks[:21]) + rest == whole
        items = await world.client().conversations.items.list(conversation.id)
        assert len(items.data) == 2
        assert len(server.seen) == 1
