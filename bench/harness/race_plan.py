"""The calls of a race: every one is planned from the seed, and carries its own plan as text.

The mark in the prompt tells the scripted upstream which call this is, how many tokens it shall
report and what shall go wrong in each attempt, so that it needs to know nothing of budgets and any
gateway may stand between. ``race_upstream`` reads the mark, ``race_books`` judges the end.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

CHAT_MODEL, EMBED_MODEL = "race-chat", "race-embed"
INPUT_NANO, OUTPUT_NANO, EMBED_NANO = 150, 600, 20
"""Nano US dollars per token: the public prices of gpt-4o-mini and text-embedding-3-small."""
CEILING = 400
"""Most tokens that the model answers with when a call names no maximum, or cannot name one."""
TEMPLATE = 16
"""Tokens that a chat template may put around the one message of a call."""

Route = Literal["chat", "completions", "responses", "messages", "embeddings", "other"]
ROUTES: dict[str, str] = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "embeddings": "/v1/embeddings",
    "other": "/v1/race/generate",
}
MARK = re.compile(
    rb"<<race c=(?P<call>\S+) i=(?P<input>\d+) o=(?P<output>\d+) n=(?P<pieces>\d+) "
    rb"f=(?P<first>\d+) w=(?P<pause>\d+) s=(?P<script>[\w,]+)>>"
)
"""The mark: call, tokens to report and generate, pieces, pauses in ms, what each attempt does."""

Scripts = tuple[tuple[int, str], ...]


@dataclass(frozen=True, kw_only=True)
class Temper:
    """What the calls of one group of clients are like. Each shows other leaks most clearly."""

    name: str
    scripts: Scripts
    """Weights of what the attempts of one call do; the last word holds for every further attempt.

    ``ok``: answers. ``deaf``: answers, and a caller that leaves does not stop it. ``limited``: 429
    at once. ``broken``: 500 after a while. Neither is billed, as no large provider bills an error
    that it answers with. ``drop``: works, then closes without a head. ``cut``: closes in
    mid-answer. What these two worked on is billed, and nobody tells how much it was.
    """
    weights: tuple[int, ...] = (8, 2, 3, 4, 2, 2)
    """Of the routes, in the order of ``ROUTES``."""
    leaves: bool = False
    """Whether callers leave early."""
    reports: float = 1.0
    """Share of chat and completion streams that ask for the usage."""


TEMPERS = (
    Temper(
        name="wild",
        scripts=(
            *((62, "ok"), (5, "deaf"), (5, "limited,ok"), (4, "limited,limited,ok")),
            *((6, "broken,ok"), (3, "broken,limited,ok"), (4, "broken,broken,broken,ok")),
            *((3, "broken"), (4, "drop,ok"), (4, "cut")),
        ),
        leaves=True,
        reports=0.7,
    ),
    Temper(name="calm", scripts=((84, "ok"), (8, "limited,ok"), (8, "broken,ok"))),
    Temper(name="stubborn", scripts=((30, "ok"), (60, "drop,ok"), (10, "cut"))),
    Temper(
        name="strange",
        scripts=((85, "ok"), (5, "limited,ok"), (10, "drop,ok")),
        weights=(1, 1, 1, 1, 4, 8),
    ),
)
"""Of the groups of clients, one after the other."""
WORDS = (
    *("the", "order", "has", "left", "our", "house", "and", "can", "come", "back"),
    *("in", "ten", "days", "when", "it", "is", "whole", "so", "ask"),
)
"""Words of one token each, of which prompts and answers are made."""
Leave = Literal["", "sent", "head", "stream"]
"""When the client leaves: never, right after sending, before the head, or in mid-answer."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One call as the client will make it. ``worst`` is the most that one attempt may cost."""

    id: str
    route: str
    path: str
    body: bytes
    stream: bool
    leave: Leave
    leave_after: float
    """Seconds after sending (``head``), or pieces of the answer (``stream``)."""
    output_cap: int
    """Most output tokens of an attempt, over all its choices."""
    retries: int
    """How often the client itself calls again when the connection breaks."""

    @property
    def worst(self) -> int:
        """Nano US dollars. A token is a byte at the least, so the body's length bounds the input:
        a gateway that reserves less is judged more mildly, never wrongly. A response may be asked
        of the upstream as a chat completion, which takes more bytes."""
        tokens = max(len(self.body), self._chat_bytes()) + TEMPLATE
        if self.route == "embeddings":
            return tokens * EMBED_NANO
        return tokens * INPUT_NANO + self.output_cap * OUTPUT_NANO

    def _chat_bytes(self) -> int:
        """Length of the chat completion that says the same as a response's request; else 0."""
        if self.route != "responses":
            return 0
        asked = json.loads(self.body)
        chat = {
            "model": asked["model"],
            "messages": [{"role": "user", "content": asked["input"]}],
            "max_completion_tokens": asked.get("max_output_tokens", CEILING),
        }
        if self.stream:
            chat |= {"stream": True, "stream_options": {"include_usage": True}}
        return len(json.dumps(chat))

    def asking(self, model: str, embed_model: str) -> Planned:
        """The same call under the gateway's own names for the models."""
        body = self.body.replace(b'"%b"' % CHAT_MODEL.encode(), b'"%b"' % model.encode(), 1)
        body = body.replace(b'"%b"' % EMBED_MODEL.encode(), b'"%b"' % embed_model.encode(), 1)
        return replace(self, body=body)

    def again(self, number: int) -> Planned:
        """The same call made anew by the client, under an id of its own."""
        old, new = f"c={self.id} ", f"c={self.id}.{number} "
        body = self.body.replace(old.encode(), new.encode())
        return replace(self, id=f"{self.id}.{number}", body=body, retries=0)


def planned(rng: random.Random, call_id: str, routes: tuple[str, ...], temper: Temper) -> Planned:
    """The next call of one client, on one of ``routes``."""
    likely = zip(ROUTES, temper.weights, strict=True)
    weights = [weight if name in routes else 0 for name, weight in likely]
    route = rng.choices(list(ROUTES), weights)[0]
    stream = route != "embeddings" and rng.random() < 0.5
    script = rng.choices([s for _, s in temper.scripts], [w for w, _ in temper.scripts])[0]
    limit = rng.randrange(20, CEILING)
    named = route == "messages" or (route not in ("other", "embeddings") and rng.random() < 0.8)
    choices = 2 if route in ("chat", "completions") and rng.random() < 0.06 else 1
    cap = (limit if named else CEILING) * choices
    # Now and then an answer is as long as it may be: nothing is left of what was reserved.
    output = cap if rng.random() < 0.15 else rng.randrange(1, cap + 1)
    text = _words(rng)
    # Vendors' vocabularies differ; none makes more tokens than there are bytes.
    tokens = max(1, len(text.encode()) // rng.choice((2, 3, 4, 4, 5)))
    mark = (
        f"<<race c={call_id} i={tokens} o={output} n={rng.randrange(2, 9)} "
        f"f={_pause(rng)} w={rng.randrange(2, 12)} s={script}>>"
    )
    body: dict[str, Any] = {"model": EMBED_MODEL if route == "embeddings" else CHAT_MODEL}
    if named:
        body["max_output_tokens" if route == "responses" else "max_tokens"] = limit
    if choices > 1:
        body["n"] = choices
    if stream:
        body["stream"] = True
        if route in ("chat", "completions") and rng.random() < temper.reports:
            body["stream_options"] = {"include_usage": True}
    body |= _asked(route, f"{mark} {text}")
    leave: Leave
    leave, after = _leaving(rng, stream) if temper.leaves else ("", 0.0)
    return Planned(
        id=call_id,
        route=route,
        path=ROUTES[route],
        body=json.dumps(body).encode(),
        stream=stream,
        leave=leave,
        leave_after=after,
        output_cap=cap,
        retries=rng.randrange(3),
    )


def _asked(route: str, text: str) -> dict[str, Any]:
    if route in ("chat", "messages"):
        return {"messages": [{"role": "user", "content": text}]}
    return {"input" if route in ("responses", "embeddings") else "prompt": text}


def _words(rng: random.Random) -> str:
    words = rng.choices(WORDS, k=rng.randrange(6, 80))
    if rng.random() < 0.1:
        words += ["größer", "日本語", "🙂"] * rng.randrange(1, 8)
    return " ".join(words)


def _pause(rng: random.Random) -> int:
    """Milliseconds to the first token: mostly quick, sometimes long."""
    return rng.randrange(120, 400) if rng.random() < 0.1 else rng.randrange(3, 40)


def _leaving(rng: random.Random, stream: bool) -> tuple[Leave, float]:
    """A quarter of the callers leave early, at any instant."""
    draw = rng.random()
    if draw < 0.03:
        return "sent", 0.0
    if draw < 0.14:
        return "head", rng.random() * 0.12
    if draw < 0.25 and stream:
        return "stream", rng.randrange(1, 6)
    return "", 0.0
