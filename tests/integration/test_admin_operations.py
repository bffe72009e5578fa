"""Durable work over real HTTP: who may start, see, follow, end and answer it; effects; webhooks."""

import asyncio
import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from standardwebhooks import Webhook

from adminkit import HOOK, HOOK_ENV, Reply, Site, running
from operations_world import step
from tocsin.core.operations import Ending, Event, Kind, Operation, Work
from tocsin.gateway.admin_operations import MAX_INPUT
from tocsin.store.operations_api import Delivery, EndpointRow, Written

DONE = b"data: [DONE]\n\n"


async def counts(work: Work) -> Ending:
    """As many events as it is asked for, one after another."""
    asked = json.loads(work.input)
    for number in range(asked["n"]):
        await work.emit("counted", {"number": number, "text": f"line\n{number} ü"})
        await asyncio.sleep(asked.get("pause_s", 0))
    return Ending(outcome="complete", result=b'{"counted":%d}' % asked["n"])


async def waits(work: Work) -> Ending:
    """Changes the world, then goes on until it is ended."""

    async def charge(key: str) -> Any:
        return {"receipt": key[:9]}

    await work.effect("charge", {"cents": 100}, charge)
    await work.emit("charged", {})
    await asyncio.sleep(3600)
    return Ending(outcome="complete")


async def asks(work: Work) -> Ending:
    """Ends with what a person says."""
    said = await work.approve("Refund 100 cents?", json.loads(work.input))
    return Ending(outcome="complete", result=msgspec.json.encode(said))


async def measures(work: Work) -> Ending:
    return Ending(outcome="complete", result=b'{"bytes":%d}' % len(work.input))


KINDS = (
    Kind(
        name="count",
        summary="Counts.",
        run=counts,
        schema={
            "type": "object",
            "properties": {"n": {"type": "integer"}, "pause_s": {"type": "number"}},
            "required": ["n"],
        },
    ),
    Kind(name="wait", summary="Waits.", run=waits),
    Kind(name="ask", summary="Asks a person.", run=asks),
    Kind(name="measure", summary="Measures its input.", run=measures),
    Kind(name="inner", summary="For Tocsin's own use.", run=measures, offered=False),
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory.mktemp("site"), require_key=True, kinds=KINDS) as found:
        yield found


@pytest.fixture(scope="module")
def keys(site: Site) -> dict[str, str]:
    """A key of each role, and one more caller's."""
    made = {role: site.key(role).secret for role in ("caller", "viewer", "operator", "admin")}
    return {**made, "other": site.key("caller").secret}


def ask(site: Site, key: str | None, method: str, path: str, body: Any = None) -> Reply:
    return site.request(method, path, key=key, json_body=body)


def good(reply: Reply, status: int = 200) -> Any:
    assert reply.status == status, reply.body
    return reply.json()


def refused(reply: Reply) -> tuple[int, str]:
    assert reply.header("content-type") == "application/problem+json", reply.body
    return reply.status, reply.json()["code"]


def start(site: Site, key: str, kind: str, input_: Any = None, **more: Any) -> Any:
    body = {"kind": kind, "input": input_ or {}, **more}
    return good(ask(site, key, "POST", "/api/operations", body), 202)


def until(site: Site, key: str, operation: str, status: str) -> Any:
    """The operation once it stands so."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = good(ask(site, key, "GET", f"/api/operations/{operation}"))
        if found["status"] == status:
            return found
        time.sleep(0.01)
    raise AssertionError(found)


def audited(site: Site) -> list[tuple[str, str, str]]:
    return [(row.action, row.target, row.detail) for row in site.store.audit(limit=500)]


# -- starting --


def test_what_is_started_is_kept_worked_on_and_read_by_whoever_started_it(
    site: Site, keys: dict[str, str]
) -> None:
    made = start(
        site,
        keys["caller"],
        "count",
        {"n": 3},
        feature="support",
        end_user="ann",
        title="  count\nto three ",
        deadline_s=60,
    )
    assert (made["kind"], made["feature"], made["title"]) == ("count", "support", "count to three")
    assert made["background"] is True
    assert made["deadline_at"] - made["created_at"] == 60_000_000
    assert made["run_id"].startswith("run_")
    assert "owner" not in made
    path = f"/api/operations/{made['id']}"
    ended = good(ask(site, keys["caller"], "GET", f"{path}/result?wait=10"))
    assert ended == {
        "id": made["id"],
        "status": "ended",
        "outcome": "complete",
        "result": {"counted": 3},
    }
    found = good(ask(site, keys["caller"], "GET", path))
    assert (found["status"], found["outcome"], found["end_user"]) == ("ended", "complete", "ann")
    assert (found["cost_nano_usd"], found["cost_usd"], found["steps"]) == (0, "0", [])
    log = good(ask(site, keys["caller"], "GET", f"{path}/events"))
    assert log["ended"] is True
    assert [row["number"] for row in log["rows"]] == list(range(found["events"]))
    assert [row["type"] for row in log["rows"]][2:-1] == ["counted"] * 3
    assert log["rows"][3]["data"]["text"] == "line\n1 ü"


def test_events_are_read_in_pages_from_any_number(site: Site, keys: dict[str, str]) -> None:
    made = start(site, keys["caller"], "count", {"n": 5})
    path = f"/api/operations/{made['id']}"
    good(ask(site, keys["caller"], "GET", f"{path}/result?wait=10"))
    whole = good(ask(site, keys["caller"], "GET", f"{path}/events"))["rows"]
    after, pieced, ended = -1, [], False
    while not ended:
        query = f"after={after}&limit=3"
        page = good(ask(site, keys["caller"], "GET", f"{path}/events?{query}"))
        pieced += page["rows"]
        after, ended = page["rows"][-1]["number"], page["ended"]
    assert pieced == whole
    beyond = good(ask(site, keys["caller"], "GET", f"{path}/events?after=99"))
    assert beyond == {"rows": [], "ended": True}


def test_a_result_is_null_until_there_is_one_and_waiting_for_it_ends(
    site: Site, keys: dict[str, str]
) -> None:
    made = start(site, keys["caller"], "wait")
    begun = time.monotonic()
    found = good(ask(site, keys["caller"], "GET", f"/api/operations/{made['id']}/result?wait=1"))
    assert 0.9 < time.monotonic() - begun < 5
    assert (found["status"], found["outcome"], found["result"]) == ("running", None, None)
    good(ask(site, keys["caller"], "DELETE", f"/api/operations/{made['id']}"))


def test_input_may_be_larger_than_other_bodies_and_has_an_end(
    site: Site, keys: dict[str, str]
) -> None:
    made = start(site, keys["caller"], "measure", {"text": "x" * 3_000_000})
    found = good(ask(site, keys["caller"], "GET", f"/api/operations/{made['id']}/result?wait=10"))
    assert found["result"]["bytes"] > 3_000_000
    body = {"kind": "measure", "input": {"text": "x" * MAX_INPUT}}
    reply = ask(site, keys["caller"], "POST", "/api/operations", body)
    assert refused(reply) == (413, "too_large")


@pytest.mark.parametrize(
    ("body", "status", "name"),
    [
        ({"kind": "nothing", "input": {}}, 404, "kind"),
        ({"kind": "inner", "input": {}}, 404, "kind"),
        ({"kind": "count", "input": {}}, 400, "input"),
        ({"kind": "count", "input": {"n": "3"}}, 400, "input"),
        ({"kind": "count", "input": [3]}, 422, "input"),
        ({"kind": "count"}, 422, "input"),
        ({"kind": "count", "input": {"n": 1}, "deadline_s": 0}, 422, "deadline_s"),
        ({"kind": "count", "input": {"n": 1}, "background": True}, 422, "background"),
        ({"kind": "count", "input": {"n": 1}, "feature": "a b"}, 422, "feature"),
    ],
)
def test_what_is_wrong_with_an_order_is_named(
    site: Site, keys: dict[str, str], body: Any, status: int, name: str
) -> None:
    reply = ask(site, keys["caller"], "POST", "/api/operations", body)
    assert reply.status == status, reply.body
    assert [fault["name"] for fault in reply.json()["faults"]] == [name]


def test_the_kinds_that_are_offered_are_named_to_whoever_asks_for_another(
    site: Site, keys: dict[str, str]
) -> None:
    body = {"kind": "response", "input": {}}
    said = ask(site, keys["caller"], "POST", "/api/operations", body).json()["detail"]
    assert "ask, count, measure, wait" in said
    assert "inner" not in said


def test_a_key_starts_work_for_its_own_features_only(site: Site) -> None:
    key = site.key("caller", features=("support", "billing")).secret
    assert start(site, key, "measure")["feature"] == "support"
    assert start(site, key, "measure", feature="billing")["feature"] == "billing"
    body = {"kind": "measure", "input": {}, "feature": "coder"}
    assert ask(site, key, "POST", "/api/operations", body).status == 403


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://127.0.0.1:8080/x", "callback_refused"),
        ("http://169.254.169.254/latest/meta-data", "callback_refused"),
        ("http://[::1]/x", "callback_refused"),
        ("http://0x7f000001/x", "invalid_callback"),
        ("http://10.0.0.1/x", "callback_refused"),
        ("https://user:password@example.com/x", "invalid_callback"),
        ("https://exa mple.com/x", "invalid_parameter"),
        ("file:///etc/passwd", "invalid_parameter"),
        ("nothing", "invalid_parameter"),
    ],
)
def test_nobody_is_told_at_an_address_that_is_not_public(
    site: Site, keys: dict[str, str], url: str, code: str
) -> None:
    body = {"kind": "measure", "input": {}, "callback": url}
    reply = ask(site, keys["caller"], "POST", "/api/operations", body)
    assert refused(reply) == (422 if code == "invalid_parameter" else 403, code)
    assert [fault["name"] for fault in reply.json()["faults"]] == ["callback"]


# -- whose it is --


def test_somebody_elses_work_is_not_there(site: Site, keys: dict[str, str]) -> None:
    made = start(site, keys["caller"], "wait")
    path = f"/api/operations/{made['id']}"
    mine = [
        ("GET", path),
        ("GET", f"{path}/events"),
        ("GET", f"{path}/stream"),
        ("GET", f"{path}/result"),
        ("POST", f"{path}/cancel"),
        ("DELETE", path),
    ]
    nothing = f"/api/operations/op_{'0' * 32}"
    for method, where in mine:
        theirs = ask(site, keys["other"], method, where)
        assert refused(theirs) == (404, "not_found"), where
        # It cannot be told from one that there is not.
        unknown = ask(site, keys["other"], method, where.replace(path, nothing))
        assert theirs.body == unknown.body.replace(nothing[-35:].encode(), made["id"].encode())
    # A viewer sees everybody's work and ends nobody's.
    assert ask(site, keys["viewer"], "GET", path).status == 200
    assert ask(site, keys["viewer"], "POST", f"{path}/cancel").status == 404
    assert ask(site, keys["viewer"], "DELETE", path).status == 404
    assert good(ask(site, keys["caller"], "GET", path))["status"] == "running"
    assert good(ask(site, keys["operator"], "DELETE", path))["id"] == made["id"]
    assert ask(site, keys["caller"], "GET", path).status == 404


def test_the_list_is_for_viewers_and_filters(site: Site, keys: dict[str, str]) -> None:
    made = [start(site, keys["caller"], "count", {"n": 0}, feature="listed") for _ in range(5)]
    for one in made:
        until(site, keys["caller"], one["id"], "ended")
    assert ask(site, keys["caller"], "GET", "/api/operations").status == 403
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        query = f"feature=listed&status=ended&outcome=complete&limit=2{cursor}"
        page = good(ask(site, keys["viewer"], "GET", f"/api/operations?{query}"))
        found += [row["id"] for row in page["rows"]]
        cursor = page["next"] and f"&cursor={page['next']}"
    assert found == [one["id"] for one in reversed(made)]
    for query in (f"run_id={made[2]['run_id']}", f"since={made[4]['created_at']}&feature=listed"):
        rows = good(ask(site, keys["viewer"], "GET", f"/api/operations?{query}"))["rows"]
        assert len(rows) == 1, query
    nobody = good(ask(site, keys["viewer"], "GET", "/api/operations?kind=none"))
    assert nobody == {"rows": [], "next": None}
    wrong = ask(site, keys["viewer"], "GET", "/api/operations?status=done")
    assert wrong.json()["faults"][0]["name"] == "status"
    cursor_of_nobody = ask(site, keys["viewer"], "GET", "/api/operations?cursor=nobodys")
    assert refused(cursor_of_nobody) == (404, "unknown_cursor")


def test_without_keys_everybody_is_one_caller_and_no_more(tmp_path: Path) -> None:
    with running(tmp_path, kinds=KINDS) as site:
        made = good(
            ask(site, None, "POST", "/api/operations", {"kind": "measure", "input": {}}), 202
        )
        path = f"/api/operations/{made['id']}"
        assert good(ask(site, None, "GET", f"{path}/result?wait=10"))["outcome"] == "complete"
        assert ask(site, None, "GET", "/api/operations").status == 401
        key = site.key("caller").secret
        assert ask(site, key, "GET", path).status == 404
        kept = start(site, key, "measure")
        assert ask(site, None, "GET", f"/api/operations/{kept['id']}").status == 404
        foreign = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
        for method, where in (("POST", f"{path}/cancel"), ("DELETE", path), ("GET", path)):
            reply = site.request(method, where, headers=foreign)
            assert refused(reply) == (403, "foreign_origin")


# -- ending --


def test_cancelling_says_what_was_changed_by_then(site: Site, keys: dict[str, str]) -> None:
    made = start(site, keys["caller"], "wait")
    path = f"/api/operations/{made['id']}"
    deadline = time.monotonic() + 10
    while not good(ask(site, keys["caller"], "GET", path))["steps"]:
        assert time.monotonic() < deadline
    ended = good(ask(site, keys["caller"], "POST", f"{path}/cancel"))
    assert (ended["status"], ended["outcome"]) == ("ended", "cancelled")
    assert ended["cancel_by"].startswith("a caller (key_")
    (charged,) = ended["steps"]
    assert (charged["name"], charged["effect"], charged["state"]) == ("charge", True, "done")
    assert charged["arguments"] == {"cents": 100}
    assert charged["result"]["receipt"] == charged["key"][:9]
    assert audited(site)[0] == ("operation.cancel", made["id"], "")
    # Ended is ended: nothing changes, and nothing more is written down.
    again = good(ask(site, keys["operator"], "POST", f"{path}/cancel"))
    assert again == ended
    assert [row[1] for row in audited(site)].count(made["id"]) == 1


def test_deleting_ends_it_first_and_is_written_down(site: Site, keys: dict[str, str]) -> None:
    made = start(site, keys["caller"], "wait")
    path = f"/api/operations/{made['id']}"
    gone = good(ask(site, keys["caller"], "DELETE", path))
    assert gone["id"] == made["id"]
    assert site.store.operations.operation(made["id"]) is None
    assert site.operations.running == 0
    assert ask(site, keys["caller"], "DELETE", path).status == 404
    assert audited(site)[0] == ("operation.delete", made["id"], "")


# -- people --


@pytest.mark.parametrize(("approved", "word"), [(True, "approved"), (False, "refused")])
def test_an_operator_answers_what_work_waits_for(
    site: Site, keys: dict[str, str], approved: bool, word: str
) -> None:
    made = start(site, keys["caller"], "ask", {"order": 7})
    path = f"/api/operations/{made['id']}"
    waiting = until(site, keys["caller"], made["id"], "waiting")
    (asked,) = waiting["steps"]
    assert waiting["waiting_for"] == asked["key"]
    assert asked["arguments"] == {"question": "Refund 100 cents?", "details": {"order": 7}}
    body = {"approved": approved, "note": "seen"}
    for role in ("caller", "viewer"):
        assert ask(site, keys[role], "POST", f"{path}/answer", body).status == 403
    good(ask(site, keys["operator"], "POST", f"{path}/answer", body))
    found = good(ask(site, keys["caller"], "GET", f"{path}/result?wait=10"))
    by = found["result"].pop("by")
    assert found["result"] == {"approved": approved, "note": "seen"}
    assert by.startswith("a operator (key_")
    assert (f"operation.{word}", made["id"], "seen") in audited(site)
    again = ask(site, keys["operator"], "POST", f"{path}/answer", body)
    assert refused(again) == (409, "waits_for_nothing")
    nothing = ask(site, keys["operator"], "POST", "/api/operations/op_none/answer", body)
    assert refused(nothing) == (404, "not_found")


# -- streams --


@contextlib.contextmanager
def streaming(
    site: Site, key: str, path: str, **headers: str
) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=20)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET", path, headers={"authorization": f"Bearer {key}", **named})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        yield answer
    finally:
        connection.close()


def frame(answer: http.client.HTTPResponse) -> bytes:
    """The next event as it came; empty at the end."""
    lines = []
    while line := answer.readline():
        lines.append(line)
        if line == b"\n":
            break
    return b"".join(lines)


def frames(answer: http.client.HTTPResponse) -> list[bytes]:
    return list(iter(lambda: frame(answer), b""))


def as_sent(event: Event) -> bytes:
    head = f"id: {event.number}\nevent: {event.type}\n".encode()
    return head + b"data: " + event.data + b"\n\n"


def test_a_stream_that_is_cut_anywhere_is_rejoined_byte_for_byte(
    site: Site, keys: dict[str, str]
) -> None:
    """While it runs: each follower leaves after one event more than the one before."""
    made = start(site, keys["caller"], "count", {"n": 12, "pause_s": 0.02})
    path = f"/api/operations/{made['id']}/stream"
    pieced: dict[int, list[bytes]] = {}

    def follow(cut: int) -> None:
        with streaming(site, keys["caller"], path) as answer:
            first = [frame(answer) for _ in range(cut)]
        last = {"last_event_id": str(cut - 1)} if cut else {}
        with streaming(site, keys["caller"], f"{path}?after=-1", **last) as answer:
            pieced[cut] = first + frames(answer)

    threads = [threading.Thread(target=follow, args=(cut,)) for cut in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    log = site.store.operations.events(made["id"])
    assert len(log) == 12 + 3
    whole = [as_sent(event) for event in log] + [DONE]
    assert sorted(pieced) == list(range(16))
    for cut, found in pieced.items():
        assert found == whole, cut
    # The same after it has ended, by either way to say from where.
    for number in range(-1, len(log)):
        rest = whole[number + 1 :]
        with streaming(site, keys["viewer"], f"{path}?after={number}") as answer:
            assert answer.headers["content-type"] == "text/event-stream"
            assert answer.headers["cache-control"] == "no-store"
            assert frames(answer) == rest
        with streaming(site, keys["caller"], path, last_event_id=str(number)) as answer:
            assert frames(answer) == rest


def test_events_come_while_the_work_goes_on(site: Site, keys: dict[str, str]) -> None:
    made = start(site, keys["caller"], "wait")
    with streaming(site, keys["caller"], f"/api/operations/{made['id']}/stream") as answer:
        types = [frame(answer).split(b"\n")[1] for _ in range(3)]
        assert types == [
            b"event: operation.created",
            b"event: operation.started",
            b"event: charged",
        ]
        head = site.request(
            "HEAD", f"/api/operations/{made['id']}/stream", key=keys["caller"]
        )  # answered at once, though the stream would last
        assert (head.status, head.body) == (200, b"")
        assert (head.header("content-type") or "").startswith("text/event-stream")
        ask(site, keys["caller"], "POST", f"/api/operations/{made['id']}/cancel")
        rest = frames(answer)
    assert rest[0].startswith(b"id: 3\nevent: operation.ended\n")
    assert rest[-1] == DONE


def test_a_wrong_place_to_go_on_from_is_named(site: Site, keys: dict[str, str]) -> None:
    path = "/api/operations/op_none/stream"
    for query, headers, where, name in (
        ("?after=x", {}, "query", "after"),
        ("?after=-2", {}, "query", "after"),
        ("", {"last-event-id": "1.5"}, "header", "Last-Event-ID"),
        ("", {"last-event-id": ""}, "header", "Last-Event-ID"),
        ("?last_event_id=3", {}, "query", "last_event_id"),
    ):
        reply = site.request("GET", path + query, key=keys["caller"], headers=headers)
        assert reply.status == 422
        (fault,) = reply.json()["faults"]
        assert (fault["where"], fault["name"]) == (where, name)


def test_a_stream_whose_work_is_left_to_another_process_is_not_complete(tmp_path: Path) -> None:
    got: list[bytes] = []
    with running(tmp_path, kinds=KINDS) as site:
        key = site.key("caller").secret
        made = start(site, key, "wait")
        begun = threading.Event()

        def follow() -> None:
            with streaming(site, key, f"/api/operations/{made['id']}/stream") as answer:
                for _ in range(3):
                    got.append(frame(answer))
                begun.set()
                with contextlib.suppress(http.client.IncompleteRead, ConnectionError):
                    got.extend(frames(answer))

        thread = threading.Thread(target=follow)
        thread.start()
        assert begun.wait(10)
    thread.join(10)
    assert not thread.is_alive()
    assert len(got) == 3  # neither an end nor [DONE]


# -- effects --


def effect(site: Site, key: str, **more: Any) -> Any:
    body = {"scope": "run_1", "name": "charge", "arguments": {"cents": 100}, **more}
    return good(ask(site, key, "POST", "/api/effects", body))


def settle(site: Site, key: str, asked: Any, state: str, **more: Any) -> Reply:
    owner = {"owner": asked["owner"]} if asked["owner"] is not None else {}
    return ask(site, key, "POST", f"/api/effects/{asked['key']}", {"state": state, **owner, **more})


def test_an_effect_is_one_askers_to_do_and_everybody_is_given_its_result(
    site: Site, keys: dict[str, str]
) -> None:
    mine = {"scope": "once"}
    first = effect(site, keys["caller"], **mine)
    assert (first["turn"], first["state"], first["asked"]) == ("act", "begun", 1)
    again = effect(site, keys["caller"], arguments={"cents": 100}, **mine)
    assert (again["key"], again["turn"], again["owner"]) == (first["key"], "busy", None)
    assert effect(site, keys["caller"], arguments={"cents": 101}, **mine)["turn"] == "act"
    done = good(settle(site, keys["caller"], first, "done", result={"receipt": "r1"}))
    assert (done["turn"], done["state"], done["result"]) == ("done", "done", {"receipt": "r1"})
    assert not site.store.operations.alive(first["owner"], 0)  # its name is forgotten
    third = effect(site, keys["caller"], **mine)
    assert (third["turn"], third["result"], third["asked"]) == ("done", {"receipt": "r1"}, 3)
    # The same word again changes nothing; another word is refused.
    assert settle(site, keys["caller"], first, "done", result={"receipt": "r1"}).status == 200
    other = settle(site, keys["caller"], first, "failed")
    assert refused(other) == (409, "stands_otherwise")


def test_what_certainly_did_not_happen_is_the_next_askers_to_do(
    site: Site, keys: dict[str, str]
) -> None:
    first = effect(site, keys["caller"], scope="fails")
    assert good(settle(site, keys["caller"], first, "failed", result="no route"))["turn"] == "act"
    second = effect(site, keys["caller"], scope="fails")
    assert (second["turn"], second["key"]) == ("act", first["key"])
    assert second["owner"] != first["owner"]
    late = settle(site, keys["caller"], first, "done", result=1)
    assert refused(late) == (409, "stands_otherwise")
    assert good(settle(site, keys["caller"], second, "done", result=2))["result"] == 2


def test_whoever_is_silent_for_too_long_leaves_something_unknown(tmp_path: Path) -> None:
    with running(tmp_path, kinds=KINDS) as site:
        key, operator = site.key("caller").secret, site.key("operator").secret
        first = effect(site, key, hold_s=60)
        site.clock.advance(59)
        assert effect(site, key)["turn"] == "busy"
        site.clock.advance(2)
        lost = effect(site, key)
        assert (lost["turn"], lost["state"], lost["owner"]) == ("unknown", "unknown", None)
        # Who can ask the world finds out, and settles it.
        finder = effect(site, key, can_find=True)
        assert finder["turn"] == "find"
        assert effect(site, key, can_find=True)["turn"] == "busy"
        assert refused(settle(site, key, first, "done")) == (409, "stands_otherwise")
        assert good(settle(site, key, finder, "unknown"))["turn"] == "unknown"
        # Nobody could: a person settles it, and is written down.
        path = f"/api/effects/{first['key']}"
        body = {"state": "done", "result": {"receipt": "looked up"}}
        assert ask(site, key, "POST", path, body).status == 403
        rows = good(ask(site, operator, "GET", "/api/effects"))["rows"]
        assert [row["key"] for row in rows] == [first["key"]]
        assert good(ask(site, operator, "POST", path, body))["state"] == "done"
        assert audited(site)[0] == ("effect.done", first["key"], "charge")
        assert effect(site, key)["result"] == {"receipt": "looked up"}


def test_a_person_does_not_settle_what_is_under_way(site: Site, keys: dict[str, str]) -> None:
    first = effect(site, keys["caller"], scope="under-way")
    reply = ask(site, keys["operator"], "POST", f"/api/effects/{first['key']}", {"state": "failed"})
    assert refused(reply) == (409, "stands_otherwise")
    nothing = ask(site, keys["operator"], "POST", "/api/effects/step_none", {"state": "failed"})
    assert refused(nothing) == (404, "not_found")


def test_an_intent_is_one_keys_own_and_so_is_its_owner(site: Site, keys: dict[str, str]) -> None:
    mine = effect(site, keys["caller"], scope="own")
    theirs = effect(site, keys["other"], scope="own")
    assert theirs["turn"] == "act"
    assert theirs["key"] != mine["key"]
    stolen = ask(
        site,
        keys["other"],
        "POST",
        f"/api/effects/{mine['key']}",
        {"state": "done", "owner": mine["owner"]},
    )
    assert stolen.status == 403
    engines = {"state": "done", "owner": site.operations.owner}
    assert ask(site, keys["caller"], "POST", f"/api/effects/{mine['key']}", engines).status == 403
    swapped = {"state": "done", "owner": theirs["owner"]}
    assert ask(site, keys["other"], "POST", f"/api/effects/{mine['key']}", swapped).status == 409
    assert effect(site, keys["caller"], scope="own")["turn"] == "busy"


def test_tools_and_the_work_itself_share_the_intents_of_an_operation(
    site: Site, keys: dict[str, str]
) -> None:
    made = start(site, keys["caller"], "wait")
    path = f"/api/operations/{made['id']}"
    deadline = time.monotonic() + 10
    while not (steps := good(ask(site, keys["caller"], "GET", path))["steps"]):
        assert time.monotonic() < deadline
    asked = effect(site, keys["caller"], scope=made["id"])
    assert (asked["key"], asked["turn"]) == (steps[0]["key"], "done")
    # To anybody else its id is a name like any other.
    assert effect(site, keys["other"], scope=made["id"])["turn"] == "act"
    listed = good(ask(site, keys["viewer"], "GET", f"/api/effects?scope={made['id']}"))["rows"]
    assert [(row["name"], row["asked"]) for row in listed] == [("charge", 2)]
    good(ask(site, keys["operator"], "DELETE", path))


def test_the_list_of_effects_is_for_viewers(site: Site, keys: dict[str, str]) -> None:
    assert ask(site, keys["caller"], "GET", "/api/effects").status == 403
    site.store.operations.begin_step(step("step_lost", scope="listed", state="unknown"))
    rows = good(ask(site, keys["viewer"], "GET", "/api/effects?state=unknown"))["rows"]
    (row,) = [row for row in rows if row["key"] == "step_lost"]
    assert (row["arguments"], row["result"]) == ({"cents": 100}, None)
    assert "owner" not in row


# -- webhooks --


def test_an_end_is_told_and_a_delivery_is_sent_again_by_hand(
    site: Site, keys: dict[str, str]
) -> None:
    made = start(site, keys["caller"], "measure", callback="https://example.com/told")
    good(ask(site, keys["caller"], "GET", f"/api/operations/{made['id']}/result?wait=10"))
    path = f"/api/deliveries?operation_id={made['id']}"
    for role in ("caller", "other"):
        assert ask(site, keys[role], "GET", path).status == 403
    rows = good(ask(site, keys["viewer"], "GET", path))["rows"]
    by_url = {row["url"]: row for row in rows}
    assert set(by_url) == {HOOK.url, "https://example.com/told"}
    ours, own = by_url[HOOK.url], by_url["https://example.com/told"]
    assert (ours["endpoint"], ours["state"], ours["attempts"]) == ("ours", "pending", 0)
    assert ours["type"] == ours["payload"]["type"] == "operation.completed"
    assert ours["payload"]["data"]["id"] == made["id"]
    # What the callback is signed with is its key's own secret.
    secret = good(ask(site, keys["caller"], "GET", "/api/callback-secret"))["secret"]
    kept = site.store.operations.delivery(own["id"])
    assert kept is not None
    now = time.time_ns() // 1000
    headers = site.webhooks.headers(kept, now)
    assert Webhook(secret).verify(kept.payload, headers) == own["payload"]
    others = good(ask(site, keys["other"], "GET", "/api/callback-secret"))["secret"]
    assert others not in (secret, HOOK_ENV["HOOK_SECRET"])
    # It failed; an operator has it sent again.
    failed = msgspec.structs.replace(kept, state="failed", attempts=9, ended_at=now)
    site.store.operations.save_delivery(failed)
    query = "/api/deliveries?state=failed"
    assert [row["id"] for row in good(ask(site, keys["viewer"], "GET", query))["rows"]] == [
        own["id"]
    ]
    again = f"/api/deliveries/{own['id']}/replay"
    assert ask(site, keys["viewer"], "POST", again).status == 403
    sent = good(ask(site, keys["operator"], "POST", again))
    assert (sent["id"], sent["state"], sent["attempts"]) == (own["id"], "pending", 0)
    assert sent["payload"] == own["payload"]
    assert audited(site)[0] == ("webhook.replay", own["id"], "operation.completed")
    nothing = ask(site, keys["operator"], "POST", "/api/deliveries/whd_none/replay")
    assert refused(nothing) == (404, "not_found")


def test_a_receiver_that_has_gone_is_told_again_once_it_is_enabled(
    site: Site, keys: dict[str, str]
) -> None:
    url, book = "https://gone.example/hook", site.store.operations
    now = site.clock.now_us()
    book.add_deliveries(
        [
            Delivery(
                id="whd_gone",
                endpoint="outbox",
                url=url,
                type="a.b",
                payload=b'{"n":1}',
                created_at=now,
                next_at=now,
            )
        ]
    )
    book.disable_endpoint(EndpointRow(url=url, disabled_at=now, reason="410 Gone"))
    listed = good(ask(site, keys["viewer"], "GET", "/api/deliveries?state=disabled"))
    assert [row["id"] for row in listed["rows"]] == ["whd_gone"]
    assert listed["disabled"] == [{"url": url, "disabled_at": now, "reason": "410 Gone"}]
    held = ask(site, keys["operator"], "POST", "/api/deliveries/whd_gone/replay")
    assert refused(held) == (409, "endpoint_disabled")
    assert ask(site, keys["viewer"], "POST", "/api/endpoints/enable", {"url": url}).status == 403
    told = ask(site, keys["operator"], "POST", "/api/endpoints/enable", {"url": url})
    assert good(told) == {"url": url}
    assert audited(site)[0] == ("webhook.enable", url, "")
    after = book.delivery("whd_gone")
    assert after is not None
    assert after.state == "pending"
    again = ask(site, keys["operator"], "POST", "/api/endpoints/enable", {"url": url})
    assert refused(again) == (404, "not_found")


def test_a_payload_that_is_no_json_is_shown_as_it_is(site: Site, keys: dict[str, str]) -> None:
    book, now = site.store.operations, site.clock.now_us()
    hostile = b'{"a": <script>\xff'
    book.add_deliveries(
        [
            Delivery(
                id="whd_odd",
                endpoint="outbox",
                url="https://odd.example/",
                type="odd",
                payload=hostile,
                created_at=now,
                operation_id="op_odd",
                next_at=now,
            )
        ]
    )
    reply = ask(site, keys["viewer"], "GET", "/api/deliveries?operation_id=op_odd")
    (row,) = good(reply)["rows"]
    assert row["payload"] == hostile.decode(errors="replace")


def test_with_an_end_user_goes_the_work_for_them(site: Site, keys: dict[str, str]) -> None:
    made = start(site, keys["caller"], "measure", end_user="zoe")
    until(site, keys["caller"], made["id"], "ended")
    swept = good(ask(site, keys["admin"], "DELETE", "/api/end-users/zoe"))
    assert (swept["operations"], swept["interactions"]) == (1, 0)
    assert ask(site, keys["caller"], "GET", f"/api/operations/{made['id']}").status == 404
    assert audited(site)[0] == ("end_user.delete", "zoe", "0 interactions, 1 operations")


# -- what is recorded --


def test_what_work_wrote_comes_back_as_data(site: Site, keys: dict[str, str]) -> None:
    """Results, events and steps that are no JSON, or far too much of it."""
    book, now = site.store.operations, site.clock.now_us()
    deep = b"[" * 100_000
    book.create(
        Operation(
            id="op_odd",
            kind="measure",
            feature="f",
            title="<b>\x1b[31m",
            created_at=now,
            status="running",
            key_id=None,
        ),
        b"{}",
        [
            Event(0, "odd", now, deep),
            Event(1, "odd", now, b'{"a":\xff}'),
            Event(2, "odd", now, b""),
        ],
    )
    book.begin_step(step("step_odd", scope="op_odd", arguments=b"{{", owner="nobody"))
    book.write(
        [
            Written(
                operation_id="op_odd",
                changes={"status": "ended", "outcome": "complete", "ended_at": now},
                result=b'{"big":1e99999, "no',
            )
        ]
    )
    path = "/api/operations/op_odd"
    rows = good(ask(site, keys["viewer"], "GET", f"{path}/events"))["rows"]
    assert [row["data"] for row in rows] == [deep.decode(), '{"a":\ufffd}', ""]
    found = good(ask(site, keys["viewer"], "GET", path))
    assert found["title"] == "<b>\x1b[31m"
    assert found["steps"][0]["arguments"] == "{{"
    result = good(ask(site, keys["viewer"], "GET", f"{path}/result"))
    assert result["result"] == '{"big":1e99999, "no'
