"""The ledger around calls: refusals, attempts, what counts when an answer breaks off."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tocsin.config.model import Config, LedgerSettings, Price
from tocsin.core.call import Call, Draft, Identity, Principal
from tocsin.core.domain import Alert
from tocsin.core.errors import BadRequest, BudgetExceeded, NotFound
from tocsin.core.interaction import Attempt, Interaction, Mode, Usage
from tocsin.core.ledger import Amounts, Limit
from tocsin.core.messages import chain, parse_message
from tocsin.core.policy import Reply
from tocsin.ledger import Ledger, LedgerPolicy, limits_of
from tocsin.providers.pricing import Pricer
from tocsin.testing import FakeClock

USD = 1_000_000_000
PRICES = {"m": Price(input=1.0, output=10.0)}


class World:
    """A ledger on a real store, and calls through its policy."""

    def __init__(self, store: Any, folder: Path, limits: dict[str, Any], **more: Any) -> None:
        self.clock = FakeClock()
        self.alerts: list[Alert] = []
        self.mode: Mode = "enforce"
        self.ledger = Ledger(
            store.ledger,
            folder,
            self.clock,
            limits=limits_of(Config.model_validate({"limits": limits})),
            settings=LedgerSettings(**more),
            pricer=Pricer(PRICES),
            alert=self.alerts.append,
        )
        self.policy = LedgerPolicy(self.ledger, lambda feature: self.mode)
        self.number = 0

    def call(self, text: str = "hello", *, run: str = "r", **changes: Any) -> Call:
        self.number += 1
        body = {"model": "m", "messages": [{"role": "user", "content": text}]}
        messages = tuple(parse_message(json.dumps(m).encode()) for m in body["messages"])
        draft = Draft()
        parent = changes.pop("parent", None)
        draft.identity = Identity(run_id=run, run_source="header", parent_run_id=parent)
        fields: dict[str, Any] = {
            "id": f"call_{self.number}",
            "source": "gateway",
            "dialect": "openai",
            "operation": "chat",
            "method": "POST",
            "path": "/v1/chat/completions",
            "body": json.dumps(body).encode(),
            "started_at": self.clock.now_us(),
            "feature": "support",
            "principal": Principal(key_id="key_1", name="ci"),
            "model": "m",
            "max_output_tokens": 100,
            "messages": messages,
            "nodes": chain(messages),
            "params": b'{"model":"m","max_tokens":100}',
            "draft": draft,
        }
        return Call(**{**fields, **changes})

    async def ask(self, call: Call, *attempts: dict[str, Any], **ending: Any) -> Interaction:
        """One call through the policy, with the attempts that the router makes."""

        async def rest(call: Call) -> Reply:
            budget = call.draft.budget
            for fields in attempts or ({"status": 200},):
                sent = fields.pop("sent", True)
                if budget is not None:
                    await budget.attempt(call, upstream="u", provider="p", model="m")
                    if not sent:
                        budget.unsent()
                attempt = {
                    "number": len(call.draft.attempts) + 1,
                    "upstream": "u",
                    "provider": "p",
                    "model": "m",
                    "started_at": self.clock.now_us(),
                    "duration_us": 1,
                }
                call.draft.attempts.append(Attempt(**{**attempt, **fields}))
            return Reply(status=200, headers=())

        await self.policy(call, rest)
        return self.end(call, **ending)

    def end(self, call: Call, output: bytes | None = None, **ending: Any) -> Interaction:
        fields: dict[str, Any] = {
            "id": call.id,
            "source": "gateway",
            "dialect": "openai",
            "operation": call.operation,
            "path": call.path,
            "started_at": call.started_at,
            "duration_us": 1,
            "outcome": "complete",
            "feature": call.feature,
            "run_id": "r",
            "run_source": "header",
            "request_model": "m",
            "attempts": tuple(call.draft.attempts),
            "usage": Usage(input_tokens=20, output_tokens=30, source="reported"),
        }
        interaction = Interaction(**{**fields, **ending})
        self.policy.learn(call, interaction, parse_message(output) if output else None)
        return interaction

    async def account(self, **where: Any) -> Any:
        found = await asyncio.to_thread(lambda: self.ledger.accounts(**where))
        assert len(found) == 1
        return found[0]


MakeWorld = Callable[..., Any]


@pytest.fixture
def world(store: Any, tmp_path: Path) -> MakeWorld:
    @asynccontextmanager
    async def make(limits: dict[str, Any], **more: Any) -> AsyncIterator[World]:
        made = World(store, tmp_path / "ledger", limits, **more)
        await made.ledger.start()
        try:
            yield made
        finally:
            await made.ledger.stop()

    return make


async def test_a_call_is_reserved_and_settled_by_what_was_reported(world: MakeWorld) -> None:
    async with world({"all": {"usd": 1.0}}) as w:
        await w.ask(w.call())
        account = await w.account()
        assert account.spent == Amounts(20 * 1000 + 30 * 10_000, 50, 1, 0)
        assert account.held == Amounts()


async def test_a_refusal_says_which_limit_and_what_is_left(world: MakeWorld) -> None:
    async with world({"runs": {"usd": 0.001, "per": "run", "scope": "feature"}}) as w:
        found = [await asyncio.gather(w.ask(w.call()), return_exceptions=True) for _ in range(10)]
        error = found[-1][0]
        assert isinstance(error, BudgetExceeded)
        assert error.status == 429
        assert not error.retryable
        assert error.details is not None
        assert error.details["limit"] == "runs"
        assert error.details["value"] == "support"
        assert error.details["run_id"] == "r"
        assert error.details["unit"] == "usd"
        assert error.details["limit_amount"] == 0.001
        spent, left = error.details["spent"], error.details["left"]
        assert spent + error.details["held"] + left == pytest.approx(0.001)
        assert left < error.details["needs"]
        assert "tocsin limits raise runs --value support --run r --usd" in error.message
        assert any(alert.severity == "critical" for alert in w.alerts)


async def test_a_raised_limit_lets_calls_through_again(world: MakeWorld) -> None:
    async with world({"few": {"calls": 1}}) as w:
        await w.ask(w.call())
        with pytest.raises(BudgetExceeded):
            await w.ask(w.call())
        account = await asyncio.to_thread(w.ledger.add, "few", "", None, Amounts(calls=1), "ann")
        assert account.extra == Amounts(calls=1)
        await w.ask(w.call())
        with pytest.raises(BudgetExceeded):
            await w.ask(w.call())
        with pytest.raises(NotFound):
            await asyncio.to_thread(w.ledger.add, "none", "", None, Amounts(calls=1), "ann")


async def test_many_at_once_do_not_pass_the_limit(world: MakeWorld) -> None:
    async with world({"few": {"calls": 10}}) as w:
        found = await asyncio.gather(*[w.ask(w.call()) for _ in range(50)], return_exceptions=True)
        refused = [one for one in found if isinstance(one, BudgetExceeded)]
        assert len(refused) == 40
        assert all(isinstance(one, Interaction | BudgetExceeded) for one in found)
        assert (await w.account()).spent.calls == 10


async def test_every_attempt_is_paid_and_an_unsent_one_is_not(world: MakeWorld) -> None:
    async with world({"all": {"tokens": 100_000}}) as w:
        await w.ask(
            w.call(),
            {"error": "UpstreamFailed: refused", "sent": False},
            {"status": 503},
            {"error": "UpstreamFailed: cut"},
            {"status": 200},
        )
        account = await w.account()
        worst = w.ledger.bounds.worst(w.call(), "p", "m")[0]
        assert account.spent.calls == 3
        assert account.uncertain == Amounts(worst.nano_usd, worst.tokens, 1, 0)
        assert account.spent.tokens == worst.tokens + 50
        assert account.held == Amounts()


async def test_a_retry_fits_where_the_first_try_was_turned_away(world: MakeWorld) -> None:
    async with world({"all": {"tokens": 300}}) as w:
        await w.ask(w.call(), {"status": 500}, {"status": 500}, {"status": 200})
        assert (await w.account()).spent.tokens == 50


async def test_a_cut_stream_counts_in_full(world: MakeWorld) -> None:
    async with world({"all": {"tokens": 1000}}) as w:
        call = w.call()
        worst = w.ledger.bounds.worst(call, "p", "m")[0]
        await w.ask(call, outcome="cancelled", usage=Usage())
        account = await w.account()
        assert account.spent.tokens == account.uncertain.tokens == worst.tokens
        again = await asyncio.to_thread(
            w.ledger.reconcile, "all", "", None, Amounts(tokens=7, calls=1), "ann"
        )
        assert again.spent == Amounts(0, 7, 1, 0)
        assert again.uncertain == Amounts()


async def test_a_cut_stream_may_be_estimated(world: MakeWorld) -> None:
    async with world({"all": {"tokens": 1000}}, unreported="estimated") as w:
        answer = json.dumps({"role": "assistant", "content": "one two three"}).encode()
        await w.ask(w.call(), outcome="cancelled", usage=Usage(), output=answer)
        await asyncio.gather(*w.ledger._counted)
        account = await w.account()
        assert 0 < account.spent.tokens < 60
        assert account.estimated == account.spent
        assert account.uncertain == Amounts()


async def test_a_whole_answer_without_usage_is_estimated(world: MakeWorld) -> None:
    async with world({"all": {"tokens": 1000}}) as w:
        answer = json.dumps({"role": "assistant", "content": "one two three"}).encode()
        await w.ask(w.call(), usage=Usage(), output=answer)
        await asyncio.gather(*w.ledger._counted)
        account = await w.account()
        assert 0 < account.spent.tokens < 60
        assert account.estimated.tokens == account.spent.tokens
        assert account.held == Amounts()


async def test_a_child_run_draws_on_what_its_parent_has_left(world: MakeWorld) -> None:
    async with world({"runs": {"per": "run", "calls": 3, "depth": 2}}) as w:
        await w.ask(w.call(run="mother"))
        await w.ask(w.call(run="child", parent="mother"))
        await w.ask(w.call(run="grandchild", parent="child"))
        with pytest.raises(BudgetExceeded) as caught:
            await w.ask(w.call(run="grandchild"))
        assert caught.value.details is not None
        assert caught.value.details["run_id"] == "mother"
        with pytest.raises(BudgetExceeded, match="ancestors"):
            await w.ask(w.call(run="too deep", parent="grandchild"))
        with pytest.raises(BadRequest, match="child runs"):
            await w.ask(w.call(run="mother", parent="grandchild"))


async def test_observe_refuses_nothing_and_counts_everything(world: MakeWorld) -> None:
    async with world({"few": {"calls": 1}}) as w:
        w.mode = "observe"
        for _ in range(3):
            call = w.call()
            await w.ask(call)
        assert (await w.account()).spent.calls == 3
        assert call.draft.decisions[-1].action == "deny"
        assert call.draft.decisions[-1].mode == "observe"


async def test_warnings_come_once_as_alerts_and_always_as_headers(world: MakeWorld) -> None:
    async with world({"few": {"calls": 4, "per": "day", "warn_at": [0.5]}}) as w:
        for _ in range(3):
            call = w.call()
            await w.ask(call)
        assert [alert.severity for alert in w.alerts] == ["warning"]
        assert call.draft.notices == [
            (b"tocsin-budget-warning", b"few 50%; resets 2023-11-15T00:00:00Z")
        ]


async def test_a_new_day_has_a_new_budget_and_clocks_do_not_bring_the_old_back(
    world: MakeWorld,
) -> None:
    async with world({"few": {"calls": 1, "per": "day"}}) as w:
        await w.ask(w.call())
        with pytest.raises(BudgetExceeded):
            await w.ask(w.call())
        w.clock.jump(7200)
        await w.ask(w.call())
        w.clock.jump(-7200)
        with pytest.raises(BudgetExceeded):
            await w.ask(w.call())


async def test_an_unknown_price_is_held_to_tokens_and_calls_and_raises_an_alert(
    world: MakeWorld,
) -> None:
    async with world({"all": {"usd": 0.0, "calls": 2}}) as w:
        w.ledger.pricer.configure({})
        for _ in range(2):
            await w.ask(w.call())
        with pytest.raises(BudgetExceeded, match="calls"):
            await w.ask(w.call())
        assert sum("unpriced" in alert.summary for alert in w.alerts) == 1


async def test_a_run_may_take_only_so_long(world: MakeWorld) -> None:
    async with world({"slow": {"per": "run", "wall_s": 60}}) as w:
        await w.ask(w.call())
        w.clock.advance(59)
        await w.ask(w.call())
        w.clock.advance(2)
        with pytest.raises(BudgetExceeded, match="60 s"):
            await w.ask(w.call())
        await w.ask(w.call(run="other"))


async def test_tools_are_refused_when_no_tool_call_is_left(world: MakeWorld) -> None:
    async with world({"tools": {"tool_calls": 3}}) as w:
        tools = b'{"model":"m","max_tokens":100,"tools":[{}]}'
        await w.ask(w.call(params=tools), tool_calls=3)
        with pytest.raises(BudgetExceeded, match="tool calls"):
            await w.ask(w.call(params=tools))
        await w.ask(w.call())


async def test_a_reload_with_a_lower_limit_holds_at_once(world: MakeWorld) -> None:
    async with world({"few": {"calls": 100}}) as w:
        await w.ask(w.call())
        w.ledger.configure((Limit(name="few", calls=2),), LedgerSettings())
        await w.ask(w.call())
        with pytest.raises(BudgetExceeded):
            await w.ask(w.call())


async def test_a_cancelled_wait_holds_nothing(world: MakeWorld) -> None:
    async with world({"few": {"calls": 100}}) as w:
        tasks = [asyncio.create_task(w.ask(w.call())) for _ in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.05)
        account = await w.account()
        assert account.held == Amounts()
        assert account.spent.calls == 10


async def test_what_was_given_back_by_hand_can_be_spent(world: MakeWorld) -> None:
    async with world({"all": {"tokens": 300}}) as w:
        await w.ask(w.call(), outcome="cancelled", usage=Usage())
        with pytest.raises(BudgetExceeded):
            await w.ask(w.call())
        await asyncio.to_thread(w.ledger.reconcile, "all", "", None, Amounts(), "ann")
        await w.ask(w.call())


async def test_two_processes_share_one_account_to_the_last_call(store: Any, tmp_path: Path) -> None:
    first = World(store, tmp_path / "one", {"few": {"calls": 50}})
    second = World(store, tmp_path / "two", {"few": {"calls": 50}})
    await first.ledger.start()
    await second.ledger.start()
    await first.ask(first.call())
    await asyncio.sleep(0.6)
    found: list[Any] = []
    for _ in range(20):
        found += await asyncio.gather(
            *[w.ask(w.call()) for w in (first, second, second)], return_exceptions=True
        )
    assert sum(isinstance(one, Interaction) for one in found) == 49
    await first.ledger.stop()
    await second.ledger.stop()


async def test_it_stops_also_when_it_is_woken_in_the_same_instant(world: MakeWorld) -> None:
    for _ in range(5):
        async with world({"all": {"calls": 5}}) as made:
            await asyncio.sleep(0)
            made.ledger._wake.set()
            await asyncio.wait_for(made.ledger.stop(), 10)
            assert made.ledger._task is None, "nothing of it runs on"
