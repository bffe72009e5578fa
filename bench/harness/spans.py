"""Realistic LLM spans from a seed, and OTLP requests made of them.

One of 20 prompt templates (shared text, as in production), unique context and answer text with
Zipf-distributed words (so it compresses like prose), and the attributes of a chat call.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

Flavour = Literal["openinference", "genai"]
Value = str | int | float
PROJECT = "bench"
HOUR_NS = 3600 * 10**9

MODELS = (  # name, provider, weight
    ("gpt-4o-mini", "openai", 40),
    ("gpt-4o", "openai", 15),
    ("claude-sonnet-4", "anthropic", 20),
    ("claude-haiku-4", "anthropic", 10),
    ("gemini-2.5-flash", "google", 10),
    ("llama-3.3-70b", "groq", 5),
)
SYLLABLES = (
    "ka lo mi ter san der vo re ne pli con tra gen ser men tic al ing ed es for tha whi ston bra"
)


class Prose:
    """Endless text of made-up words in a Zipf distribution, drawn cheaply from one corpus."""

    def __init__(self, seed: int, words: int = 1_000_000) -> None:
        self.random = random.Random(seed)
        syllables = SYLLABLES.split()
        draw = self.random.choices
        vocabulary = ["".join(draw(syllables, k=draw((1, 2, 3, 4))[0])) for _ in range(6000)]
        weights = [1 / (rank + 3) for rank in range(len(vocabulary))]
        self.corpus = draw(vocabulary, weights=weights, k=words)

    def words(self, count: int) -> str:
        """``count`` words from a random place of the corpus."""
        at = self.random.randrange(len(self.corpus) - count)
        return " ".join(self.corpus[at : at + count])


class Spans:
    """An endless series of chat spans."""

    def __init__(self, seed: int) -> None:
        self.prose = Prose(seed)
        self.random = self.prose.random
        self.templates = [
            f"You are assistant {i}. {self.prose.words(self.random.randint(50, 110))}"
            for i in range(20)
        ]
        self.at = time.time_ns() - 24 * HOUR_NS

    def one(self, flavour: Flavour) -> dict[str, Any]:
        """The next span: ids, times, status and attributes."""
        r = self.random
        model, provider, _ = r.choices(MODELS, weights=[m[2] for m in MODELS])[0]
        self.at += r.randint(1_000_000, 20_000_000)
        system, question = r.choice(self.templates), self.prose.words(r.randint(90, 210))
        answer = self.prose.words(r.randint(50, 170))
        messages = [("system", system), ("user", question)]
        tokens = (len(system) + len(question)) // 4, len(answer) // 4
        make = _openinference if flavour == "openinference" else _genai
        attributes = make(model, provider, messages, answer, tokens)
        return {
            "trace_id": r.randbytes(16),
            "span_id": r.randbytes(8),
            "name": f"chat {model}",
            "start": self.at,
            "end": self.at + int(r.lognormvariate(6.6, 0.7) * 1e6),
            "ok": r.random() >= 0.02,
            "attributes": attributes | self._extra(),
        }

    def _extra(self) -> dict[str, Value]:
        """What instrumentation adds beside the call itself."""
        r = self.random
        return {
            "session.id": f"sess-{r.getrandbits(20):07x}",
            "user.id": f"user-{r.randrange(5000):05d}",
            "gen_ai.request.temperature": round(r.random(), 2),
            "gen_ai.request.max_tokens": r.choice((256, 512, 1024)),
            "gen_ai.response.id": f"chatcmpl-{r.getrandbits(96):024x}",
            "gen_ai.response.finish_reasons": '["stop"]',
            "deployment.environment": r.choice(("prod", "staging")),
        }


Messages = list[tuple[str, str]]


def _openinference(
    model: str, provider: str, messages: Messages, answer: str, tokens: tuple[int, int]
) -> dict[str, Value]:
    found: dict[str, Value] = {
        "openinference.span.kind": "LLM",
        "llm.model_name": model,
        "llm.provider": provider,
        "llm.invocation_parameters": '{"temperature": 0.2, "max_tokens": 256}',
        "input.value": messages[-1][1],
        "output.value": answer,
        "llm.output_messages.0.message.role": "assistant",
        "llm.output_messages.0.message.content": answer,
        "llm.token_count.prompt": tokens[0],
        "llm.token_count.completion": tokens[1],
        "llm.token_count.total": sum(tokens),
    }
    for i, (role, content) in enumerate(messages):
        found[f"llm.input_messages.{i}.message.role"] = role
        found[f"llm.input_messages.{i}.message.content"] = content
    return found


def _genai(
    model: str, provider: str, messages: Messages, answer: str, tokens: tuple[int, int]
) -> dict[str, Value]:
    def told(role: str, content: str) -> dict[str, Any]:
        return {"role": role, "parts": [{"type": "text", "content": content}]}

    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": model,
        "gen_ai.provider.name": provider,
        "gen_ai.input.messages": json.dumps([told(*m) for m in messages]),
        "gen_ai.output.messages": json.dumps(
            [told("assistant", answer) | {"finish_reason": "stop"}]
        ),
        "gen_ai.usage.input_tokens": tokens[0],
        "gen_ai.usage.output_tokens": tokens[1],
    }


def request(spans: Iterable[Mapping[str, Any]]) -> bytes:
    """One OTLP export request, as protobuf."""
    message = ExportTraceServiceRequest()
    resource = message.resource_spans.add()
    for key, text in (("service.name", "support-bot"), ("openinference.project.name", PROJECT)):
        resource.resource.attributes.add(key=key).value.string_value = text
    scope = resource.scope_spans.add()
    scope.scope.name = "bench"
    for row in spans:
        span = scope.spans.add(trace_id=row["trace_id"], span_id=row["span_id"], name=row["name"])
        span.parent_span_id = row.get("parent_id", b"")
        span.kind = 3
        span.start_time_unix_nano, span.end_time_unix_nano = row["start"], row["end"]
        span.status.code = 1 if row["ok"] else 2
        for key, value in row["attributes"].items():
            slot = span.attributes.add(key=key).value
            if isinstance(value, int):
                slot.int_value = value
            elif isinstance(value, float):
                slot.double_value = value
            else:
                slot.string_value = value
    return bytes(message.SerializeToString())


def batches(count: int, size: int, flavour: Flavour, seed: int) -> list[tuple[list[str], bytes]]:
    """``count`` requests of ``size`` spans: the span ids of each in hex, and its bytes."""
    source, made = Spans(seed), []
    for _ in range(count):
        rows = [source.one(flavour) for _ in range(size)]
        made.append(([row["span_id"].hex() for row in rows], request(rows)))
    return made
