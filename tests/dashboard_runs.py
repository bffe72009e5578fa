"""Runs for the supervisor's pages: recorded as a gateway does it, judged by the real engine."""

import json
import random
from collections.abc import Iterable, Sequence
from itertools import groupby

import msgspec

from dashboard_world import HOSTILE, NOW, SECOND, entry, message, tool_call
from tocsin.core.domain import Alert
from tocsin.core.ids import derived_id
from tocsin.core.interaction import Decision, Entry, Mode, Usage
from tocsin.core.ledger import Account, Amounts, Limit
from tocsin.core.messages import Message
from tocsin.core.supervision import Finding
from tocsin.domains.agents.engine import Tracker
from tocsin.store import Store

MINUTE = 60 * SECOND
_PER_TOKEN = 2_500


def supervised_run(
    name: str,
    steps: Sequence[tuple[str, str, str]],
    *,
    ask: str,
    feature: str = "support-agent",
    start: int = NOW - 20 * MINUTE,
    pace: int = 9 * SECOND,
    agents: Sequence[str] = ("",),
    answer: str = "",
    decisions: dict[int, Decision] | None = None,
) -> list[Entry]:
    """A run whose calls ask for one tool each: (tool, arguments, result)."""
    run_id = derived_id("run", "supervised", name)
    history = [
        message("system", "You are a careful agent. Use the tools. Say when you are done."),
        message("user", ask),
    ]
    made: list[Entry] = []
    rng = random.Random(name)
    at, new, parent = start, 2, None
    last: list[tuple[str, str, str]] = [("", "", "")] if answer else []
    for number, (tool, arguments, result) in enumerate([*steps, *last]):
        call_id = f"call_{name}_{number}"
        asked = [tool_call(call_id, tool, arguments)] if tool else []
        output = (
            message("assistant", None, tool_calls=asked) if tool else message("assistant", answer)
        )
        sent = 400 + sum(len(m.raw) for m in history) // 4
        wrote = 30 + rng.randrange(90)
        took = int(rng.uniform(0.6, 2.2) * SECOND)
        made.append(
            entry(
                run_id,
                number,
                at,
                history,
                output,
                new=new,
                parent=parent,
                feature=feature,
                agent=agents[number % len(agents)] or None,
                duration_us=took,
                first_chunk_us=took // 3,
                stream=True,
                usage=Usage(input_tokens=sent, output_tokens=wrote, source="reported"),
                cost_nano_usd=sent * _PER_TOKEN + wrote * 4 * _PER_TOKEN,
                decisions=((decisions or {})[number],) if number in (decisions or {}) else (),
            )
        )
        parent = made[-1].interaction.id
        answered = message("tool", result, tool_call_id=call_id)
        history, new = [*history, output, answered], 1
        at += took + int(pace * rng.uniform(0.5, 1.5))
    return made


def listing_loop(calls: int = 14, **fields: object) -> list[Entry]:
    """An agent that lists the same folder in ever new words."""
    spellings = ("ls src", "ls -la src/", "ls ./src", "ls -l src", "ls -a ./src/", "ls src | head")
    steps = [
        (
            "bash",
            json.dumps({"command": spellings[i % len(spellings)], "timeout": 30}),
            "app.py\nbilling.py\ninvoices/\nreports.py\ntests/",
        )
        for i in range(calls)
    ]
    ask = "Find where the VAT rate of an invoice is rounded, and fix it."
    return supervised_run("listing", steps, ask=ask, feature="code-agent", **fields)  # type: ignore[arg-type]


def failing_loop(calls: int = 9) -> list[Entry]:
    """An agent that meets the same failure again and again."""
    steps = [
        (
            "search_flights",
            json.dumps({"from": "SFO", "to": "JFK", "date": f"2026-05-{20 + i % 3}", "seats": 1}),
            json.dumps(
                {"error": "invalid_session", "message": f"session expired, request {7300 + i}"}
            ),
        )
        for i in range(calls)
    ]
    ask = "I need to move my booking FY4821 to the morning flight on the 20th."
    return supervised_run("failing", steps, ask=ask, start=NOW - 9 * MINUTE)


def two_agents(calls: int = 7) -> list[Entry]:
    """An analyzer and a verifier that hand the same question back and forth."""
    steps = []
    for i in range(calls):
        steps += [
            (
                "request_verification",
                json.dumps({"claim": "Q3 churn is 4.1 %", "attempt": i + 1}),
                "Not verified: please clarify how the 4.1 % was derived.",
            ),
            (
                "request_analysis",
                json.dumps({"question": "How was 4.1 % derived?", "round": i + 1}),
                "Analysis says: churn is 4.1 %, please verify.",
            ),
        ]
    return supervised_run(
        "analyzer",
        steps[:calls],
        ask="Prepare the churn section of the quarterly report, verified.",
        feature="market-research",
        agents=("analyzer", "verifier"),
        start=NOW - 25 * MINUTE,
    )


def working_run(name: str, feature: str, calls: int, start: int) -> list[Entry]:
    """A run that gets on: each step brings something new."""
    topics = (
        "refund rules",
        "fare classes",
        "baggage",
        "seat maps",
        "visa notes",
        "lounges",
        "meal codes",
        "upgrade lists",
        "delays",
        "crew notes",
        "hotel partners",
        "taxes",
    )
    steps = [
        (
            "read_document",
            json.dumps({"path": f"handbook/{topics[i % len(topics)].replace(' ', '-')}-{i}.md"}),
            f"{topics[i % len(topics)].capitalize()}, chapter {i}: "
            + " ".join(f"{topics[(i * 7 + j) % len(topics)]} {i * 31 + j * 17}" for j in range(24)),
        )
        for i in range(calls)
    ]
    return supervised_run(
        name,
        steps,
        ask=f"Summarise the handbook for {name}.",
        feature=feature,
        start=start,
        answer="Done: here is the summary you asked for.",
    )


def hostile_loop() -> list[Entry]:
    """A loop whose every text tries to break out of the page."""
    steps = [
        (HOSTILE[6][:60], json.dumps({HOSTILE[0]: HOSTILE[3], "n": i}), HOSTILE[0] + HOSTILE[4])
        for i in range(6)
    ]
    return supervised_run(
        "hostile", steps, ask=HOSTILE[6], feature=HOSTILE[0][:80], agents=(HOSTILE[6],)
    )


def supervise(store: Store, entries: Iterable[Entry], mode: Mode = "observe") -> list[Finding]:
    """What the supervisor does: each call through the engine, what it says into the store."""
    found: list[Finding] = []
    ordered = sorted(entries, key=lambda e: (e.interaction.run_id, e.interaction.started_at))
    for run_id, calls in groupby(ordered, key=lambda e: e.interaction.run_id):
        tracker: Tracker | None = None
        for one in calls:
            call = one.interaction
            tracker = tracker or Tracker(run_id, call.feature)
            found += tracker.ask(
                one.input,
                at_us=call.started_at,
                agent=call.agent or "",
                interaction_id=call.id,
            )
            found += _answered(tracker, one, one.output)
        if tracker is not None:
            store.save_watches([tracker.watch()])
    found = [msgspec.structs.replace(f, mode=mode) for f in found]
    store.add_findings(found)
    return found


def _answered(tracker: Tracker, one: Entry, output: Message | None) -> tuple[Finding, ...]:
    call = one.interaction
    return tracker.answered(
        output,
        input_tokens=call.usage.input_tokens,
        output_tokens=call.usage.output_tokens,
        nano_usd=call.cost_nano_usd,
        at_us=call.started_at + call.duration_us,
    )


def alerts() -> list[Alert]:
    """One that fires, one that is over."""
    return [
        Alert(
            fingerprint="burn:market-research",
            detector="burn_rate",
            feature="market-research",
            severity="critical",
            state="firing",
            at=NOW - 4 * MINUTE,
            summary="market-research spends 7.2 times its usual rate over 1 h and over 5 min.",
        ),
        Alert(
            fingerprint="limit:day:support-agent",
            detector="ledger",
            feature="support-agent",
            severity="warning",
            state="firing",
            at=NOW - 40 * MINUTE,
            summary="support-agent has used 80 % of the limit “day”.",
        ),
    ]


def accounts() -> list[Account]:
    """Accounts of a few limits, as a ledger reports them."""
    day = Limit(name="day", per="day", timezone="Europe/Berlin", nano_usd=50_000_000_000)
    feature = Limit(
        name="per-feature", scope="feature", per="hour", nano_usd=5_000_000_000, tokens=2_000_000
    )
    run = Limit(name="run", per="run", nano_usd=5_000_000_000, calls=200, depth=3)
    key = Limit(name="ci", scope="key", per="day", rolling=True, calls=1_000)
    listing = derived_id("run", "supervised", "listing")
    midnight = NOW - 14 * 3600 * SECOND
    return [
        Account(
            limit=day,
            value="",
            window_start=midnight,
            resets_at=NOW + 9 * 3600 * SECOND,
            spent=Amounts(nano_usd=31_420_000_000),
            held=Amounts(nano_usd=900_000_000),
            uncertain=Amounts(nano_usd=2_100_000_000),
            estimated=Amounts(nano_usd=400_000_000),
        ),
        Account(
            limit=feature,
            value="market-research",
            window_start=NOW - 20 * MINUTE,
            resets_at=NOW + 40 * MINUTE,
            spent=Amounts(nano_usd=4_820_000_000, tokens=1_310_000),
            held=Amounts(nano_usd=120_000_000, tokens=34_000),
        ),
        Account(
            limit=feature,
            value="support-agent",
            window_start=NOW - 20 * MINUTE,
            resets_at=NOW + 40 * MINUTE,
            spent=Amounts(nano_usd=640_000_000, tokens=188_000),
        ),
        Account(
            limit=run,
            value="",
            run_id=listing,
            window_start=NOW - 20 * MINUTE,
            spent=Amounts(nano_usd=5_000_000_000, calls=14),
            extra=Amounts(nano_usd=0),
        ),
        Account(
            limit=key,
            value="key_0",
            window_start=NOW - 24 * 3600 * SECOND,
            spent=Amounts(calls=212),
            extra=Amounts(calls=500),
        ),
    ]
