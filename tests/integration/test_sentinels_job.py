"""Suites on their schedule: real store, real path of calls; the model and clock are scripted."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from tocsin.app import App, build
from tocsin.config.model import Config
from tocsin.config.sentinels import upstreams_of, with_sentinels
from tocsin.core.call import Call
from tocsin.core.domain import Alert
from tocsin.core.sentinels import Prompt
from tocsin.core.wire.render import Answer
from tocsin.domains.signals.form import FormEvaluator
from tocsin.domains.signals.sentinels import diff, words_of
from tocsin.providers.scripted import ScriptedProvider, Step
from tocsin.runtime.asking import ask
from tocsin.store.api import Filter
from tocsin.testing import FakeClock
from tocsin.worker.evaluating import Scoring, catalogue_of
from tocsin.worker.jobs import Worker
from tocsin.worker.sentinels import Sentinels
from tocsin.worker.suites import read_suite, suite_text


class World:
    """A Tocsin with one suite of 30 prompts and two upstreams, of which one is probed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.factor = 1
        self.clock = FakeClock()
        self.alerts: list[Alert] = []
        self.model = ScriptedProvider(self._answer, name="main")
        self.other = ScriptedProvider("Never asked.", name="other")
        prompts = [
            Prompt(
                id=f"p{n}",
                path="/v1/chat/completions",
                messages=[{"role": "user", "content": f"Write {n + 3} words."}],
                params={"model": "alias"},
            )
            for n in range(30)
        ]
        path = folder / "suite.jsonl"
        path.write_bytes(suite_text("tours", "travel", prompts, "2026-11-01"))
        settings = {
            "server": {"data_dir": str(folder / "data")},
            "upstreams": {"main": {"kind": "scripted"}, "other": {"kind": "scripted"}},
            "features": {"travel": {"targets": [{"upstream": "main"}]}},
            "sentinels": {"tours": {"feature": "travel", "file": str(path), "every_hours": 24.0}},
        }
        config = with_sentinels(Config.model_validate(settings))
        self.app: App = build(
            config,
            env={},
            clock=self.clock,
            providers={"main": self.model, "other": self.other},
        )
        self.app.worker = Worker(())  # the schedule is the tests' own: `turn`
        evaluators = (FormEvaluator(),)
        catalogue = catalogue_of(evaluators)
        self.suites = Sentinels(
            self.app.store,
            self.clock,
            lambda: self.app.config,
            scoring=Scoring(evaluators, catalogue),
            catalogue=catalogue,
            compare=diff,
            words_of=words_of,
            ask=self._ask,
            flush=self.app.recorder.flush,
        )

    async def _ask(self, path: str, body: bytes, **more: object) -> str:
        return await ask(self.app.runtime, path, body, **more)  # type: ignore[arg-type]

    def _answer(self, call: Call) -> Step:
        count = int(msgspec.json.decode(call.messages[-1].raw)["content"].split()[1])
        return Step(answer=Answer(text=" ".join(["word"] * (count * self.factor))))

    async def turn(self, hours: float = 24.0) -> list[Alert]:
        """Let time pass, then what the schedule does."""
        self.clock.advance(hours * 3600)
        before = len(self.alerts)
        await self.suites.step(self.folder, self.alerts.append)
        return self.alerts[before:]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.app.start()
    yield made
    await made.app.stop()


async def test_a_suite_runs_when_it_is_due_and_alarms_when_its_answers_change(world: World) -> None:
    assert await world.turn() == []
    assert len(world.model.calls) == 30
    assert await world.turn(hours=23) == []
    assert len(world.model.calls) == 30
    (quiet,) = await world.turn(hours=1.1)
    assert (quiet.state, len(world.model.calls)) == ("resolved", 60)

    world.factor = 3
    (alert,) = await world.turn()
    assert (alert.state, alert.feature, alert.detector) == ("firing", "travel", "sentinels")
    assert alert.change is not None
    assert alert.change.signal in ("answer_words", "verbosity")
    assert alert.change.difference.low > 2
    assert alert.change.verdict == "different"
    shown = world.app.store.entry(alert.change.examples_after[0])
    assert shown is not None
    assert shown.interaction.feature == "sentinel:tours:main"
    assert "answers differently" in alert.summary
    assert world.other.calls == []

    (still,) = await world.turn()
    assert (still.state, still.fingerprint) == ("firing", alert.fingerprint)
    ran = world.suites.runs("tours", "main")
    assert len(ran) == 4
    world.suites.accept("tours", "main", ran[-1], "ana")
    (resolved,) = await world.turn()
    assert (resolved.state, resolved.fingerprint) == ("resolved", alert.fingerprint)


async def test_two_processes_do_not_run_a_suite_at_once(world: World) -> None:
    world.clock.advance(1)
    await asyncio.gather(*(world.suites.step(world.folder, world.alerts.append) for _ in range(3)))
    assert len(world.model.calls) == 30


async def test_sentinels_calls_carry_who_asked_and_stay_out_of_the_feature(world: World) -> None:
    (ran,) = await world.suites.run("tours")
    assert (ran.asked, ran.failed, ran.upstream) == (30, 0, "main")
    store = world.app.store
    assert store.interactions(Filter(feature="travel")).rows == ()
    call = store.interactions(Filter(feature="sentinel:tours:main")).rows[0]
    assert call.attributes == {
        "sentinel": "tours",
        "sentinel_id": call.attributes["sentinel_id"],
        "sentinel_run": ran.run,
    }
    assert call.run_id == ran.run
    assert world.app.services.signals(call.feature).off == ("*",)


async def test_a_suite_whose_file_is_gone_is_trouble_and_stops_nothing(world: World) -> None:
    (world.folder / "suite.jsonl").unlink()
    await world.turn()
    assert "tocsin sentinels record" in world.suites.trouble["tours"]
    assert world.alerts == []


def test_a_suites_file_can_be_read_back_and_its_head_is_for_people(tmp_path: Path) -> None:
    prompts = [Prompt(id="a", path="/v1/messages", messages=[{"role": "user", "content": "x"}])]
    path = tmp_path / "s.jsonl"
    path.write_bytes(suite_text("s", "f", prompts, "2026-11-01"))
    assert read_suite(path) == prompts


def test_a_suite_goes_where_its_feature_goes_unless_it_says_otherwise() -> None:
    config = Config.model_validate(
        {
            "upstreams": {
                "a": {"kind": "scripted", "models": ("gpt-*",)},
                "b": {"kind": "scripted", "models": ("*",)},
            },
            "features": {"f": {"targets": ({"upstream": "b", "model": "m"},)}},
            "sentinels": {
                "own": {"feature": "f"},
                "named": {"feature": "f", "upstreams": ("a", "b")},
                "free": {"feature": "g"},
            },
        }
    )
    models = frozenset({"gpt-4", "llama"})
    found = {n: upstreams_of(config, s, models) for n, s in config.sentinels.items()}
    assert found == {"own": ["b"], "named": ["a", "b"], "free": ["a", "b"]}
    made = with_sentinels(config).features
    (target,) = made["sentinel:own:b"].targets
    assert (target.upstream, target.model) == ("b", "m")
    assert made["sentinel:own:b"].policies["agents"] == "off"
    assert with_sentinels(Config()) == Config()
