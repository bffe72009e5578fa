"""Where the microseconds of a call go: each stage on its own, best of several rounds.

usage: python bench/stages.py [--json FILE]

A 1.1 kB chat request with two messages and a 0.7 kB answer, as in bench/gateway.py. Everything runs
in this process and thread, without sockets: what the kernel, uvicorn and the upstream client take
is the difference to what bench/gateway.py measures. Each stage runs hot, one after another; inside
a server the same code is slower, since caches are cold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import pathlib
import sys
import tempfile
import timeit
from collections.abc import Callable
from typing import Any

from tocsin.config.model import Config, StoreSettings
from tocsin.core.call import Call, Draft, Headers, Principal
from tocsin.core.clock import SystemClock
from tocsin.core.ids import new_id
from tocsin.core.interaction import Attempt, Entry, Interaction, Usage
from tocsin.core.messages import chain, content_hash, link, parse_message
from tocsin.core.policy import Reply
from tocsin.core.wire import parse_request, reader_for
from tocsin.gateway.auth import Keyring
from tocsin.gateway.hosts import HostCheck
from tocsin.providers import Pricer
from tocsin.runtime import records
from tocsin.runtime.identity import IdentityPolicy
from tocsin.store import open_store
from tocsin.store.journal import OPEN, Journal

QUESTION = "Section 1: orders that left the warehouse can be returned within 30 days. " * 12
ANSWER = "the gateway keeps every trace and fails over quickly " * 8
BODY = json.dumps(
    {
        "model": "gpt-4o-mini",
        "messages": [
            {"role": "system", "content": "You are a careful support assistant."},
            {"role": "user", "content": QUESTION},
        ],
        "temperature": 0.2,
        "max_tokens": 256,
    }
).encode()
REPLY = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-mini",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": ANSWER},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 180, "completion_tokens": 90, "total_tokens": 270},
    }
).encode()
HEADERS: Headers = (
    (b"host", b"127.0.0.1:4600"),
    (b"content-type", b"application/json"),
    (b"user-agent", b"OpenAI/Python 3"),
    (b"accept", b"application/json"),
)


def timed(work: Callable[[], object], count: int = 5000) -> float:
    """Microseconds of one ``work``, the best of seven rounds."""
    return min(timeit.repeat(work, number=count, repeat=7)) / count * 1e6


def a_call() -> Call:
    parsed = parse_request("openai", "chat", BODY)
    now = SystemClock().now_us()
    return Call(
        id=new_id("call", now),
        source="gateway",
        dialect="openai",
        operation="chat",
        method="POST",
        path="/v1/chat/completions",
        headers=HEADERS,
        body=BODY,
        started_at=now,
        feature="default",
        principal=Principal(key_id="key_1", role="caller"),
        model=parsed.model,
        messages=parsed.messages,
        nodes=chain(parsed.messages),
        params=parsed.params,
        draft=Draft(),
    )


def an_interaction(call: Call, run_id: str, output_node: bytes) -> Interaction:
    attempt = Attempt(
        number=1,
        upstream="main",
        provider="openai",
        model=call.model,
        started_at=call.started_at,
        duration_us=900,
        status=200,
    )
    return Interaction(
        id=call.id,
        source="gateway",
        dialect="openai",
        operation="chat",
        path=call.path,
        started_at=call.started_at,
        duration_us=1000,
        outcome="complete",
        feature="default",
        key_id="key_1",
        run_id=run_id,
        run_source="new",
        request_model="gpt-4o-mini",
        response_model="gpt-4o-mini",
        response_id="chatcmpl-1",
        provider="openai",
        upstream="main",
        status=200,
        finish_reason="stop",
        usage=Usage(input_tokens=180, output_tokens=90, source="reported"),
        attempts=(attempt,),
        input_node=call.nodes[-1].hash,
        output_node=output_node,
        input_messages=2,
        new_messages=2,
        params=content_hash(call.params),
        input_bytes=len(BODY),
        output_bytes=len(REPLY),
    )


def an_entry() -> Entry:
    call = a_call()
    output = parse_message(json.dumps({"role": "assistant", "content": ANSWER}).encode())
    node = link(call.nodes[-1].hash, output.hash)
    interaction = an_interaction(call, new_id("run", call.started_at), node)
    return records.entry(
        interaction,
        messages=call.messages,
        nodes=call.nodes,
        params=call.params,
        body=BODY,
        output=output,
        response=None,
    )


def drive(work: Callable[[], Any]) -> Callable[[], None]:
    """An async step that never waits, as a plain function."""

    def run() -> None:
        step = work()
        try:
            step.send(None)
        except StopIteration:
            return
        raise RuntimeError("the stage waited")

    return run


def serving(folder: pathlib.Path) -> dict[str, float]:
    """Stages in the serving thread."""
    clock = SystemClock()
    store = open_store(StoreSettings(), folder, clock)
    keyring = Keyring(store, b"x" * 32, clock)
    secret = keyring.issue("bench", "caller", actor="bench").secret
    headers = (*HEADERS, (b"authorization", b"Bearer " + secret.encode()))
    asyncio.run(_learn_key(keyring, headers))
    hosts = HostCheck.of(Config())
    policy = IdentityPolicy(lambda nodes, ids: [], clock)
    call, entry = a_call(), an_entry()
    reply = Reply(status=200, headers=[], body=REPLY)
    journal = Journal(folder / "journal")

    async def onward(_: Call) -> Reply:
        return reply

    def read() -> None:
        reader = reader_for("openai", "chat", False)
        reader.feed_body(REPLY)
        parse_message(reader.output_message() or b"{}")

    def learn() -> None:
        policy.learn(call, entry.interaction)

    drive(lambda: policy(call, onward))()
    closed = records.Closed(entry.interaction, entry.output.raw if entry.output else None, None)
    opened = records.opened(call)
    found = {
        "host check": timed(lambda: hosts.check(HEADERS)),
        "authenticate (cached key)": timed(drive(lambda: keyring.authenticate(headers))),
        "parse the request": timed(lambda: parse_request("openai", "chat", BODY)),
        "make the call": timed(a_call) - timed(lambda: parse_request("openai", "chat", BODY)),
        "journal: opened": timed(lambda: _append(journal, records.encode(opened))),
        "identity": timed(drive(lambda: policy(call, onward))),
        "read the answer": timed(read),
        "make the record": timed(lambda: an_interaction(call, "run_1", b"1" * 16)),
        "journal: closed": timed(lambda: _append(journal, records.encode(closed))),
        "identity: learn": timed(learn),
    }
    store.close()
    return found


def _append(journal: Journal, payload: bytes) -> None:
    journal.append(OPEN, payload).settled += 1


async def _learn_key(keyring: Keyring, headers: Headers) -> None:
    await keyring.authenticate(headers)


def writing(folder: pathlib.Path) -> dict[str, float]:
    """Stages in the writer thread, per call."""
    store = open_store(StoreSettings(), folder, SystemClock())
    pricer = Pricer()
    usage = Usage(input_tokens=180, output_tokens=90, source="reported")
    pricer("openai", "gpt-4o-mini", usage, 1)
    found = {"price": timed(lambda: pricer("openai", "gpt-4o-mini", usage, 1))}
    for size in (1, 16, 64, 256):
        rounds = []
        for _ in range(5):
            batches = [[an_entry() for _ in range(size)] for _ in range(max(2, 512 // size))]
            started = timeit.default_timer()
            for batch in batches:
                store.append(batch)
            spent = timeit.default_timer() - started
            rounds.append(spent / (size * len(batches)) * 1e6)
        found[f"store, {size} at a time"] = min(rounds)
    store.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = {
            "serving thread": serving(pathlib.Path(folder) / "a"),
            "writer thread": writing(pathlib.Path(folder) / "b"),
        }
    for thread, stages in result.items():
        print(f"{thread}, microseconds a call")
        for name, spent in stages.items():
            print(f"  {spent:7.2f}  {name}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
