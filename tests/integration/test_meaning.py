"""What an answer means, through the real gateway: the record, the headers, the bytes."""

import asyncio
import http.client
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anthropic
import openai
import pytest
import uvicorn
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tocsin.app import build, signals_known
from tocsin.cli.context import Settings
from tocsin.cli.frontdoor import FrontDoor
from tocsin.config.load import load
from tocsin.core.interaction import Entry, Interaction
from tocsin.core.messages import ToolCall
from tocsin.core.wire.render import Answer
from tocsin.gateway.protocol import protocol_for
from tocsin.importers import read
from tocsin.importers.native import export_jsonl
from tocsin.importers.otlp_export import encode
from tocsin.providers.playing import Step
from tocsin.providers.scripted_server import ScriptedServer, Seen

CONFIG = """
[server]
data_dir = "{folder}/data"
port = {port}

[upstreams.main]
base_url = "{url}"
retries = 0

[upstreams.claude]
kind = "anthropic"
base_url = "{url}"
models = ["claude-*"]

[features.summary.checks]
min_chars = 20
max_chars = 400
language = "de"
must_match = ["(?i)zusammenfassung"]
must_not_match = ["TODO"]

[features.cited.checks]
must_cite = true
outcome = "unverified"

[features.own.checks]
functions = ["polite", "broken"]
"""
SCHEMA = {
    "type": "object",
    "properties": {
        "priority": {"enum": ["LOW", "MEDIUM", "HIGH"]},
        "days": {"type": "integer"},
    },
    "required": ["priority", "days"],
    "additionalProperties": False,
}
FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "ticket", "strict": True, "schema": SCHEMA},
}
GOOD = '{"priority": "MEDIUM", "days": 3}'
DRIFTED = '{"priority": "Medium", "days": 3}'
HELLO = [{"role": "user", "content": "Rate this ticket."}]


PACKAGE = """
def polite(text, call):
    return None if "please" in text else f"no please, in {call.feature}"

def broken(text, call):
    raise RuntimeError(f"cannot read {text!r}")
"""
OFFERS = """[tocsin.checks]
polite = manners_for_tests:polite
broken = manners_for_tests:broken
"""


@contextmanager
def installed(folder: Path) -> Iterator[None]:
    """A package that offers checks, as pip leaves it behind."""
    about = folder / "manners_for_tests-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: manners-for-tests\nVersion: 1.0\n"
    )
    (about / "entry_points.txt").write_text(OFFERS)
    (folder / "manners_for_tests.py").write_text(PACKAGE)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("manners_for_tests", None)


class Asked(NamedTuple):
    """An answer as its caller gets it, and its record."""

    status: int
    headers: dict[str, str]
    body: bytes
    row: Interaction


class World:
    """A gateway with an upstream whose next answer a test sets."""

    def __init__(self, door: FrontDoor, port: int) -> None:
        self.door = door
        self.url = f"http://127.0.0.1:{port}"
        self.next: Step | str = "Fine."
        self.openai = openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="sk-x", max_retries=0)
        self.anthropic = anthropic.AsyncAnthropic(
            base_url=self.url, api_key="sk-ant", max_retries=0
        )

    async def entry(self, call_id: str) -> Entry:
        """What the store has of a call."""
        await self.door.app.recorder.flush()
        entry = self.door.app.store.entry(call_id)
        assert entry is not None
        return entry

    async def record(self, call_id: str) -> Interaction:
        return (await self.entry(call_id)).interaction

    async def http(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """One request on a connection of its own: status, headers, body."""

        def ask() -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=20)
            said = {name.replace("_", "-"): value for name, value in headers.items()}
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, said)
            reply = connection.getresponse()
            try:
                return reply.status, dict(reply.getheaders()), reply.read()
            finally:
                connection.close()

        return await asyncio.to_thread(ask)

    async def ask(self, step: Step | str, feature: str = "default", **body: Any) -> Asked:
        """What a feature's caller gets for this answer of the model, and what is recorded."""
        self.next = step
        asked = {"model": "m", "messages": HELLO, **body}
        status, headers, data = await self.http(
            "POST", "/v1/chat/completions", asked, tocsin_feature=feature
        )
        return Asked(status, headers, data, await self.record(headers["tocsin-call-id"]))


@asynccontextmanager
async def running(folder: Path, config: str = CONFIG) -> AsyncIterator[World]:
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    port = bound.getsockname()[1]
    holder: list[World] = []

    def step(seen: Seen) -> Step | str:
        return holder[0].next

    async with ScriptedServer(step) as upstream:
        path = folder / "tocsin.toml"
        path.write_text(config.format(folder=folder, port=port, url=upstream.url))
        found = load(path, {}, signals_known)
        with installed(folder / "site"):
            app = build(found, env={})
        door = FrontDoor(app, Settings(found, path, {}))
        server = uvicorn.Server(
            uvicorn.Config(
                door.gateway,
                http=protocol_for(door.gateway),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
            )
        )
        holder.append(World(door, port))
        task = asyncio.create_task(server.serve(sockets=[bound]))
        while not server.started:
            assert not task.done(), "the server ended at start"
            await asyncio.sleep(0.01)
        try:
            yield holder[0]
        finally:
            await holder[0].openai.close()
            await holder[0].anthropic.close()
            server.should_exit = True
            await task


def checks(row: Interaction) -> dict[str, str]:
    return {check.name: check.verdict for check in row.checks}


def detail(row: Interaction, name: str) -> str:
    return next(check.detail for check in row.checks if check.name == name)


def header_of(row: Interaction) -> str:
    return ", ".join(f"{check.name}={check.verdict}" for check in row.checks)


async def test_an_answer_that_breaks_its_schema_is_a_200_and_never_complete(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as world:
        status, headers, body, row = await world.ask(DRIFTED, response_format=FORMAT)
        assert status == 200
        assert json.loads(body)["choices"][0]["message"]["content"] == DRIFTED
        assert headers["tocsin-outcome"] == "invalid" == row.outcome
        assert headers["tocsin-checks"] == header_of(row)
        assert checks(row)["schema"] == "fail"
        assert detail(row, "schema") == (
            'priority: "Medium" is not allowed, nearest is "MEDIUM" '
            '(one of "LOW", "MEDIUM", "HIGH")'
        )

        asked = await world.ask(GOOD, response_format=FORMAT)
        assert asked.headers["tocsin-outcome"] == "complete" == asked.row.outcome
        assert asked.headers["tocsin-checks"] == "finish=pass, schema=pass" == header_of(asked.row)


async def test_of_a_stream_the_record_says_it_before_the_last_piece_is_out(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as world:
        for words, outcome in ((DRIFTED, "invalid"), (GOOD, "complete")):
            world.next = words
            raw = await world.openai.chat.completions.with_raw_response.create(
                model="m", messages=HELLO, response_format=FORMAT, stream=True
            )
            assert "tocsin-outcome" not in raw.headers
            text = ""
            async for chunk in raw.parse():
                text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
            assert text == words
            row = await world.record(raw.headers["tocsin-call-id"])
            assert (row.outcome, row.stream) == (outcome, True)
            assert checks(row)["schema"] == ("pass" if outcome == "complete" else "fail")


@pytest.mark.parametrize("stream", [False, True])
async def test_messages_are_held_to_their_output_format(tmp_path: Path, stream: bool) -> None:
    async with running(tmp_path) as world:
        for words, outcome in ((f"Sure: {GOOD}", "invalid"), (GOOD, "complete")):
            world.next = words
            raw = await world.anthropic.messages.with_raw_response.create(
                model="claude-x",
                max_tokens=100,
                messages=HELLO,
                stream=stream,
                extra_body={"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
            )
            parsed = await raw.parse()
            if stream:
                async for _ in parsed:
                    pass
            row = await world.record(raw.headers["tocsin-call-id"])
            assert row.outcome == outcome
            assert raw.headers.get("tocsin-outcome") == (None if stream else outcome)
            if outcome == "invalid":
                assert detail(row, "schema") == "text precedes the JSON"


@pytest.mark.parametrize("stream", [False, True])
async def test_tool_calls_are_held_to_the_tools_that_were_offered(
    tmp_path: Path, stream: bool
) -> None:
    tools = [{"type": "function", "function": {"name": "set_priority", "parameters": SCHEMA}}]
    cases = (
        ("set_priority", GOOD, "complete", ""),
        ("set_priority", DRIFTED, "invalid", 'set_priority: priority: "Medium" is not allowed'),
        ("set_priority", '{"priority": "LOW"', "invalid", "set_priority: the arguments: the JSON"),
        ("setPriority", GOOD, "invalid", "there is no tool setPriority, nearest is set_priority"),
    )
    async with running(tmp_path) as world:
        for name, arguments, outcome, why in cases:
            call = ToolCall(id="c1", name=name, arguments=arguments)
            world.next = Step(answer=Answer(tool_calls=(call,)))
            raw = await world.openai.chat.completions.with_raw_response.create(
                model="m", messages=HELLO, tools=tools, stream=stream, response_format=FORMAT
            )
            if stream:
                async for _ in raw.parse():
                    pass
            row = await world.record(raw.headers["tocsin-call-id"])
            assert (row.outcome, "schema" in checks(row)) == (outcome, False), arguments
            assert detail(row, "tool_arguments").startswith(why)
            assert row.tool_calls == 1


async def test_a_feature_is_held_to_the_checks_of_its_settings(tmp_path: Path) -> None:
    german = "Zusammenfassung: Der Kunde hat die Ware erhalten und ist nicht zufrieden mit ihr."
    async with running(tmp_path) as world:
        row = (await world.ask(german, "summary")).row
        assert (row.outcome, set(checks(row).values())) == ("complete", {"pass"})
        assert set(checks(row)) == {"finish", "refusal", "length", "language", "pattern"}

        english = "Zusammenfassung: The customer has the goods and is not happy with them at all."
        row = (await world.ask(english, "summary")).row
        assert (row.outcome, checks(row)["language"]) == ("invalid", "fail")
        assert row.checks[0].said == "heuristic"

        asked = await world.ask("Zusammenfassung TODO", "summary")
        assert checks(asked.row) == {
            "finish": "pass",
            "refusal": "pass",
            "length": "pass",
            "language": "unsure",
            "pattern": "fail",
        }
        assert asked.headers["tocsin-checks"].startswith("pattern=fail, language=unsure, ")

        row = (await world.ask(german * 6, "summary")).row
        assert detail(row, "length") == f"{len(german) * 6} characters, at most 400 are allowed"

        row = (await world.ask("No checks here.")).row
        assert checks(row) == {"finish": "pass", "refusal": "pass"}


async def test_citations_must_be_there_and_lead_somewhere(tmp_path: Path) -> None:
    sources = "Sources:\n[1] The warranty lasts two years.\n[2] Returns take a week.\n\nHow long?"
    messages = [{"role": "user", "content": sources}]
    async with running(tmp_path) as world:
        row = (await world.ask("Two years [1].", "cited", messages=messages)).row
        assert (row.outcome, checks(row)["cites"]) == ("complete", "pass")
        row = (await world.ask("Two years.", "cited", messages=messages)).row
        assert (row.outcome, detail(row, "cites")) == ("unverified", "there is no citation")
        asked = await world.ask("Two years [7].", "cited", messages=messages)
        assert asked.headers["tocsin-outcome"] == asked.row.outcome == "unverified"
        assert detail(asked.row, "cites") == "[7]: not in the context"


async def test_functions_of_packages_are_asked_and_may_crash(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        asked = await world.ask("Do this, please.", "own")
        assert asked.status == 200
        assert checks(asked.row) == {
            "broken": "unsure",
            "finish": "pass",
            "refusal": "pass",
            "polite": "pass",
        }
        assert asked.row.outcome == "complete"
        assert detail(asked.row, "broken") == "crashed: RuntimeError"
        row = (await world.ask("Do this.", "own")).row
        assert (row.outcome, detail(row, "polite")) == ("invalid", "no please, in own")


async def test_a_refusal_says_who_says_so(tmp_path: Path) -> None:
    message = {"role": "assistant", "content": None, "refusal": "No."}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    body = json.dumps({"id": "x", "object": "chat.completion", "choices": [choice]}).encode()
    async with running(tmp_path) as world:
        row = (await world.ask("I'm sorry, but I can't help with that request.")).row
        said = row.checks[0]
        assert (row.outcome, said.name, said.said) == ("refused", "refusal", "heuristic")

        asked = await world.ask(Step(body=body), response_format=FORMAT)
        assert (asked.row.outcome, asked.row.checks[0].said) == ("refused", "wire")
        assert "schema" not in checks(asked.row), "the refusal field need not fit the schema"
        assert asked.body == body

        filtered = Step(answer=Answer(text="", finish_reason="content_filter"))
        row = (await world.ask(filtered)).row
        assert (row.outcome, row.checks[0].said) == ("refused", "wire")


async def test_what_the_wire_does_not_call_complete_stays_what_it_is(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        cut = Step(answer=Answer(text='{"priority": "ME', finish_reason="length"))
        row = (await world.ask(cut, response_format=FORMAT)).row
        assert (row.outcome, checks(row)) == ("truncated", {"finish": "fail"})
        failed = Step(status=500, answer=Answer(text="I'm sorry, I can't help with that."))
        asked = await world.ask(failed, response_format=FORMAT)
        assert (asked.status, asked.row.outcome, asked.row.checks) == (500, "error", ())
        assert "tocsin-outcome" not in asked.headers


async def test_the_verdicts_are_wherever_records_are_read(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        asked = await world.ask(DRIFTED, response_format=FORMAT)
        call_id = asked.row.id
        key = world.door.keyring.issue("reader", "viewer", actor="test").secret
        status, _, body = await world.http(
            "GET", f"/api/interactions/{call_id}", authorization=f"Bearer {key}"
        )
        assert status == 200
        assert json.loads(body)["outcome"] == "invalid"
        assert json.loads(body)["checks"][0] == {
            "name": "schema",
            "verdict": "fail",
            "said": "validator",
            "detail": detail(asked.row, "schema"),
        }
        for path in (f"/calls/{call_id}", f"/runs/{asked.row.run_id}"):
            _, _, page = await world.http("GET", path, authorization=f"Bearer {key}")
            assert "nearest is &#34;MEDIUM&#34;" in page.decode(), path

        words = [sys.executable, "-m", "tocsin", "show", call_id]
        told = await asyncio.to_thread(
            subprocess.run,
            [*words, "--config", str(tmp_path / "tocsin.toml")],
            capture_output=True,
            text=True,
        )
        assert f"check schema failed: {detail(asked.row, 'schema')}" in told.stdout, told
        assert "check finish" not in told.stdout, "what passed is not shown"

        entry = await world.entry(call_id)
        file = tmp_path / "export.jsonl"
        file.write_bytes(b"".join(export_jsonl([entry])))
        assert list(read(file)) == [entry]
        assert entry.interaction.checks == asked.row.checks
        span = ExportTraceServiceRequest.FromString(encode([entry])).resource_spans[0]
        sent = {a.key: a.value for a in span.scope_spans[0].spans[0].attributes}
        assert sent["tocsin.outcome"].string_value == "invalid"
        said = [v.string_value for v in sent["tocsin.checks"].array_value.values]
        assert said == ["schema=fail", "finish=pass", "refusal=pass"]
        assert b"Medium" not in encode([entry]), "no word of an answer leaves without content"
