"""Interactions that show a signal: those of an alert, else the worst; before beside after."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from tocsin.core.domain import Alert
from tocsin.core.interaction import Interaction
from tocsin.core.messages import Message
from tocsin.core.score import Score
from tocsin.core.signals import JUDGED_AXES, Scored, Signal
from tocsin.dashboard import conversation, evidence, fmt, measures
from tocsin.dashboard.behaviour import Span
from tocsin.dashboard.evidence import Piece
from tocsin.dashboard.filters import segment
from tocsin.store.api import Store

SHOWN = 3
"""Pairs of examples."""
_READ = 400
"""Interactions that are looked through for one side."""
_ASKED, _TEXT = 320, 600
"""Characters of a request and of an answer that an example carries."""
_REASONS = 5
_FIGURES = re.compile(r"\d[\d.,:]*")
_MOSTLY = 0.6
"""Share of words that differ from which on marking them says nothing."""
_GAPS = re.compile(r"\n{3,}")


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """One interaction, as short as a comparison needs."""

    interaction: Interaction
    href: str
    asked: tuple[Piece, ...]
    answered: tuple[Piece, ...]
    cut: bool
    """Whether the answer goes on."""
    value: str
    bad: bool
    why: str
    """What the evaluator said of it."""


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """One before, one after; either may be missing."""

    before: Example | None
    after: Example | None
    same_ask: bool = False


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """The examples of a page."""

    pairs: tuple[Pair, ...]
    reasons: tuple[tuple[str, int], ...]
    """What evaluators said of bad ones, with how often, among ``read`` of the newest calls."""
    read: int


def show(
    store: Store,
    signal: Signal,
    feature: str,
    span: Span,
    where: tuple[str, str] | None,
    alert: Alert | None,
) -> Shown:
    """Up to three pairs. Where both sides were asked the same, they stand beside each other."""
    before, after = of_alert(store, alert)
    rows = _scored(store, feature, span.since, span.until, where)
    if not after:
        after = _pick(signal, rows, bad=True)
    if not before and span.before is not None:
        before = _pick(signal, _scored(store, feature, *span.before, where), bad=False)
    reasons = _reasons(signal, rows)
    return Shown(
        pairs=tuple(beside(store, signal, before, after)),
        reasons=tuple(reasons.most_common(_REASONS)),
        read=len(rows),
    )


def beside(
    store: Store, signal: Signal, before: Sequence[Scored], after: Sequence[Scored]
) -> list[Pair]:
    """Rows as pairs with their texts."""
    return [_pair(store, signal, old, new) for old, new in matched(before, after)]


def _reasons(signal: Signal, rows: Sequence[Scored]) -> Counter[str]:
    """Explanations of bad ones; figures in them are set aside, so that the same reason counts
    once."""
    found: Counter[str] = Counter()
    for row in rows:
        score = score_of(row.scores, signal.name)
        if score is not None and score.value is not None and signal.bad(score.value):
            why = _why(signal, row.scores, score)
            if why:
                found[_FIGURES.sub("…", why)] += 1
    return found


def _scored(
    store: Store, feature: str, since: int, until: int, where: tuple[str, str] | None
) -> list[Scored]:
    return store.scored(feature, since=since, until=until, slice=where, limit=_READ)


def of_alert(store: Store, alert: Alert | None) -> tuple[list[Scored], list[Scored]]:
    """The interactions that an alert names, before and after, with their scores."""
    if alert is None or alert.change is None:
        return [], []
    change = alert.change

    def of(ids: Sequence[str]) -> list[Scored]:
        found = []
        for one in ids[: 4 * SHOWN]:
            interaction = store.interaction(one)
            if interaction is not None:
                scores = store.scores(one)
                found.append(Scored(interaction=interaction, scores=scores, slices={}))
        return found

    return of(change.examples_before), of(change.examples_after)


def _pick(signal: Signal, rows: Sequence[Scored], *, bad: bool) -> list[Scored]:
    """Those with a value, the most telling first: bad ones (or good ones), then the latest."""
    told = [(row, score_of(row.scores, signal.name)) for row in rows]
    known = [(row, s.value) for row, s in told if s is not None and s.value is not None]
    if not known:
        return []
    order: Callable[[tuple[Scored, float]], float]
    if signal.kind == "rate" and signal.better != "neither":
        known = [one for one in known if signal.bad(one[1]) == bad] or known
        order = lambda one: 0.0  # noqa: E731 - newest first, as they came
    elif signal.better != "neither":
        sign = 1.0 if (signal.better == "up") == bad else -1.0
        order = lambda one: sign * one[1]  # noqa: E731
    else:
        middle = sorted(value for _, value in known)[len(known) // 2]
        order = lambda one: abs(one[1] - middle)  # noqa: E731 - what is usual there
    return [row for row, _ in sorted(known, key=order)]


def score_of(scores: Sequence[Score], name: str) -> Score | None:
    """The last score of that name that has a value, else any of it."""
    found = [score for score in scores if score.name == name]
    return next((s for s in reversed(found) if s.value is not None), found[-1] if found else None)


def matched(
    before: Sequence[Scored], after: Sequence[Scored]
) -> list[tuple[Scored | None, Scored | None]]:
    """Pairs: first those whose whole request is the same, then in order.

    Each request and each run is shown once: three examples of one run say what one of them says.
    """
    by_ask = {row.interaction.input_node: row for row in reversed(before)}
    by_ask.pop(None, None)
    fresh = _distinct(after)
    same = [row for row in fresh if row.interaction.input_node in by_ask]
    rest = [row for row in fresh if row.interaction.input_node not in by_ask]
    found: list[tuple[Scored | None, Scored | None]] = [
        (by_ask[row.interaction.input_node], row) for row in same[:SHOWN]
    ]
    used = {old.interaction.id for old, _ in found if old is not None}
    others = [row for row in _distinct(before) if row.interaction.id not in used]
    for i in range(max(len(rest), len(others) if not found else 0)):
        old = others[i] if i < len(others) else None
        new = rest[i] if i < len(rest) else None
        found.append((old, new))
    return found[:SHOWN]


def _distinct(rows: Sequence[Scored]) -> list[Scored]:
    seen: set[object] = set()
    first: list[Scored] = []
    later: list[Scored] = []
    for row in rows:
        keys = {row.interaction.run_id, row.interaction.input_node} - {None}
        (later if keys & seen else first).append(row)
        seen |= keys
    return [*first, *later]


def _pair(store: Store, signal: Signal, before: Scored | None, after: Scored | None) -> Pair:
    old = None if before is None else _texts(store, before.interaction)
    new = None if after is None else _texts(store, after.interaction)
    same = old is not None and new is not None and bool(old[0]) and old[0] == new[0]
    left: tuple[Piece, ...] = (Piece(old[1]),) if old is not None else ()
    right: tuple[Piece, ...] = (Piece(new[1]),) if new is not None else ()
    if same and old is not None and new is not None:
        told = evidence.words(old[1], new[1])
        if _changed(told[0]) < _MOSTLY or _changed(told[1]) < _MOSTLY:
            left, right = told
    return Pair(
        before=None if before is None or old is None else _example(signal, before, old, left),
        after=None if after is None or new is None else _example(signal, after, new, right),
        same_ask=same,
    )


def _changed(pieces: Sequence[Piece]) -> float:
    whole = sum(len(piece.text) for piece in pieces)
    return sum(len(p.text) for p in pieces if p.changed) / whole if whole else 0.0


def _example(
    signal: Signal, row: Scored, texts: tuple[str, str, bool], answered: tuple[Piece, ...]
) -> Example:
    score = score_of(row.scores, signal.name)
    value = score.value if score is not None else None
    return Example(
        interaction=row.interaction,
        href=f"/calls/{segment(row.interaction.id)}",
        asked=(Piece(_short(texts[0], _ASKED)),) if texts[0] else (),
        answered=tuple(piece for piece in answered if piece.text),
        cut=texts[2],
        value="" if value is None else one_value(signal, value),
        bad=value is not None and signal.bad(value),
        why=_why(signal, row.scores, score),
    )


def one_value(signal: Signal, value: float) -> str:
    """A single call's value: a rate's is yes or no, or a share between."""
    if signal.kind == "rate" and value in (0.0, 1.0):
        return "yes" if value else "no"
    return measures.value(signal, value)


def _why(signal: Signal, scores: Sequence[Score], score: Score | None) -> str:
    """An axis says which signal was at its bad end; that one's explanation says more."""
    if score is None:
        return ""
    if signal.name in JUDGED_AXES and score.label:
        named = score_of(scores, score.label)
        more = f": {named.explanation}" if named is not None and named.explanation else ""
        return fmt.one_line(score.label.replace("_", " ") + more, 200)
    return fmt.one_line(score.explanation, 200)


def _texts(store: Store, interaction: Interaction) -> tuple[str, str, bool]:
    """The last message asked, the answer, and whether the answer was cut."""
    asked = answered = ""
    if interaction.input_node is not None:
        asked = _said(store.history(interaction.input_node, last=1))
    if interaction.output_node is not None:
        answered = _said(store.history(interaction.output_node, last=1))
    return asked, _short(answered, _TEXT), len(answered) > _TEXT


def _said(messages: Sequence[Message]) -> str:
    if not messages:
        return ""
    turn = conversation.read(messages[-1], shown=2 * _TEXT)
    parts = [f"{p.name}: {p.head}{p.rest}" if p.name else p.head + p.rest for p in turn.parts]
    return _GAPS.sub("\n\n", "\n".join(part for part in parts if part)).strip()


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most].rstrip() + "…"
