"""A share of the calls is scored: whole runs, the same ones everywhere."""

import msgspec

from tocsin.domains import DOMAINS
from tocsin.testing import sample_entries
from tocsin.worker.evaluating import Scoring, catalogue_of, chosen

EVALUATORS = tuple(make() for domain in DOMAINS for make in domain.evaluators)
RUNS = [f"run_{number:024}" for number in range(4_000)]


def test_a_share_is_about_as_large_as_it_says_and_grows_by_adding() -> None:
    tenth = {run for run in RUNS if chosen(run, 0.1)}
    half = {run for run in RUNS if chosen(run, 0.5)}
    assert 320 < len(tenth) < 480
    assert 1_850 < len(half) < 2_150
    assert tenth < half
    assert all(chosen(run, 1.0) for run in RUNS)


def test_a_call_outside_of_the_share_has_no_scores_and_is_no_bad_call() -> None:
    entry = sample_entries()[0]
    scoring = Scoring(EVALUATORS, catalogue_of(EVALUATORS), share=lambda feature: 0.25)
    for run in RUNS[:40]:
        call = msgspec.structs.replace(entry.interaction, run_id=run)
        scored = scoring.score(msgspec.structs.replace(entry, interaction=call))
        assert bool(scored.scores) == chosen(run, 0.25)
        assert scored.interaction is call
