"""Recorded traffic for dashboard tests: made from core structs, the same for the same seed."""

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from tocsin.core.ids import derived_id
from tocsin.core.interaction import Attempt, Decision, Entry, Interaction, Usage
from tocsin.core.interaction import Blob as StoredBlob
from tocsin.core.messages import Message, chain, content_hash, link, parse_message
from tocsin.core.messages import Node as Link
from tocsin.core.outcome import Outcome

NOW = 1_773_324_000_000_000
"""2026-03-12 14:00:00 UTC."""
SECOND = 1_000_000
HOUR = 3600 * SECOND

_FEATURES = {
    "support-agent": ("gpt-4o-2024-08-06", 4_000, 0.02),
    "invoice-extract": ("claude-sonnet-4-5", 9_000, 0.06),
    "search-rerank": ("gpt-4o-mini", 900, 0.004),
    "onboarding-copilot": ("acme/own-model-7b", 2_500, 0.01),
}
_ASKS = (
    "I need to move my booking FY4821 to the morning flight on the 20th.",
    "Extract supplier, total and due date from the invoice below.",
    "Rank these twelve passages for the question about parental leave.",
    "How do I connect my bank account? The page says the token expired.",
    "Cancel order 88213 and tell me when the refund arrives.",
    "Summarise what changed in the contract since the March draft.",
)
_TOOLS = ("get_user_details", "search_flights", "update_booking", "lookup_invoice")


def message(role: str, content: Any = None, **fields: Any) -> Message:
    """A message as an OpenAI client would send it."""
    wire = {"role": role, "content": content, **fields}
    return parse_message(msgspec.json.encode(wire))


def tool_call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    """A tool call as an assistant's message carries it."""
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def entry(
    run_id: str,
    number: int,
    at: int,
    history: Sequence[Message],
    output: Message | None,
    *,
    new: int,
    parent: str | None = None,
    params: dict[str, Any] | None = None,
    **fields: Any,
) -> Entry:
    """One call of a run with its content."""
    messages = tuple(history)
    nodes = chain(messages)
    tip = nodes[-1].hash if nodes else bytes(16)
    answered = link(tip, output.hash) if output is not None else None
    blob = msgspec.json.encode(params or {"temperature": 0})
    made: dict[str, Any] = {
        "id": derived_id("call", run_id, str(number)),
        "source": "gateway",
        "dialect": "openai",
        "operation": "chat",
        "path": "/v1/chat/completions",
        "started_at": at,
        "duration_us": 2 * SECOND,
        "outcome": "complete",
        "feature": "support-agent",
        "run_id": run_id,
        "run_source": "prefix" if parent else "new",
        "parent_id": parent,
        "request_model": "gpt-4o",
        "response_model": "gpt-4o-2024-08-06",
        "provider": "openai",
        "upstream": "openai",
        "status": 200,
        "input_node": tip if messages else None,
        "output_node": answered,
        "input_messages": len(messages),
        "new_messages": new,
        "tool_calls": len(output.calls) if output is not None else 0,
        "tool_results": sum(bool(m.answers) for m in messages[len(messages) - new :]),
        "params": content_hash(blob),
        "input_bytes": sum(len(m.raw) for m in messages),
        "output_bytes": len(output.raw) if output is not None else 0,
    }
    if output is not None:
        nodes = (*nodes, Link(answered or b"", tip, output.hash))
    return Entry(
        interaction=Interaction(**{**made, **fields}),
        input=messages,
        nodes=nodes,
        output=output,
        blobs=(StoredBlob(content_hash(blob), blob),),
    )


def tool_run(
    seed: int,
    start: int,
    *,
    feature: str = "support-agent",
    calls: int = 5,
    ask: str = _ASKS[0],
    ending: Outcome = "complete",
    user: str | None = "mia_li_3668",
    loop: bool = False,
) -> list[Entry]:
    """An agent's run: it asks for a tool in each call and gets its result in the next one."""
    rng = random.Random(seed)
    model, pace, _ = _FEATURES[feature]
    run_id = derived_id("run", feature, str(seed))
    history = [
        message("system", "You are a careful agent. Look before you act."),
        message("user", ask),
    ]
    made: list[Entry] = []
    at, new, parent = start, 2, None
    for number in range(calls):
        last = number == calls - 1
        call_id = f"call_{seed}_{number}"
        tool = _TOOLS[1] if loop else rng.choice(_TOOLS)
        arguments = {"user_id": user or "guest", "page": 1 if loop else number}
        output = message(
            "assistant",
            "Done: I moved it to flight HAT041, 08:10." if last else None,
            **({} if last else {"tool_calls": [tool_call(call_id, tool, json.dumps(arguments))]}),
        )
        outcome: Outcome = ending if last else "complete"
        failed = outcome in ("error", "timeout")
        sent = sum(len(m.raw) for m in history) // 4 + rng.randrange(40)
        took = int(pace * 1000 * rng.uniform(0.4, 2.4))
        priced = model != "acme/own-model-7b"
        made.append(
            entry(
                run_id,
                number,
                at,
                history,
                None if failed else output,
                new=new,
                parent=parent,
                feature=feature,
                outcome=outcome,
                end_user=user,
                duration_us=took,
                first_chunk_us=int(took * rng.uniform(0.2, 0.6)),
                stream=True,
                response_model=model,
                request_model=model,
                release="2026-03-10" if start > NOW - 30 * HOUR else "2026-03-02",
                usage=Usage(
                    input_tokens=sent,
                    output_tokens=None if failed else 20 + rng.randrange(200),
                    cache_read_tokens=sent // 2 if number else 0,
                    source="reported" if priced else "estimated",
                ),
                cost_nano_usd=sent * 2500 + 900_000 if priced else None,
                cost_source="listed" if priced else "unknown",
                status=502 if failed else 200,
                error_type="upstream_failed" if failed else None,
                error_message="openai closed the connection before an answer." if failed else None,
                attempts=_attempts(model, at, took, failed),
                decisions=(
                    Decision(policy="agents", mode="observe", action="deny", detail="same call 3×"),
                )
                if loop and number == 4
                else (),
            )
        )
        parent = made[-1].interaction.id
        result = json.dumps({"ok": True, "page": arguments["page"], "rows": ["a", "b"]})
        history = [*history, output, message("tool", result, tool_call_id=call_id)]
        new = 1
        at += took + int(rng.uniform(0.1, 3.0) * SECOND)
    return made


def _attempts(model: str, at: int, took: int, failed: bool) -> tuple[Attempt, ...]:
    first = Attempt(
        number=1,
        upstream="openai",
        provider="openai",
        model=model,
        started_at=at,
        duration_us=took,
        status=None if failed else 200,
        error="ConnectionError: closed before an answer" if failed else None,
        request_id="req_7f2c",
    )
    return (first,)


def world(runs: int = 160, days: float = 2.0, seed: int = 7) -> Iterator[Entry]:
    """Two days of four features, busier towards noon, with a few bad endings."""
    rng = random.Random(seed)
    names = list(_FEATURES)
    for i in range(runs):
        feature = rng.choices(names, weights=(5, 2, 8, 1))[0]
        ill = rng.random() < 5 * _FEATURES[feature][2]
        ending: Outcome = (
            rng.choice(("error", "timeout", "refused", "truncated", "cancelled"))
            if ill
            else "complete"
        )
        back = int(days * 24 * HOUR * rng.random() ** 1.3)
        yield from tool_run(
            seed * 1000 + i,
            NOW - back - 60 * SECOND,
            feature=feature,
            calls=1 if feature == "search-rerank" else rng.randrange(2, 9),
            ask=_ASKS[i % len(_ASKS)],
            ending=ending,
            user=rng.choice(("mia_li_3668", "omar_k", "j.doe@example.com", None)),
            loop=i % 23 == 0,
        )


def long_run(steps: int, start: int = NOW - 9 * HOUR) -> Iterator[Entry]:
    """One run of very many calls, each of which sends only a short window of the history."""
    run_id = derived_id("run", "long", str(steps))
    system = message("system", "Crawl the catalogue until every page was read.")
    for number in range(steps):
        asked = message("user", f"Page {number % 997} says: 12 items, next page {number + 1}.")
        output = message("assistant", f"Read page {number}; 12 items noted.")
        yield entry(
            run_id,
            number,
            start + number * 900_000,
            (system, asked),
            output,
            new=2 if number == 0 else 1,
            feature="catalogue-crawler",
            duration_us=700_000,
            first_chunk_us=210_000,
            outcome="error" if number % 4001 == 4000 else "complete",
            usage=Usage(input_tokens=800 + number % 4000, output_tokens=24, source="reported"),
            cost_nano_usd=2_000_000 + number % 4000 * 2500,
        )


HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>",
    "[click](javascript:alert(3)) javascript:alert(4) data:text/html,<script>alert(5)</script>",
    "W" * 6000,
    "\u202egnp.exe\u202c \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "bell \x07 null \x00 escape \x1b[31m red \x9b \ufeff end",
    "{{ 7 * 7 }} {% raw %} ${7*7} <!--",
    "</textarea></title></style>\"'><svg/onload=alert(6)>",
)


def hostile_run(start: int = NOW - HOUR) -> list[Entry]:
    """A run whose every text tries to break out of the page."""
    run_id = derived_id("run", "hostile")
    history = [
        message("user", HOSTILE[0] + " " + HOSTILE[6]),
        *(message("user", h) for h in HOSTILE[1:]),
    ]
    calls = [tool_call(f"c{i}", h[:200], json.dumps({h[:60]: h})) for i, h in enumerate(HOSTILE)]
    asked = message("assistant", HOSTILE[0], tool_calls=calls)
    first = entry(
        run_id,
        0,
        start,
        history,
        asked,
        new=len(history),
        feature=HOSTILE[0],
        end_user=HOSTILE[6],
        release=HOSTILE[1],
        agent=HOSTILE[6],
        response_model=HOSTILE[6],
        error_type=HOSTILE[0],
        error_message=HOSTILE[6],
        outcome="error",
        params={HOSTILE[0]: HOSTILE[6]},
        attributes={HOSTILE[0]: HOSTILE[6]},
        finish_reason=HOSTILE[0],
    )
    results = [
        parse_message(
            msgspec.json.encode(
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": f"c{i}", "content": h},
                        {"type": "image_url", "image_url": {"url": "http://evil.example/x.png"}},
                    ],
                }
            )
        )
        for i, h in enumerate(HOSTILE)
    ]
    second = entry(
        run_id,
        1,
        start + 5 * SECOND,
        [*history, asked, *results],
        message("assistant", HOSTILE[3]),
        new=len(results),
        parent=first.interaction.id,
        feature=HOSTILE[0],
        conversation_id="conv_hostile",
    )
    return [first, second]
