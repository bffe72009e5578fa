"""The weekly digest: what it is made of, and that a week is sent once, whoever sends it."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from store_world import DAY, HOUR, SECOND, StoppedClock, entry
from tocsin.config.model import DigestSettings
from tocsin.core.domain import Alert
from tocsin.core.score import Score
from tocsin.core.signals import AXIS_SIGNALS, Objective, Scored, slices_of
from tocsin.domains.signals.digest import write
from tocsin.domains.signals.objectives import standings
from tocsin.store import Store
from tocsin.testing import StoreKind, temporary_store
from tocsin.worker.digest import CONSUMER, Digests, NotSent, due_before, gather

CATALOGUE = {signal.name: signal for signal in AXIS_SIGNALS}
MONDAY = int(datetime(2026, 11, 2, 8, tzinfo=UTC).timestamp()) * SECOND


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    kind: StoreKind = request.param
    with temporary_store(kind, clock=StoppedClock(MONDAY)) as opened:
        yield opened


def fill(store: Store, now: int) -> None:
    """Two weeks, 20 calls a day; in the second one release refuses half of them."""
    entries, rows = [], []
    for number in range(280):
        at = now - 14 * DAY + number * 14 * DAY // 280
        new = number >= 140 and number % 2 == 0
        made = entry(number, started_at=at, release="new" if new else "old")
        one = made.interaction
        bad = new and number % 4 == 0
        scores = tuple(
            Score(interaction_id=one.id, name=name, version="1", value=float(not bad))
            for name in ("appropriate", "objective_answers")
        )
        entries.append(made)
        rows.append(Scored(interaction=one, scores=scores, slices=slices_of(one)))
    store.append(entries)
    assert store.add_scores(rows, CATALOGUE)


def test_a_week_is_told_against_the_one_before(store: Store) -> None:
    fill(store, MONDAY)
    store.raise_alerts(
        [
            Alert(
                fingerprint="x",
                detector="drift",
                feature="support",
                severity="warning",
                state="firing",
                at=MONDAY - DAY,
                summary="Something [is](http://evil) up\n# now",
            )
        ]
    )
    week = gather(store, MONDAY)
    assert (week.until - week.since, week.until) == (7 * DAY, MONDAY)
    (support,) = week.features
    assert (support.calls, support.calls_before) == (140, 140)
    assert support.after["appropriate"].n == 140
    assert support.slices_after["release", "new", "appropriate"].n == 70
    aim = Objective(name="answers", feature="support", signal="appropriate", target=0.9)
    title, text = write(week, standings(store, (aim,), CATALOGUE, MONDAY), CATALOGUE)
    assert title == "Tocsin: 2026-10-26 to 2026-11-02"
    assert "1 of 1 features got worse, 1 of 1 objectives burn" in text
    assert "**support: Appropriate** worse" in text
    assert "most of it in release new" in text
    assert r"Something \[is\](http://evil) up \# now" in text
    assert "140 calls, $0.00 spent" in text


def test_an_empty_store_has_a_digest_too(store: Store) -> None:
    _, text = write(gather(store, MONDAY), (), CATALOGUE)
    assert "No calls were recorded." in text
    assert "## Needs a person\n\nNothing." in text


# -- when --


@pytest.mark.parametrize(
    ("now", "due"),
    [
        ("2026-11-02T08:00", "2026-11-02T08:00"),
        ("2026-11-02T07:59", "2026-10-26T08:00"),
        ("2026-11-08T23:00", "2026-11-02T08:00"),
    ],
)
def test_it_is_due_on_the_day_and_hour_that_are_set(now: str, due: str) -> None:
    def us(text: str) -> int:
        return int(datetime.fromisoformat(text + "+00:00").timestamp()) * SECOND

    assert due_before(DigestSettings(), us(now)) * SECOND == us(due)


def test_the_hour_is_that_of_the_time_zone_also_over_a_change_of_clocks() -> None:
    settings = DigestSettings(timezone="Europe/Berlin", weekday=0, hour=8)
    # Clocks went back on 25 October: 08:00 is 06:00 UTC before and 07:00 UTC after.
    before = datetime(2026, 10, 19, 6, tzinfo=UTC).timestamp()
    after = datetime(2026, 10, 26, 7, tzinfo=UTC).timestamp()
    assert due_before(settings, int(after - 1) * SECOND) == before
    assert due_before(settings, int(after) * SECOND) == after


# -- once --


class Post:
    """Where digests go; may be out of order."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.broken = False

    def deliver(self, urls: str, title: str, text: str) -> None:
        assert urls == "json://somewhere"
        if self.broken:
            raise NotSent("the digest did not reach every address")
        self.sent.append(title)


def sender(store: Store, clock: StoppedClock, post: Post, **env: str) -> Digests:
    return Digests(
        store,
        clock,
        lambda: DigestSettings(urls_env="URLS"),
        {"URLS": "json://somewhere"} | env,
        lambda now: write(gather(store, now), (), CATALOGUE),
        post.deliver,
    )


def test_each_week_is_sent_once_by_several_processes(store: Store) -> None:
    clock, post = StoppedClock(MONDAY - 3 * DAY), Post()
    processes = [sender(store, clock, post) for _ in range(3)]
    assert not any(process.step() for process in processes), "not before the first day has come"
    for _ in range(3 * 7 * 24):
        clock.now += HOUR
        for process in processes:
            process.step()
    assert len(post.sent) == 3
    assert len(set(post.sent)) == 3


def test_what_did_not_arrive_is_tried_again_and_not_at_every_turn(store: Store) -> None:
    clock, post = StoppedClock(MONDAY - DAY), Post()
    process = sender(store, clock, post)
    process.step()
    clock.now = MONDAY
    post.broken = True
    assert not process.step()
    assert "did not reach" in process.trouble["digest"]
    post.broken = False
    assert not process.step(), "15 minutes have not passed"
    clock.now += HOUR
    assert process.step()
    assert not process.trouble
    assert not process.step()
    assert len(post.sent) == 1


def test_without_an_address_nothing_is_sent_and_nothing_counts_as_sent(store: Store) -> None:
    clock, post = StoppedClock(MONDAY), Post()
    process = sender(store, clock, post, URLS="")
    assert not process.step()
    assert store.cursor(CONSUMER) == 0
