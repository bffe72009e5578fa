"""The real command from the outside: the first byte, a cancel that names what was done, webhooks,
the same request twice, and what another key can see of all that."""

import asyncio
import base64
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest

from acceptance.tocsin_command import json_of, output_of
from responses_world import words
from support.packages import offer
from support.process import Tocsin
from support.receiver import Receiver
from support.talking import ask, until
from tocsin.providers.scripted_server import ScriptedServer

CONFIG = """
[operations]
owner_timeout_s = 2

[upstreams.main]
base_url = "{url}"
api_key_env = "UPSTREAM_KEY"
"""
KEY = {"UPSTREAM_KEY": "sk-upstream"}
SHOP = """
import asyncio
from tocsin.core.domain import Domain
from tocsin.core.operations import Ending, Kind, NotDone

async def run(work):
    async def charge(key):
        return {"receipt": key}

    async def fails(key):
        raise NotDone("the card was refused")

    async def hangs(key):
        await asyncio.sleep(3600)

    for cents in (100, 200):
        await work.effect("charge", {"cents": cents}, charge)
    try:
        await work.effect("charge", {"cents": 300}, fails)
    except NotDone:
        pass
    await work.step("think", think)
    await work.progress(0.5, "sending")
    await work.effect("send", {"to": "ann"}, hangs)
    return Ending(outcome="complete")

async def think():
    return "fine"

ORDER = Kind(name="order", summary="Sells.", run=run)
DOMAIN = Domain(name="shop", summary="Sells.", kinds=(ORDER,))
"""


def client_of(tocsin: Tocsin, key: str = "none", **more: Any) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{tocsin.url}/v1", api_key=key, **{"max_retries": 0, "timeout": 20, **more}
    )


# -- the first byte --


async def test_the_first_event_of_any_run_comes_within_a_second(tmp_path: Path) -> None:
    """Also of one that waits for a place: there is one for work in the background."""
    config = CONFIG.replace("owner_timeout_s", "concurrency = 1\nowner_timeout_s")
    async with ScriptedServer(lambda _: words(3, delay_s=2)) as server:
        with Tocsin(tmp_path, config.format(url=server.url), env=KEY) as tocsin:
            await tocsin.ready()
            await asyncio.to_thread(first_events, tocsin)
        assert len(server.seen) == 5


def first_events(tocsin: Tocsin) -> None:
    """Begin runs of each form; each says something long before its model does."""
    client = client_of(tocsin)
    talk = {"conversation": client.conversations.create().id}
    for more in ({}, {"background": True}, {"background": True}, talk):
        began = time.monotonic()
        stream: Any = client.responses.create(model="m", input="Hi", stream=True, **more)
        assert next(stream).type == "response.created"
        assert time.monotonic() - began < 1, more
        stream.close()
    began = time.monotonic()
    body = {"kind": "batch", "input": {"requests": [{"model": "m", "input": "Hi"}]}}
    key = tocsin.admin_key()
    _, made = ask(f"{tocsin.url}/api/operations", key, body)
    _, events = ask(f"{tocsin.url}/api/operations/{made['id']}/events", key)
    assert events["rows"][0]["type"] == "operation.created"
    assert not events["ended"]
    assert time.monotonic() - began < 1
    assert ask(f"{tocsin.url}/api/operations/{made['id']}/result?wait=20", key)[1]["result"]


# -- cancel --


@pytest.mark.slow
async def test_a_cancel_names_every_side_effect(tmp_path: Path) -> None:
    env = {**KEY, "PYTHONPATH": str(offer(tmp_path / "site", SHOP))}
    async with ScriptedServer() as server:
        with Tocsin(tmp_path, CONFIG.format(url=server.url), env=env) as tocsin:
            await tocsin.ready()
            await asyncio.to_thread(cancel_both, tocsin, tmp_path)


def cancel_both(tocsin: Tocsin, folder: Path) -> None:
    """One is cancelled over HTTP, one by the command, in the middle of their last effect."""
    url, key = f"{tocsin.url}/api/operations", tocsin.admin_key()
    first, second = (ask(url, key, {"kind": "order", "input": {}})[1]["id"] for _ in range(2))
    for name in (first, second):
        until(lambda name=name: "send" in names_of(f"{url}/{name}", key))
    # A tool elsewhere changes the world for the same operation.
    intent = {"scope": first, "name": "mail", "arguments": {"to": "ann"}}
    told = ask(f"{tocsin.url}/api/effects", key, intent)[1]
    settled = {"state": "done", "result": 1, "owner": told["owner"]}
    assert ask(f"{tocsin.url}/api/effects/{told['key']}", key, settled)[0] == 200
    status, said = ask(f"{url}/{first}/cancel", key, method="POST")
    assert (status, said["status"], said["outcome"]) == (200, "ended", "cancelled")
    listed = [(s["name"], s["arguments"], s["state"]) for s in said["steps"] if s["effect"]]
    assert sorted(listed, key=str) == sorted(
        [
            ("charge", {"cents": 100}, "done"),
            ("charge", {"cents": 200}, "done"),
            ("charge", {"cents": 300}, "failed"),
            ("mail", {"to": "ann"}, "done"),
            ("send", {"to": "ann"}, "unknown"),
        ],
        key=str,
    )
    assert [s["name"] for s in said["steps"] if not s["effect"]] == ["think"]
    found = json_of("operations", "cancel", second, folder=folder)
    assert found["operation"]["outcome"] == "cancelled"
    assert len(found["effects"]) == 4
    shown = output_of("operations", "cancel", first, folder=folder)
    assert "had ended already" in shown
    assert shown.count("charge") == 3


def names_of(url: str, key: str) -> list[str]:
    return [step["name"] for step in ask(url, key)[1]["steps"]]


# -- webhooks --


@pytest.mark.slow
async def test_a_receiver_that_was_down_is_told_once(tmp_path: Path) -> None:
    secret = "whsec_" + base64.b64encode(bytes(range(32))).decode()
    env = {**KEY, "HOOK_SECRET": secret}
    async with ScriptedServer() as server, Receiver() as receiver:
        hook = f'[webhooks.app]\nurl = "{receiver.url}"\nsecret_env = "HOOK_SECRET"\n'
        await receiver.down()
        with Tocsin(tmp_path, CONFIG.format(url=server.url) + hook, env=env) as tocsin:
            await tocsin.ready()
            client = client_of(tocsin)
            made = await asyncio.to_thread(
                client.responses.create, model="m", input="Hi", background=True
            )
            # Told at once, in vain.
            await asyncio.to_thread(until, lambda: tries(tmp_path)[0]["attempts"] == 1)
            assert tries(tmp_path)[0]["state"] == "pending"
            await receiver.up()
            await asyncio.to_thread(until, lambda: tries(tmp_path)[0]["state"] == "delivered")
            await asyncio.sleep(1)
            (delivery,) = tries(tmp_path)
    (came,) = receiver.came
    assert came.headers["webhook-id"] == delivery["id"]
    assert (delivery["attempts"], delivery["last_status"]) == (2, 204)
    judge = openai.OpenAI(api_key="none", webhook_secret=secret)
    event = judge.webhooks.unwrap(came.body.decode(), came.headers)
    assert (event.type, event.data.id) == ("response.completed", made.id)


def tries(folder: Path) -> list[Any]:
    """What ``tocsin webhooks list`` shows; one that is not there yet was not tried."""
    rows: list[Any] = json_of("webhooks", "list", folder=folder)["deliveries"]
    return rows or [{"attempts": 0, "state": ""}]


# -- the same request twice --


async def test_items_that_are_sent_again_are_added_once(tmp_path: Path) -> None:
    async with ScriptedServer() as server:
        with Tocsin(tmp_path, CONFIG.format(url=server.url), env=KEY) as tocsin:
            await tocsin.ready()
            await asyncio.to_thread(add_twice, tocsin)


def add_twice(tocsin: Tocsin) -> None:
    """By a key of the caller's, and by a time-out of an unchanged client."""
    client = client_of(tocsin)
    item: Any = {"type": "message", "role": "user", "content": "Keep this."}
    keyed = client.conversations.create().id
    headers = {"Idempotency-Key": "items-1"}
    first, again = (
        client.conversations.items.create(keyed, items=[item], extra_headers=headers)
        for _ in range(2)
    )
    assert first == again
    assert len(client.conversations.items.list(keyed).data) == 1
    plain = client.conversations.create().id
    impatient = client_of(tocsin, timeout=0.5, max_retries=2)
    with closing(sqlite3.connect(tocsin.data / "tocsin.db")) as other:
        other.execute("BEGIN IMMEDIATE")  # the store takes its time
        done = in_thread(lambda: impatient.conversations.items.create(plain, items=[item]))
        time.sleep(0.9)
        other.rollback()
    assert len(done().data) == 1
    time.sleep(0.3)
    assert len(client.conversations.items.list(plain).data) == 1


async def test_a_time_out_in_a_conversation_costs_one_answer_of_it(tmp_path: Path) -> None:
    async with ScriptedServer(lambda _: words(3, delay_s=1.5)) as server:
        with Tocsin(tmp_path, CONFIG.format(url=server.url), env=KEY) as tocsin:
            await tocsin.ready()
            talk, said = await asyncio.to_thread(time_out, tocsin)
            rows = json_of("operations", "list", folder=tmp_path)["operations"]
    assert (len(server.seen), len(rows)) == (1, 1)
    assert (rows[0]["calls"], rows[0]["outcome"]) == (1, "complete")
    assert [item.role for item in talk] == ["assistant", "user"], "its items are there once"
    assert said == talk[0].content[0].text


def time_out(tocsin: Tocsin) -> tuple[list[Any], str]:
    """An answer takes three times as long as its client waits; the conversation, and the answer."""
    talk = client_of(tocsin).conversations.create().id
    impatient = client_of(tocsin, timeout=0.6, max_retries=2)
    made = impatient.responses.create(model="m", input="Hi", conversation=talk)
    return list(client_of(tocsin).conversations.items.list(talk)), made.output_text


def in_thread(act: Callable[[], Any]) -> Callable[[], Any]:
    """Begin something; the returned function waits for its result."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(act)
    pool.shutdown(wait=False)
    return future.result


# -- whose it is --


async def test_nothing_of_one_key_is_found_by_another(tmp_path: Path) -> None:
    env = {**KEY, "PYTHONPATH": str(offer(tmp_path / "site", SHOP))}
    config = CONFIG.format(url="{url}") + "\n[auth]\nrequire_key = true\n"
    async with ScriptedServer(lambda _: words(5)) as server:
        with Tocsin(tmp_path, config.format(url=server.url), env=env) as tocsin:
            await tocsin.ready()
            await asyncio.to_thread(look_around, tocsin, tmp_path)
            tocsin.kill()  # an orderly stop would wait for the effect under way
        assert len(server.seen) == 3, "Ann's two, and Ben's own"


def look_around(tocsin: Tocsin, folder: Path) -> None:
    """What Ann has, Ben does not find, nor change."""
    ann, ben = (json_of("keys", "issue", name, folder=folder)["secret"] for name in ("ann", "ben"))
    mine, theirs = client_of(tocsin, ann), client_of(tocsin, ben)
    talk = mine.conversations.create(items=[{"role": "user", "content": "Hi"}])
    made = mine.responses.create(model="m", input="Hi", background=True)
    until(lambda: mine.responses.retrieve(made.id).status == "completed")
    api = f"{tocsin.url}/api/operations"
    order = ask(api, ann, {"kind": "order", "input": {}})[1]["id"]
    until(lambda: "send" in names_of(f"{api}/{order}", ann))
    foreign_responses(theirs, made.id, talk.id)
    foreign_operations(tocsin.url, ann, ben, order, made.id)
    foreign_keys(tocsin.url, ann, ben)
    assert mine.responses.retrieve(made.id).status == "completed"
    assert len(mine.conversations.items.list(talk.id).data) == 1
    assert ask(f"{api}/{order}", ann)[1]["status"] == "running"


def foreign_responses(theirs: openai.OpenAI, response: str, talk: str) -> None:
    """Another key's response and conversation do not exist."""
    responses, conversations = theirs.responses, theirs.conversations
    item: Any = {"type": "message", "role": "user", "content": "Mine."}
    tries: list[Callable[[], Any]] = [
        lambda: responses.retrieve(response),
        lambda: list(responses.retrieve(response, stream=True)),
        lambda: responses.cancel(response),
        lambda: responses.input_items.list(response),
        lambda: responses.delete(response),
        lambda: responses.create(model="m", input="Hi", previous_response_id=response),
        lambda: responses.create(model="m", input="Hi", conversation=talk),
        lambda: responses.compact(model="m", previous_response_id=response),
        lambda: responses.input_tokens.count(model="m", previous_response_id=response),
        lambda: conversations.retrieve(talk),
        lambda: conversations.update(talk, metadata={"a": "b"}),
        lambda: conversations.items.list(talk),
        lambda: conversations.items.create(talk, items=[item]),
        lambda: conversations.delete(talk),
    ]
    for number, look in enumerate(tries):
        with pytest.raises((openai.NotFoundError, openai.BadRequestError)) as refused:
            look()
        known = refused.value.status_code == 404 or "not found" in refused.value.message
        assert known, (number, refused.value.message)


def foreign_operations(url: str, ann: str, ben: str, order: str, response: str) -> None:
    """Nor do its operations and their events."""
    for name in (order, response):
        for path in ("", "/events", "/stream", "/result"):
            assert ask(f"{url}/api/operations/{name}{path}", ben)[0] == 404, path
        assert ask(f"{url}/api/operations/{name}/cancel", ben, method="POST")[0] == 404
        assert ask(f"{url}/api/operations/{name}", ben, method="DELETE")[0] == 404
    for path in ("operations", "effects", "deliveries"):
        assert ask(f"{url}/api/{path}", ben)[0] == 403, path
    # The same intent of two keys is two; and only whoever was told to act settles it.
    intent = {"scope": order, "name": "charge", "arguments": {"cents": 100}}
    assert ask(f"{url}/api/effects", ann, intent)[1]["turn"] == "done"
    own = ask(f"{url}/api/effects", ben, intent)[1]
    assert own["turn"] == "act"
    scoped = {"scope": "shop", "name": "charge", "arguments": {}}
    first, second = (ask(f"{url}/api/effects", key, scoped)[1] for key in (ann, ben))
    assert first["turn"] == second["turn"] == "act"
    assert first["key"] != second["key"]
    done = {"state": "done", "result": 1, "owner": first["owner"]}
    assert ask(f"{url}/api/effects/{first['key']}", ben, done)[0] in (403, 404)
    assert ask(f"{url}/api/effects/{first['key']}", ben, {**done, "owner": second["owner"]})[0] in (
        404,
        409,
    )
    assert ask(f"{url}/api/effects/{first['key']}", ann, done)[0] == 200


def foreign_keys(url: str, ann: str, ben: str) -> None:
    """Nor does what was done under an idempotency key."""
    path, body = f"{url}/v1/responses", {"model": "m", "input": "Once."}
    answers = [ask(path, key, body, idempotency_key="order-17")[1]["id"] for key in (ann, ann, ben)]
    assert answers[0] == answers[1]
    assert answers[2] != answers[0]
    secrets = [ask(f"{url}/api/callback-secret", key)[1]["secret"] for key in (ann, ben)]
    assert secrets[0] != secrets[1]
