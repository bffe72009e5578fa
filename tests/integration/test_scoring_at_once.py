"""What ``replay --keep`` puts into the store is scored the same by one process and by several."""

from typing import Any

import msgspec
import pytest

from store_world import START, entry
from tocsin.cli.scoring import score
from tocsin.config.model import Config
from tocsin.core.signals import Sum
from tocsin.testing import temporary_store

TARGET = {"feature": "chat", "signal": "answer_words", "at_most": 9, "target": 0.9}


def sums(many: int, **settings: Any) -> dict[str, Sum]:
    """The sums of forty calls, scored in this process or, from ``many`` on, in others."""
    config = Config.model_validate({"objectives": {"short": TARGET}, "signals": settings})
    with temporary_store() as store:
        store.append([entry(n, run=f"run_{n:024}", feature="chat") for n in range(1, 41)])
        assert score(store, config, hidden=True, many=many) == 40
        assert score(store, config, hidden=True, many=many) == 0
        found = store.signal_totals(since=0, until=START * 2)
        return {point.signal: point.sum for point in found}


def rounded(found: dict[str, Sum]) -> dict[str, list[float]]:
    return {name: [round(x, 6) for x in msgspec.structs.astuple(s)] for name, s in found.items()}


def test_several_processes_say_the_same_as_one() -> None:
    alone = sums(many=1_000)
    assert alone["answer_words"].n == 40
    assert alone["objective_short"] == Sum(40, 40.0, 40.0)
    assert rounded(sums(many=1)) == rounded(alone)


@pytest.mark.parametrize("many", [1, 1_000])
def test_a_share_holds_here_too(many: int) -> None:
    assert 0 < sums(many=many, share=0.3)["answer_words"].n < 30
