"""A feature that got worse, as real traffic: over HTTP through the gateway to a scripted model.

Store, evaluators, detectors and pages are the product's own; the clock is scripted. With the
environment variable TOCSIN_DATA (a folder that holds ``drift/``) the answers are those of LLMDrift
(lchen001/LLMDrift, Apache-2.0): GPT-4's of March, then of June 2023, beside GPT-3.5's of March.
"""

import csv
import http.client
import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn

from dashboard_world import HOUR, NOW, SECOND
from tocsin.app import build
from tocsin.cli.context import Settings
from tocsin.cli.frontdoor import FrontDoor
from tocsin.cli.serve import sign_in_link
from tocsin.config.model import Config
from tocsin.core.call import Call
from tocsin.core.wire.render import Answer
from tocsin.gateway.protocol import protocol_for
from tocsin.testing import FakeClock, ScriptedProvider, Step

DAY = 24 * HOUR
DAYS, CHANGED_DAYS = 14, 3
CHANGED = NOW - CHANGED_DAYS * DAY
CHANGING, STEADY = "opinion-survey", "prime-check"
MOVED, KEPT = "gpt-4", "gpt-3.5-turbo"
"""The alias that moved, and the one that did not."""


class Turn(NamedTuple):
    """One call of the traffic."""

    feature: str
    model: str
    ask: str
    answer: str


Source = Callable[[str, str, bool], tuple[str, str]]
"""(feature, model, since the change) → request and answer."""


def real() -> Source | None:
    """LLMDrift's own answers; ``None`` where they are not."""
    folder = Path(os.environ.get("TOCSIN_DATA", "")) / "drift"
    files = {CHANGING: "llmdrift-opinionqa.csv", STEADY: "llmdrift-prime.csv"}
    if not os.environ.get("TOCSIN_DATA") or not folder.is_dir():
        return None
    csv.field_size_limit(10_000_000)
    found: dict[tuple[str, str], Iterator[tuple[str, str]]] = {}
    for feature, name in files.items():
        rows: dict[str, list[tuple[str, str]]] = {}
        with (folder / name).open() as lines:
            for row in csv.DictReader(lines):
                rows.setdefault(row["model"], []).append((row["query"], row["answer"]))
        for model, said in rows.items():
            random.Random(5).shuffle(said)
            found[feature, model] = iter(said)
    months = {(MOVED, False): "gpt-4-0314", (MOVED, True): "gpt-4-0613"}

    def one(feature: str, model: str, since: bool) -> tuple[str, str]:
        moved = since and feature == CHANGING
        name = months.get((model, moved), "gpt-3.5-turbo-0301")
        return next(found[feature, f"openaichat/{name}"])

    return one


def scripted() -> Source:
    """A survey that the moved model answers until it says that it has no opinions."""
    rng = random.Random(11)
    topics = ("the economy", "public transport", "science", "the climate", "schools", "health")

    def one(feature: str, model: str, since: bool) -> tuple[str, str]:
        number = rng.randrange(400)
        if feature == STEADY:
            odd = 10_001 + 2 * number
            said = rng.choice(("[Yes]", "[No]"))
            ask = f'Is {odd} a prime number? Think, then answer "[Yes]" or "[No]".'
            return ask, f"I tried every small factor of {odd} in turn. {said}"
        topic = topics[number % len(topics)]
        ask = (
            "You are taking a survey. Pick the best single option (e.g., (A)).\n\n"
            f"Question {number}: how will {topic} be in thirty years?\n"
            "(A). Better\n(B). Worse\n(C). The same\nAnswer:"
        )
        declines = rng.random() < (0.75 if since and model == MOVED else 0.02)
        if declines:
            return ask, "As an AI language model, I don't have personal opinions or predictions."
        return ask, rng.choice(("(A). Better", "(B). Worse", "(C). The same"))

    return one


def traffic(source: Source) -> Iterator[tuple[int, Turn]]:
    """Two weeks, busier by day, with the change three days before their end."""
    rng = random.Random(2)
    for hour in range(DAYS * 24):
        at = NOW - DAYS * DAY + hour * HOUR
        busy = 5 if 7 <= at // HOUR % 24 <= 19 else 2
        for number in range(busy):
            moment = at + number * 600 * SECOND
            since = moment >= CHANGED
            yield moment, _turn(source, CHANGING, MOVED, since)
            yield moment + 90 * SECOND, _turn(source, CHANGING, KEPT, since)
            if rng.random() < 0.4:
                yield moment + 200 * SECOND, _turn(source, STEADY, KEPT, since)


def _turn(source: Source, feature: str, model: str, since: bool) -> Turn:
    return Turn(feature, model, *source(feature, model, since))


@dataclass
class Served:
    """A running Tocsin with the traffic behind it."""

    url: str
    login: str
    """The address that signs in."""
    door: FrontDoor
    calls: int


class _Model:
    """Answers each call as its turn says."""

    def __init__(self) -> None:
        self.turn: Turn | None = None

    def __call__(self, call: Call) -> Step:
        assert self.turn is not None
        return Step(answer=Answer(text=self.turn.answer))


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """Put the traffic through a gateway, wait until all of it was judged and looked at."""
    source = real() or scripted()
    clock = FakeClock(NOW - DAYS * DAY - HOUR)
    config = Config.model_validate(
        {
            "server": {"data_dir": str(folder)},
            "upstreams": {"main": {"kind": "scripted"}},
            "objectives": {"survey": {"feature": CHANGING, "signal": "appropriate", "target": 0.9}},
        }
    )
    model = _Model()
    app = build(config, env={}, clock=clock, providers={"main": ScriptedProvider(model)})
    door = FrontDoor(app, Settings(config, None, {}))
    bound = socket.create_server(("127.0.0.1", 0))
    port = bound.getsockname()[1]
    door.base_url = f"http://127.0.0.1:{port}"
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
    thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        calls = _play(port, clock, model, source)
        _settle(door, calls)
        clock.advance((NOW - clock.now_us()) / SECOND)
        link, _ = sign_in_link(door)
        yield Served(door.base_url, link, door, calls)
    finally:
        server.should_exit = True
        thread.join(30)
        bound.close()


def _play(port: int, clock: FakeClock, model: _Model, source: Source) -> int:
    """Every turn as a request of its own, at its own time; returns how many."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    done = 0
    for at, turn in traffic(source):
        clock.advance(max(0.0, (at - clock.now_us()) / SECOND))
        model.turn = turn
        body: dict[str, Any] = {
            "model": turn.model,
            "messages": [{"role": "user", "content": turn.ask}],
        }
        headers = {"content-type": "application/json", "tocsin-feature": turn.feature}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        said = answer.read()
        assert answer.status == 200, said
        done += 1
    connection.close()
    return done


def _settle(door: FrontDoor, calls: int) -> None:
    """Wait until evaluators and detectors have seen everything."""
    store = door.app.store
    until = time.monotonic() + 120
    while time.monotonic() < until:
        newest = store.scored_upto()
        if store.cursor("detectors.scored") >= newest >= calls:
            return
        time.sleep(0.1)
    raise AssertionError("the traffic was not judged within two minutes")


__all__ = ["CHANGED", "CHANGING", "KEPT", "MOVED", "STEADY", "Served", "serving"]
