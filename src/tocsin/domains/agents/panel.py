"""Data for the Supervisor page: how runs are ranked, and what each detector means."""

from collections.abc import Iterable, Mapping
from typing import Any

from tocsin.core.domain import Panel
from tocsin.core.supervision import STAGES, RunWatch

MEANINGS: Mapping[str, str] = {
    "identical": "The same call again, with the same result.",
    "near_duplicate": "Calls whose arguments hardly differ, with the same class of outcome.",
    "same_failure": "The same failure again and again, whatever was tried.",
    "alternation": "Steps that go round in a cycle, of one agent or between several.",
    "nothing_new": "Successful calls whose results hold nothing that the run had not seen.",
    "monologue": "Answers that only say again what was said.",
    "stream_repeats": "An answer that repeats itself while it streams.",
    "no_progress": "Steps of any kind that bring nothing new.",
    "growing_context": "A context that only grows, without progress.",
    "rising_cost": "Calls that cost ever more, without progress.",
    "no_end": "Far more calls than runs of this feature need.",
}


def ranked(runs: Iterable[RunWatch]) -> list[RunWatch]:
    """The runs that most need a look first: by tokens since they last saw anything new."""
    return sorted(runs, key=lambda run: (-run.tokens_since_new, -run.cost_nano_usd, run.run_id))


def _load(filters: Mapping[str, str]) -> dict[str, Any]:
    """What the page explains. The runs themselves are the store's; ``ranked`` orders them."""
    wanted = filters.get("detector")
    return {
        "stages": list(STAGES),
        "order": "tokens_since_new",
        "detectors": [
            {"name": name, "meaning": meaning}
            for name, meaning in MEANINGS.items()
            if not wanted or wanted == name
        ],
    }


PANEL = Panel(name="supervisor", title="Supervisor", load=_load)
