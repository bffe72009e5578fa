"""Sentinels: which prompts make a suite, and whether its answers differ from their own past.

Every prompt is its own control: what makes prompts differ from each other cancels out, so that a
hundred show what thousands of unpaired calls would be needed for.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from tocsin.core.sentinels import Asked, Example, SignalDiff, SuiteDiff
from tocsin.core.signals import Estimate, Signal, Sum
from tocsin.domains.signals.compare import direction, holm
from tocsin.domains.signals.intervals import Difference, mean, wilson
from tocsin.domains.signals.paired import level_difference, rate_difference, stratified
from tocsin.domains.signals.power import pairs as pairs_needed

SAME_WORDS = Signal(
    name="same_words",
    title="Words in common",
    axis="consistent",
    kind="level",
    description="Share of words that an answer has in common with earlier answers to the same "
    "prompt; compared with how alike those are among themselves, so two past runs are needed.",
)
"""What only a suite can measure: how alike answers to the same prompt are."""

MIN_SERVICE_RUNS = 3
"""Past runs before levels of axis ``service`` are tested: how fast an upstream is differs between
whole runs, and only several runs tell by how much."""
SMALL_RATIO = 1.15
SMALL_SHARE = 0.1
SMALL_EFFECT = 0.2
"""The least that "no difference seen" must be able to see: a factor of ``log`` signals, a share of
rates, else a part of the past answers' standard deviation."""

_WORD = re.compile(r"\w+")
_FEWEST = 6
"""Prompts that must differ before a test can reach 5 % two-sided at all: 2 / 2**6 is 3 %."""
_MOST_EXAMPLES = 3
_LIKE = 0.8
"""Word overlap from which two prompts count as one."""


Verdict = Literal["worse", "better", "different", "same", "underpowered", "untested"]


# -- which prompts --


def words_of(text: str) -> frozenset[str]:
    """The words of a text, in lower case; of very long ones the first 20,000 characters'."""
    return frozenset(_WORD.findall(text[:20_000].lower()))


def likeness(one: frozenset[str], other: frozenset[str]) -> float:
    """Words in common over words in either (Jaccard); 1 for two without words."""
    if not one and not other:
        return 1.0
    return len(one & other) / len(one | other)


def choose(texts: Sequence[str], count: int) -> list[int]:
    """Indices of at most ``count`` texts, no two of them alike, in their order.

    Half are spread evenly, and stand for what is common; the others are each as unlike all chosen
    ones as can be (Gonzalez, 1985), and stand for what is rare. Words that most texts have, such as
    those of a template, do not make two alike.
    """
    whole = [words_of(text) for text in texts]
    telling = _telling(whole)
    alike, close = [0.0] * len(texts), [0.0] * len(texts)
    chosen: list[int] = []

    def take(index: int) -> None:
        chosen.append(index)
        for other in range(len(texts)):
            same = likeness(telling[index], telling[other])
            alike[other] = max(alike[other], same)
            close[other] = max(close[other], same + likeness(whole[index], whole[other]))

    half = (count + 1) // 2
    step = max(1, len(texts) // max(1, half))
    for index in (*range(0, len(texts), step), *range(len(texts))):
        if len(chosen) >= half:
            break
        if alike[index] < _LIKE:
            take(index)
    while len(chosen) < count:
        left = [index for index in range(len(texts)) if alike[index] < _LIKE]
        if not left:
            break
        take(min(left, key=close.__getitem__))
    return sorted(chosen)


def _telling(words: Sequence[frozenset[str]]) -> list[frozenset[str]]:
    """Each text's words without those that stand in more than half of the texts."""
    counts = Counter(word for own in words for word in own)
    common = frozenset(word for word, count in counts.items() if 2 * count > len(words))
    return [own - common for own in words]


# -- what changed --


class _Pairs(NamedTuple):
    """The values of one signal by prompt: all past ones and the new one."""

    prompts: tuple[str, ...]
    past: tuple[tuple[float, ...], ...]
    new: tuple[float, ...]

    def differences(self) -> list[float]:
        return [
            after - math.fsum(before) / len(before)
            for before, after in zip(self.past, self.new, strict=True)
        ]


def diff(
    suite: str,
    upstream: str,
    past: Sequence[Asked],
    new: Asked,
    catalogue: Mapping[str, Signal],
    *,
    alpha: float = 0.05,
) -> SuiteDiff:
    """A run beside the runs before it, prompt by prompt, over every signal that both sides have.

    The chance that anything is called changed though nothing did is at most ``alpha``, over all
    signals together (Holm). What no prompt shows a difference in is not tested. Several past runs
    tell how much answers vary by themselves: rates are tested given how often each prompt came
    out so in all runs (``paired.stratified``), levels by their means.
    """
    found: list[tuple[Signal, _Pairs, Difference | None, str]] = []
    for signal in _signals(past, new, catalogue):
        pairs = _pairs(signal, past, new)
        if len(pairs.new) >= 2:
            note = _untestable(signal, pairs, len(past))
            found.append((signal, pairs, _tested(signal, pairs, past, alpha), note))
    tested = [i for i, (_, _, d, note) in enumerate(found) if d is not None and not note]
    chances = holm([d.p for i in tested if (d := found[i][2]) is not None])
    adjusted = dict(zip(tested, chances, strict=True))
    each = alpha / max(1, len(tested))
    signals = tuple(
        _told(signal, pairs, difference, adjusted.get(i), note, past, new, alpha, each)
        for i, (signal, pairs, difference, note) in enumerate(found)
        if difference is not None
    )
    known = {prompt for run in past for prompt in run.calls}
    return SuiteDiff(
        suite=suite,
        upstream=upstream,
        past=tuple(run.run for run in past),
        run=new.run,
        at=new.at,
        pairs=len(known & new.values.keys()),
        lost=len(known - new.values.keys()),
        signals=signals,
        models_before=_all(run.models for run in past),
        models_after=new.models,
        fingerprints_before=_all(run.fingerprints for run in past),
        fingerprints_after=new.fingerprints,
        alpha=alpha,
    )


def _all(several: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(sorted({one for some in several for one in some}))


def _signals(past: Sequence[Asked], new: Asked, catalogue: Mapping[str, Signal]) -> list[Signal]:
    names = {name for values in new.values.values() for name in values}
    both = names & {n for run in past for values in run.values.values() for n in values}
    return [*(catalogue[name] for name in sorted(both) if name in catalogue), SAME_WORDS]


def _pairs(signal: Signal, past: Sequence[Asked], new: Asked) -> _Pairs:
    """Inner values, for the prompts that have one now and had one before."""
    if signal is SAME_WORDS:
        return _alike(past, new)
    rows: list[tuple[str, tuple[float, ...], float]] = []
    for prompt, values in sorted(new.values.items()):
        after = values.get(signal.name)
        if after is None:
            continue
        earlier = (run.values.get(prompt, {}).get(signal.name) for run in past)
        before = tuple(signal.inner(value) for value in earlier if value is not None)
        if before:
            rows.append((prompt, before, signal.inner(after)))
    return _as_pairs(rows)


def _alike(past: Sequence[Asked], new: Asked) -> _Pairs:
    """How alike the new answer is to the past ones, beside how alike those are to each other."""
    rows: list[tuple[str, tuple[float, ...], float]] = []
    for prompt, words in sorted(new.words.items()):
        earlier = [run.words[prompt] for run in past if prompt in run.words]
        if len(earlier) < 2:
            continue
        among = [likeness(a, b) for i, a in enumerate(earlier) for b in earlier[:i]]
        beside = math.fsum(likeness(words, one) for one in earlier) / len(earlier)
        rows.append((prompt, (math.fsum(among) / len(among),), beside))
    return _as_pairs(rows)


def _as_pairs(rows: Sequence[tuple[str, tuple[float, ...], float]]) -> _Pairs:
    return _Pairs(
        tuple(row[0] for row in rows), tuple(row[1] for row in rows), tuple(row[2] for row in rows)
    )


def _untestable(signal: Signal, pairs: _Pairs, runs: int) -> str:
    """Why a signal is not tested; it must not depend on which side is which."""
    if _of_whole_runs(signal) and runs < MIN_SERVICE_RUNS:
        return f"needs {MIN_SERVICE_RUNS} past runs, has {runs}: speed differs from run to run"
    mixed = sum(1 for b, a in zip(pairs.past, pairs.new, strict=True) if any(x != a for x in b))
    if mixed < _FEWEST:
        return "too few answers differ" if mixed else "no answer differs"
    return ""


def _of_whole_runs(signal: Signal) -> bool:
    return signal.axis == "service" and signal.kind == "level"


def _binary(signal: Signal, pairs: _Pairs) -> bool:
    values = {value for before in pairs.past for value in before} | set(pairs.new)
    return signal.kind == "rate" and values <= {0.0, 1.0}


def _tested(
    signal: Signal, pairs: _Pairs, past: Sequence[Asked], alpha: float
) -> Difference | None:
    extra = _between_runs(signal, past, pairs.prompts) if _of_whole_runs(signal) else 0.0
    if _binary(signal, pairs):
        if all(len(before) == 1 for before in pairs.past):
            moves = [a - b[0] for b, a in zip(pairs.past, pairs.new, strict=True)]
            worse, better = sum(m < 0 for m in moves), sum(m > 0 for m in moves)
            return rate_difference(worse, better, len(moves), alpha=alpha)
        strata = [
            (round(math.fsum(before)), len(before), round(after), 1)
            for before, after in zip(pairs.past, pairs.new, strict=True)
        ]
        found = level_difference(pairs.differences(), alpha=alpha)
        chance = stratified(strata)
        return found and found._replace(p=chance, method="exact Cochran-Mantel-Haenszel")
    return level_difference(
        pairs.differences(), alpha=alpha, extra=extra, runs=max(0, len(past) - 1)
    )


def _between_runs(signal: Signal, past: Sequence[Asked], prompts: Sequence[str]) -> float:
    """Variance that a comparison with past runs has because whole runs differ, inner units."""
    table = [
        [signal.inner(run.values[prompt][signal.name]) for run in past]
        for prompt in prompts
        if all(signal.name in run.values.get(prompt, {}) for run in past)
    ]
    runs = len(past)
    if runs < 2 or not table:
        return 0.0
    means = [math.fsum(column) / len(table) for column in zip(*table, strict=True)]
    between = Sum(runs, math.fsum(means), math.fsum(m * m for m in means)).variance or 0.0
    within = (
        math.fsum(
            Sum(runs, math.fsum(row), math.fsum(v * v for v in row)).variance or 0.0
            for row in table
        )
        / len(table) ** 2
    )
    return max(0.0, between - within) * (1.0 + 1.0 / runs)


def _told(
    signal: Signal,
    pairs: _Pairs,
    difference: Difference | None,
    chance: float | None,
    note: str,
    past: Sequence[Asked],
    new: Asked,
    alpha: float,
    each: float,
) -> SignalDiff:
    assert difference is not None
    before, after = (math.fsum(b) / len(b) for b in pairs.past), pairs.new
    needed = _needed(signal, pairs, each)
    verdict: Verdict = "same"
    if chance is not None and chance < alpha:
        verdict = direction(signal, difference.value)
    elif note and _of_whole_runs(signal):
        verdict = "untested"
    elif needed:
        verdict = "underpowered"
    changed = verdict in ("worse", "better", "different")
    return SignalDiff(
        signal=signal.name,
        title=signal.title,
        before=(first := _estimate(signal, tuple(before), alpha)),
        after=(second := _estimate(signal, after, alpha)),
        difference=_outer(signal, difference, first, second, len(after)),
        pairs=len(after),
        changed=sum(1 for d in pairs.differences() if d != 0.0),
        p_value=chance,
        verdict=verdict,
        needed=needed,
        method=difference.method if chance is not None else "",
        note=note,
        examples=_examples(signal, pairs, difference.value, past, new) if changed else (),
    )


def _estimate(signal: Signal, values: Sequence[float], alpha: float) -> Estimate:
    total = math.fsum(values)
    if signal.kind == "rate" and set(values) <= {0.0, 1.0}:
        found = wilson(total, len(values), alpha=alpha)
    else:
        sums = Sum(len(values), total, math.fsum(value * value for value in values))
        maybe = mean(sums, alpha=alpha)
        assert maybe is not None
        found = maybe
    low, high = signal.outer(found.low), signal.outer(found.high)
    if signal.kind == "rate":
        low, high = max(0.0, low), min(1.0, high)
    return Estimate(signal.outer(found.value), low, high, len(values))


def _outer(
    signal: Signal, difference: Difference, before: Estimate, after: Estimate, n: int
) -> Estimate:
    """For ``log`` the factor, no difference being exactly 1."""
    if not signal.log:
        return Estimate(difference.value, difference.low, difference.high, n)
    middle = (signal.inner(before.value) + signal.inner(after.value)) / 2.0

    def factor(move: float) -> float:
        low = max(1e-9, signal.outer(max(0.0, middle - move / 2.0)))
        return max(1e-9, signal.outer(max(0.0, middle + move / 2.0))) / low

    return Estimate(factor(difference.value), factor(difference.low), factor(difference.high), n)


def _needed(signal: Signal, pairs: _Pairs, alpha: float) -> int:
    """More prompts until a small change would show in four of five cases."""
    differences = pairs.differences()
    n = len(differences)
    spread = Sum(n, math.fsum(differences), math.fsum(d * d for d in differences)).variance or 0.0
    if spread <= 0.0:
        return max(0, _FEWEST - n)
    if signal.log:
        small = math.log(SMALL_RATIO)
    elif signal.kind == "rate":
        small = SMALL_SHARE
    else:
        firsts = [before[0] for before in pairs.past]
        own = Sum(n, math.fsum(firsts), math.fsum(v * v for v in firsts)).variance or spread
        small = SMALL_EFFECT * math.sqrt(own)
    return max(0, pairs_needed(small / math.sqrt(spread), alpha=alpha) - n)


def _examples(
    signal: Signal, pairs: _Pairs, move: float, past: Sequence[Asked], new: Asked
) -> tuple[Example, ...]:
    """The prompts that moved furthest in the direction in which the signal did."""
    sign = 1.0 if move >= 0 else -1.0
    ranked = sorted(
        zip(pairs.differences(), pairs.prompts, pairs.past, pairs.new, strict=True),
        key=lambda row: (-sign * row[0], row[1]),
    )
    found = []
    for step, prompt, before, after in ranked[:_MOST_EXAMPLES]:
        earlier = next((run.calls[prompt] for run in reversed(past) if prompt in run.calls), "")
        if sign * step > 0.0:
            found.append(
                Example(
                    prompt=prompt,
                    call_before=earlier,
                    call_after=new.calls.get(prompt, ""),
                    before=signal.outer(math.fsum(before) / len(before)),
                    after=signal.outer(after),
                )
            )
    return tuple(found)


__all__ = ["SAME_WORDS", "choose", "diff", "likeness", "words_of"]
