"""Every domain keeps its contract, and the kit that proves it catches what breaks it."""

from collections.abc import Iterable, Sequence

import pytest
import typer

from tocsin.app import all_domains
from tocsin.cli.commands import app
from tocsin.core.call import Call
from tocsin.core.domain import Alert, Command, Domain, Panel, Score, Services
from tocsin.core.errors import Denied
from tocsin.core.interaction import Entry
from tocsin.core.policy import FailureMode, Next, Reply
from tocsin.core.signals import Scored, Signal
from tocsin.testing import check_domain

RESERVED = tuple(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


class Polite:
    """A policy as it should be."""

    name = "polite"
    failure: FailureMode = "open"
    timeout_s = 1.0

    def __init__(self, services: Services) -> None:
        self.services = services

    async def __call__(self, call: Call, next: Next) -> Reply:
        return await next(call)


class Strict(Polite):
    """Stops every call, and says why."""

    async def __call__(self, call: Call, next: Next) -> Reply:
        raise Denied("this feature is frozen")


class Counting:
    """A detector that tells when it has seen five errors."""

    name = "counting"
    version = "1"

    def __init__(self, services: Services) -> None:
        self.errors = 0

    def observe(self, scored: Scored) -> Iterable[Alert]:
        interaction = scored.interaction
        self.errors += interaction.outcome == "error"
        if self.errors == 5:
            yield Alert(
                fingerprint="errors",
                detector=self.name,
                feature=interaction.feature,
                severity="warning",
                state="firing",
                at=interaction.started_at,
                summary="five errors",
                evidence=(interaction.id,),
            )


class Length:
    """Scores how long an answer is; cannot judge where there is none."""

    name = "length"
    version = "1"
    signals = (
        Signal(
            name="length",
            title="Length",
            axis="consistent",
            kind="level",
            description="Bytes of the answer.",
        ),
    )

    def evaluate(self, entry: Entry) -> Sequence[Score]:
        size = None if entry.output is None else float(len(entry.output.raw))
        return (
            Score(
                interaction_id=entry.interaction.id,
                name=self.name,
                version=self.version,
                value=size,
            ),
        )


GOOD = Domain(
    name="toy",
    summary="What a domain looks like.",
    policies=(Polite,),
    evaluators=(Length,),
    detectors=(Counting,),
    panels=(Panel(name="toy", title="Toy", load=lambda filters: {"rows": [1, 2]}),),
    commands=(Command(name="toy", help="Do nothing.", run=lambda words: 0),),
)


@pytest.mark.parametrize("domain", [*all_domains(), GOOD], ids=lambda domain: domain.name)
def test_every_domain_keeps_its_contract(domain: Domain) -> None:
    check_domain(domain, reserved_commands=RESERVED)


def test_a_policy_may_stop_every_call_when_it_says_why() -> None:
    check_domain(Domain(name="toy", summary="Stops.", policies=(Strict,)))


class Twice(Polite):
    async def __call__(self, call: Call, next: Next) -> Reply:
        await next(call)
        return await next(call)


class Crashing(Polite):
    async def __call__(self, call: Call, next: Next) -> Reply:
        raise ValueError("oops")


class Renaming(Polite):
    async def __call__(self, call: Call, next: Next) -> Reply:
        return await next(call.evolve(id="other"))


class Endless(Polite):
    timeout_s = 0.0


class Torn(Polite):
    failure = "sometimes"  # type: ignore[assignment]


class Shared(Polite):
    """One instance for all: state would leak between processes of a test."""

    _one: "Shared | None" = None

    def __new__(cls, services: Services) -> "Shared":
        cls._one = cls._one or super().__new__(cls)
        return cls._one


class Random(Length):
    made = 0

    def evaluate(self, entry: Entry) -> Sequence[Score]:
        Random.made += 1
        scored = super().evaluate(entry)[0]
        return (Score(**{**{f: getattr(scored, f) for f in scored.__struct_fields__},
                         "value": float(Random.made)}),)  # fmt: skip


class Unjudging(Length):
    def evaluate(self, entry: Entry) -> Sequence[Score]:
        assert entry.output is not None
        return super().evaluate(entry)


class NotANumber(Length):
    def evaluate(self, entry: Entry) -> Sequence[Score]:
        found = super().evaluate(entry)[0]
        return (
            Score(
                interaction_id=found.interaction_id, name="length", version="1", value=float("nan")
            ),
        )


class Inventing(Counting):
    def observe(self, scored: Scored) -> Iterable[Alert]:
        for alert in super().observe(scored):
            yield Alert(**{**{f: getattr(alert, f) for f in alert.__struct_fields__},
                           "evidence": ("call_invented",)})  # fmt: skip


def markup(filters: object) -> object:
    return {"html": "<b>bold</b>"}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Domain(name="Toy!", summary="x"), "its name must be a lower-case word"),
        (Domain(name="toy", summary=""), "its summary must be one sentence"),
        (Domain(name="toy", summary="x", policies=(Polite, Polite)), "'polite' stands there twice"),
        (Domain(name="toy", summary="x", policies=(Twice,)), "passed one call on 2 times"),
        (Domain(name="toy", summary="x", policies=(Crashing,)), "crashes on an ordinary call"),
        (Domain(name="toy", summary="x", policies=(Renaming,)), "must not change the id"),
        (Domain(name="toy", summary="x", policies=(Endless,)), "timeout_s must be above 0"),
        (Domain(name="toy", summary="x", policies=(Torn,)), "failure must be `open` or `closed`"),
        (Domain(name="toy", summary="x", policies=(Shared,)), "must make a new one"),
        (Domain(name="toy", summary="x", evaluators=(Random,)), "gives two different verdicts"),
        (Domain(name="toy", summary="x", evaluators=(Unjudging,)), "scores `None`"),
        (Domain(name="toy", summary="x", evaluators=(NotANumber,)), "is no number"),
        (Domain(name="toy", summary="x", detectors=(Inventing,)), "must be interactions that"),
        (
            Domain(name="toy", summary="x", panels=(Panel(name="p", title="P", load=markup),)),
            "load returns markup",
        ),
        (
            Domain(
                name="toy",
                summary="x",
                commands=(Command(name="runs", help="h", run=lambda words: 0),),
            ),
            "'runs' is a command of tocsin itself",
        ),
    ],
    ids=lambda value: None if isinstance(value, Domain) else value[:40],
)
def test_the_kit_catches_what_breaks_the_contract(broken: Domain, message: str) -> None:
    with pytest.raises(AssertionError, match="breaks its contract") as caught:
        check_domain(broken, reserved_commands=RESERVED)
    assert message in str(caught.value)
