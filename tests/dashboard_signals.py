"""Judged traffic for dashboard tests: three features over weeks, one of which changes for a cohort.

Scores come from a plain evaluator of ours that reads the answers, through the real ``Scoring`` and
the real store; the alert is what a detector would have said of it.
"""

import random
from collections.abc import Iterator, Sequence

from dashboard_site import Site
from dashboard_world import HOUR, NOW, SECOND, entry, message
from tocsin.core.domain import Alert
from tocsin.core.ids import derived_id
from tocsin.core.interaction import Entry, Usage
from tocsin.core.score import Score
from tocsin.core.signals import Change, Estimate, Objective, Signal, SliceChange
from tocsin.worker.evaluating import Scoring, catalogue_of

DAY = 24 * HOUR
CHANGED = NOW - 30 * HOUR
"""When support-agent began to decline, for the beta cohort."""
FINGERPRINT = "drift:support-agent/refused"
_ASKS = (
    "Which plan fits a team of {n}?",
    "How do I export invoice {n}?",
    "Is order {n} still on its way?",
    "What does error {n} mean?",
)
_GOOD = "Here is what I found for number {n}: open Settings, choose Billing and confirm. {more}"
_REFUSED = "As an AI, I don't have opinions about number {n} and cannot help with that."


class Plain:
    """Reads an answer as the evaluators of the product do, as simply as a test needs."""

    name = "plain"
    version = "3"
    signals = (
        Signal(name="refused", title="Refused", axis="appropriate", kind="rate", better="down",
               description="Share of calls whose answer declines what was asked."),
        Signal(name="schema_valid", title="Schema valid", axis="correct", kind="rate",
               better="up", description="Share of structured answers that keep their schema."),
        Signal(name="supported", title="Supported", axis="grounded", kind="rate", better="up",
               description="Share of the statements that the context bears out."),
        Signal(name="answer_words", title="Answer length", axis="consistent", kind="level",
               unit="words", log=True, description="Words in the answer."),
        Signal(name="has_list", title="Has a list", axis="consistent", kind="rate",
               description="Share of answers with a list."),
        Signal(name="duration_s", title="Time to the end", axis="service", kind="level",
               better="down", unit="s", log=True, scale=0.1, description="How long it took."),
        Signal(name="never_seen", title="Never seen", axis="service", kind="rate",
               better="down", description="Nothing here ever has it."),
    )  # fmt: skip

    def evaluate(self, entry: Entry) -> Sequence[Score]:
        interaction = entry.interaction
        text = entry.output.raw.decode() if entry.output is not None else ""
        refused = "cannot help" in text
        found: dict[str, float | None] = {
            "refused": float(refused),
            "answer_words": float(len(text.split())),
            "has_list": float("1." in text),
            "duration_s": interaction.duration_us / 1e6,
        }
        if interaction.feature == "invoice-extract":
            found["schema_valid"] = None if "…" in text else float("broken" not in text)
        if interaction.feature == "search-rerank":
            found["supported"] = 0.9
        return [
            Score(
                interaction_id=interaction.id,
                name=name,
                version=self.version,
                value=value,
                explanation="declines: “I don't have opinions”" if name == "refused" and refused
                else "",
            )
            for name, value in found.items()
        ]  # fmt: skip


CATALOGUE = catalogue_of([Plain()])


def traffic(seed: int = 3, days: int = 21) -> Iterator[Entry]:
    """Calls in the order of time."""
    rng = random.Random(seed)
    for hour in range(days * 24):
        at = NOW - days * DAY + hour * HOUR
        for number in range(6):
            yield _call(rng, "support-agent", at + number * 400 * SECOND, hour * 6 + number)
        for number in range(3):
            yield _call(rng, "invoice-extract", at + number * 900 * SECOND, hour * 3 + number)
        if hour % 12 == 0:
            yield _call(rng, "search-rerank", at + 60 * SECOND, hour)


def _call(rng: random.Random, feature: str, at: int, number: int) -> Entry:
    cohort = "beta" if rng.random() < 0.35 else "stable"
    declines = feature == "support-agent" and cohort == "beta" and at >= CHANGED
    refused = rng.random() < (0.7 if declines else 0.02)
    ask = _ASKS[number % 4].format(n=number % 40)
    more = " ".join(rng.choice(("Then", "it", "is", "done", "today")) for _ in range(8))
    answer = (_REFUSED if refused else _GOOD).format(n=number % 40, more=more)
    if feature == "invoice-extract" and rng.random() < 0.04:
        answer = "broken " + answer
    run = derived_id("run", feature, str(number))
    history = [message("system", "Answer briefly."), message("user", ask)]
    return entry(
        run,
        0,
        at,
        history,
        message("assistant", answer),
        new=2,
        feature=feature,
        duration_us=int(rng.uniform(0.5, 3) * SECOND),
        release="2026-03-11" if at >= CHANGED - HOUR else "2026-02-20",
        attributes={"cohort": cohort},
        usage=Usage(input_tokens=120, output_tokens=40, source="reported"),
        cost_nano_usd=420_000,
        cost_source="listed",
    )


def fill(site: Site, entries: Sequence[Entry]) -> None:
    """Judge what was recorded, raise the alert, set the objectives."""
    scoring = Scoring([Plain()], CATALOGUE)
    rows = [scoring.score(one) for one in entries]
    for at in range(0, len(rows), 500):
        site.store.add_scores(rows[at : at + 500], CATALOGUE)
    site.catalogue = CATALOGUE
    site.objectives = (
        Objective(name="answers", feature="support-agent", signal="appropriate", target=0.97),
        Objective(name="schema", feature="invoice-extract", signal="schema_valid", target=0.9),
    )
    site.store.raise_alerts([alert(rows_of(entries))])


def rows_of(entries: Sequence[Entry]) -> tuple[list[str], list[str]]:
    """Ids of good answers before the change, and of refusals since, of the cohort."""
    mine = [
        e
        for e in entries
        if e.interaction.feature == "support-agent"
        and e.interaction.attributes.get("cohort") == "beta"
        and e.output is not None
    ]
    before = [e.interaction.id for e in mine if e.interaction.started_at < CHANGED]
    after = [
        e.interaction.id
        for e in mine
        if e.interaction.started_at >= CHANGED
        and e.output is not None
        and b"cannot help" in e.output.raw
    ]
    return before[-6:], after[:6]


def alert(examples: tuple[list[str], list[str]]) -> Alert:
    """What a detector says of the change."""
    return Alert(
        fingerprint=FINGERPRINT,
        detector="drift",
        feature="support-agent",
        severity="critical",
        state="firing",
        at=NOW - 26 * HOUR,
        summary="Refused in support-agent got worse: 2 % to 25 % since 11 March, for cohort beta.",
        evidence=tuple(examples[1][:3]),
        signal="refused",
        change=Change(
            signal="refused",
            since=CHANGED,
            before=Estimate(0.02, 0.015, 0.028, 2800),
            after=Estimate(0.25, 0.18, 0.33, 150),
            difference=Estimate(0.23, 0.16, 0.31, 150),
            verdict="worse",
            slices=(
                SliceChange(
                    dimension="cohort",
                    value="beta",
                    before=Estimate(0.02, 0.01, 0.03, 980),
                    after=Estimate(0.7, 0.58, 0.8, 52),
                    share=0.98,
                ),
            ),
            examples_before=tuple(examples[0]),
            examples_after=tuple(examples[1]),
            false_alarm_every=250_000,
            delay=24,
            method="CUSUM",
        ),
    )
