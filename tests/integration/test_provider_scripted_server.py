"""The scripted server against the official clients, unmodified: what it says is the real wire."""

import json

import anthropic
import openai
import pytest

from tocsin.core.interaction import Usage
from tocsin.core.messages import ToolCall
from tocsin.core.wire.render import Answer
from tocsin.providers.playing import Step
from tocsin.providers.scripted_server import ScriptedServer

ANSWER = Answer(
    text="It is sunny.",
    tool_calls=(ToolCall(id="c1", name="look", arguments='{"at": "Oslo"}'),),
    usage=Usage(input_tokens=20, output_tokens=5, cache_read_tokens=8, source="reported"),
)
ASK = [{"role": "user", "content": "weather?"}]


async def test_the_openai_client_reads_whole_and_streamed_answers() -> None:
    async with ScriptedServer([Step(answer=ANSWER)]) as server:
        client = openai.AsyncOpenAI(base_url=server.url, api_key="x", max_retries=0)
        whole = await client.chat.completions.create(model="m", messages=ASK)  # type: ignore[arg-type]
        assert whole.choices[0].message.content == "It is sunny."
        assert whole.choices[0].finish_reason == "tool_calls"
        assert whole.usage is not None
        assert whole.usage.prompt_tokens == 20
        async with client.chat.completions.stream(model="m", messages=ASK) as stream:  # type: ignore[arg-type]
            final = await stream.get_final_completion()
        assert final.choices[0].message.content == "It is sunny."
        assert final.choices[0].message.tool_calls is not None
        assert json.loads(final.choices[0].message.tool_calls[0].function.arguments) == {
            "at": "Oslo"
        }
        text = await client.completions.create(model="m", prompt="x")
        assert text.choices[0].text == "It is sunny."
        vectors = await client.embeddings.create(model="m", input="x")
        assert len(vectors.data[0].embedding) == 3
        assert [model.id async for model in client.models.list()] == ["scripted-model"]
        await client.close()


async def test_the_anthropic_client_reads_whole_and_streamed_answers() -> None:
    async with ScriptedServer([Step(answer=ANSWER)]) as server:
        base = server.url.removesuffix("/v1")
        client = anthropic.AsyncAnthropic(base_url=base, api_key="x", max_retries=0)
        whole = await client.messages.create(model="m", max_tokens=9, messages=ASK)  # type: ignore[arg-type]
        assert [block.type for block in whole.content] == ["text", "tool_use"]
        assert whole.usage.input_tokens == 12
        assert whole.usage.cache_read_input_tokens == 8
        async with client.messages.stream(model="m", max_tokens=9, messages=ASK) as stream:  # type: ignore[arg-type]
            final = await stream.get_final_message()
        assert final.stop_reason == "tool_use"
        assert final.content[1].input == {"at": "Oslo"}  # type: ignore[union-attr]
        counted = await client.messages.count_tokens(model="m", messages=ASK)  # type: ignore[arg-type]
        assert counted.input_tokens == 20
        await client.close()


async def test_errors_reach_each_client_in_its_own_words() -> None:
    async with ScriptedServer([Step(status=429, answer=Answer(text="slow down"))]) as server:
        client = openai.AsyncOpenAI(base_url=server.url, api_key="x", max_retries=0)
        with pytest.raises(openai.RateLimitError, match="slow down"):
            await client.chat.completions.create(model="m", messages=ASK)  # type: ignore[arg-type]
        other = anthropic.AsyncAnthropic(
            base_url=server.url.removesuffix("/v1"), api_key="x", max_retries=0
        )
        with pytest.raises(anthropic.RateLimitError, match="slow down"):
            await other.messages.create(model="m", max_tokens=9, messages=ASK)  # type: ignore[arg-type]
        await client.close()
        await other.close()


async def test_requests_on_one_connection_are_seen_in_order_with_their_bodies() -> None:
    async with ScriptedServer(lambda seen: f"to {json.loads(seen.body)['n']}") as server:
        client = openai.AsyncOpenAI(base_url=server.url, api_key="x", max_retries=0)
        for number in range(3):
            reply = await client.chat.completions.create(
                model="m",
                messages=ASK,
                extra_body={"n": number},  # type: ignore[arg-type]
            )
            assert reply.choices[0].message.content == f"to {number}"
        assert server.connections == 1
        assert all(seen.answered and not seen.left for seen in server.seen)
        await client.close()
