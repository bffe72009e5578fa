"""The demo's clients: recorded sessions turn by turn, and a few live questions, over real HTTP."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from tocsin.cli.frontdoor import FrontDoor
from tocsin.importers.lucebench import Session, sessions
from tocsin.importers.messages import Wire
from tocsin.providers import HttpClient, HttpRequest, OutboundGuard, Timeouts, Url

LIVE_MODEL = "smollm2-135m"
_LEAVES_AFTER = 8
"""Events that the reader of a background response waits for before it leaves."""
_CLIENTS = 6
_STREAM_EVERY = 3
_LIMITS = Timeouts(connect=10.0, first_byte=120.0, idle=60.0, total=180.0)
_SYSTEM = {
    "role": "system",
    "content": "You are a helpful assistant. Answer in one short sentence.",
}
_CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "country": {"type": "string"}},
    "required": ["city", "country"],
    "additionalProperties": False,
}

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Answer(msgspec.Struct, frozen=True):
    """One reply as the client saw it."""

    status: int
    run_id: str
    body: bytes


def model_of(session: Session) -> str:
    """The model name under which a session is sent; the recordings name none."""
    return f"recorded-{session.agent}"


def messages_of(session: Session) -> list[Wire]:
    """A session's messages, the last answer included."""
    last: Wire = {"role": "assistant", "content": session.answer}
    return [*session.messages, last] if session.answer else list(session.messages)


def choose(count: int, most_tokens: int) -> tuple[Session, ...]:
    """One cut of each recorded session, the longest that is no longer than ``most_tokens``.

    The recording holds several cuts of some sessions. They begin with the same messages, so no
    gateway could tell them apart; of each session one is sent.
    """
    found: dict[str, Session] = {}
    for session in sessions(tools=True):
        best = found.get(session.session)
        if session.tokens <= most_tokens and (best is None or best.tokens <= session.tokens):
            found[session.session] = session
    return tuple(found.values())[:count]


class Traffic:
    """What was sent and what came back."""

    def __init__(self, door: FrontDoor, sessions: tuple[Session, ...]) -> None:
        self.sessions = sessions
        self.sent = 0
        self.live_sent = 0
        self.failed: list[str] = []
        self.runs: dict[str, set[str]] = {session.id: set() for session in sessions}
        """Run ids that the gateway gave the calls of each session."""
        self.first_recorded_at: float | None = None
        """When the first call had been recorded, in seconds since the epoch."""
        self.rejoined = (0, 0, False)
        """Of the stream that was left: events before, events in all, whether the parts are it."""
        self._door = door
        self._base = Url.parse(door.base_url)
        self._client = HttpClient(guard=OutboundGuard(allow=[f"127.0.0.1:{self._base.port}"]))
        self._agent_key = ""
        self._live_key = ""

    async def replay(self) -> None:
        """Every session turn by turn, several at once, with a key and no header about identity."""
        issue = self._door.keyring.issue
        made = await asyncio.to_thread(
            issue, "demo agents", features=("coding-agent",), actor="tocsin demo"
        )
        self._agent_key = made.secret
        made = await asyncio.to_thread(
            issue, "demo assistant", features=("assistant",), actor="tocsin demo"
        )
        self._live_key = made.secret
        waiting = list(self.sessions)
        await asyncio.gather(*(self._work(waiting) for _ in range(_CLIENTS)))

    async def _work(self, waiting: list[Session]) -> None:
        while waiting:
            session = waiting.pop(0)
            messages = messages_of(session)
            for index, message in enumerate(messages):
                if message["role"] == "assistant" and index:
                    await self._turn(session, messages, index)

    async def _turn(self, session: Session, messages: list[Wire], index: int) -> None:
        """The call that was answered by message ``index`` of a session."""
        body = {
            "model": model_of(session),
            "messages": messages[:index],
            "stream": index % _STREAM_EVERY == 0,
        }
        answer = await self._post("/v1/chat/completions", body, self._agent_key)
        self.sent += 1
        if answer.status != 200:
            self.failed.append(f"session {session.id}, message {index}: status {answer.status}")
        self.runs[session.id].add(answer.run_id)
        if self.first_recorded_at is None:
            self.first_recorded_at = time.time()

    async def live(self) -> None:
        """A conversation, a stream, JSON, Anthropic's dialect, a response in the background."""
        first = {"role": "user", "content": "What is the capital of France?"}
        chat = {"model": LIVE_MODEL, "max_tokens": 40, "temperature": 0}
        said = await self._ask({**chat, "messages": [_SYSTEM, first]})
        reply = _content(said.body)
        history = [_SYSTEM, first, {"role": "assistant", "content": reply}]
        more = {"role": "user", "content": "And of Italy?"}
        await self._ask({**chat, "messages": [*history, more], "stream": True})
        city = {"role": "user", "content": "Which city is the Eiffel Tower in? Answer as JSON."}
        schema = {"type": "json_schema", "json_schema": {"name": "city", "schema": _CITY}}
        await self._ask({**chat, "messages": [_SYSTEM, city], "response_format": schema})
        body = {
            "model": LIVE_MODEL,
            "max_tokens": 40,
            "system": _SYSTEM["content"],
            "messages": [{"role": "user", "content": "Name one planet."}],
        }
        await self._ask(body, "/v1/messages", (b"anthropic-version", b"2023-06-01"))
        await self._come_back()

    async def _come_back(self) -> None:
        """A response in the background: its reader leaves in mid-stream and goes on elsewhere."""
        asked = {"model": LIVE_MODEL, "input": "Tell a story of a bell.", "background": True}
        begun = await self._ask({**asked, "max_output_tokens": 60}, "/v1/responses")
        name = _id(begun.body)
        if not name:
            return
        path = f"/v1/responses/{name}?stream=true"
        part = await self._events(path, most=_LEAVES_AFTER)
        rest = await self._events(f"{path}&starting_after={len(part) - 1}")
        whole = await self._events(path)
        self.rejoined = (len(part), len(whole), bool(part) and part + rest == whole)

    async def _events(self, path: str, most: int | None = None) -> list[bytes]:
        """The events of a stream, one by one; only the first ``most`` when given."""
        bearer = (b"authorization", b"Bearer " + self._live_key.encode())
        request = HttpRequest("GET", self._base, path, (bearer,), b"", _LIMITS)
        data = b""
        async with await self._client.send(request) as response:
            async for chunk in response:
                data += chunk
                if most is not None and data.count(b"\n\n") > most:
                    break
        return [event for event in data.split(b"\n\n")[:-1] if event.startswith(b"id:")][:most]

    async def _ask(
        self,
        body: Mapping[str, Any],
        path: str = "/v1/chat/completions",
        *headers: tuple[bytes, bytes],
    ) -> Answer:
        answer = await self._post(path, body, self._live_key, *headers)
        self.sent += 1
        self.live_sent += 1
        if answer.status != 200 or not answer.body:
            self.failed.append(f"live call to {path}: status {answer.status} {answer.body[:200]!r}")
        return answer

    async def _post(
        self, path: str, body: Mapping[str, Any], key: str, *headers: tuple[bytes, bytes]
    ) -> Answer:
        request = HttpRequest(
            "POST",
            self._base,
            path,
            (
                (b"authorization", b"Bearer " + key.encode()),
                (b"content-type", b"application/json"),
                *headers,
            ),
            _encode(body),
            _LIMITS,
        )
        return await self._read(request)

    async def get(self, path: str, key: str) -> Answer:
        """A page or an API answer, as the holder of a key."""
        bearer = (b"authorization", b"Bearer " + key.encode())
        return await self._read(HttpRequest("GET", self._base, path, (bearer,), b"", _LIMITS))

    async def _read(self, request: HttpRequest) -> Answer:
        async with await self._client.send(request) as response:
            data = b"".join([chunk async for chunk in response])
            named = dict(response.headers).get(b"tocsin-run-id", b"")
            return Answer(response.status, named.decode("latin-1"), data)

    async def aclose(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()


def _id(body: bytes) -> str:
    """The id of a response."""
    try:
        return str(_decode(body)["id"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return ""


def _content(body: bytes) -> str:
    """The text of a chat completion."""
    try:
        return str(_decode(body)["choices"][0]["message"]["content"])
    except (msgspec.DecodeError, KeyError, IndexError, TypeError):
        return ""
