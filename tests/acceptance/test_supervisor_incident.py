"""Four agents that pass requests back and forth for weeks: what stops them, and what tells."""

import json
from pathlib import Path

from support.spending import steps
from tocsin.app import App, build
from tocsin.config.model import Config
from tocsin.core.call import Call, Draft, Principal
from tocsin.core.errors import BudgetExceeded
from tocsin.core.ids import new_id
from tocsin.core.interaction import Interaction, Usage
from tocsin.core.messages import chain, parse_message
from tocsin.core.wire.render import Answer
from tocsin.store import Filter
from tocsin.testing import FakeClock, ScriptedProvider, Step

AGENTS = ("analyzer", "verifier", "planner", "writer")
OUTPUT_TOKENS = 20_000
PRICE = 10.0
"""US dollars for a million output tokens: 20 cents a call."""
CALL_USD = OUTPUT_TOKENS * PRICE / 1e6


def provider() -> ScriptedProvider:
    usage = Usage(input_tokens=0, output_tokens=OUTPUT_TOKENS, source="reported")
    return ScriptedProvider(
        lambda call: Step(answer=Answer(text="Please verify this once more.", usage=usage))
    )


def config(folder: Path, **more: object) -> Config:
    return Config.model_validate(
        {
            "server": {"data_dir": str(folder)},
            "upstreams": {"main": {"kind": "scripted"}},
            "prices": {"runaway": {"input": 0.0, "output": PRICE}},
            **more,
        }
    )


def request(app: App, number: int) -> Call:
    """The next call of the run; each agent has a history of its own."""
    now = app.clock.now_us()
    said = [
        {"role": "system", "content": f"You are the {AGENTS[number % 4]}."},
        {"role": "user", "content": f"Please verify report {number} once more."},
    ]
    messages = tuple(parse_message(json.dumps(m).encode()) for m in said)
    body = {"model": "runaway", "max_tokens": OUTPUT_TOKENS, "messages": said}
    return Call(
        id=new_id("call", now),
        source="gateway",
        dialect="openai",
        operation="chat",
        method="POST",
        path="/v1/chat/completions",
        headers=((b"tocsin-run", b"runaway"),),
        body=json.dumps(body).encode(),
        started_at=now,
        feature="research",
        principal=Principal(),
        agent=AGENTS[number % 4],
        model="runaway",
        max_output_tokens=OUTPUT_TOKENS,
        messages=messages,
        nodes=chain(messages),
        params=b'{"model":"runaway"}',
        draft=Draft(),
    )


async def run_away(app: App, clock: FakeClock, most: int) -> tuple[int, str]:
    """Calls that were answered until one is refused, and how the refusal reads."""
    weeks = steps(CALL_USD)
    before = next(weeks)[0]
    for number in range(most):
        at = next(weeks)[0]
        clock.advance(at - before)
        before = at
        try:
            async with app.runtime.call(request(app, number)) as reply:
                assert reply.status == 200
        except BudgetExceeded as error:
            return number, error.message
    return most, ""


async def test_a_run_cap_of_five_dollars_stops_it_at_five_dollars(tmp_path: Path) -> None:
    clock = FakeClock()
    limits = {"runs": {"scope": "run", "per": "run", "usd": 5.0}}
    scripted = provider()
    app = build(config(tmp_path, limits=limits), env={}, clock=clock, providers={"main": scripted})
    await app.start()
    try:
        answered, message = await run_away(app, clock, 60)
    finally:
        await app.stop()
    spent = answered * CALL_USD
    assert 5.0 - CALL_USD <= spent <= 5.0
    assert len(scripted.calls) == answered, "nothing was asked of the model after that"
    assert "runs" in message


async def test_without_a_cap_the_supervisor_sees_that_nothing_new_is_said(tmp_path: Path) -> None:
    clock = FakeClock()
    app = build(config(tmp_path), env={}, clock=clock, providers={"main": provider()})
    await app.start()
    try:
        answered, _ = await run_away(app, clock, 30)
    finally:
        await app.stop()
    assert answered == 30
    reopened = build(config(tmp_path), env={}, clock=clock, providers={"main": provider()})
    try:
        rows: tuple[Interaction, ...] = reopened.store.interactions(Filter()).rows
        findings = reopened.store.findings(run_id="runaway")
    finally:
        reopened.store.close()
    assert len(rows) == 30
    assert findings
    assert {finding.mode for finding in findings} == {"observe"}
    assert min(finding.call for finding in findings) < 20
