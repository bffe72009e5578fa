"""Evidence side by side: what a finding says repeats, the earlier step beside the later one.

Pure. The words that differ are found with ``difflib`` on words, gaps and signs; what a page shows
of a step was cut to a few hundred characters before it was kept.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import groupby

import msgspec

from tocsin.core.supervision import Evidence, Finding
from tocsin.dashboard import fmt

_WORDS = re.compile(r"[\w./-]+|\s+|[^\w\s]")
"""Words, paths, dates and flags; gaps; single signs."""
_SHOWN = 600
"""Characters of one text that are compared."""
_MOST_BETWEEN = 8
"""Steps between the two shown that are named one by one."""

STAGE_RANK = {"nudge": 1, "pause": 2, "kill": 3}

DETECTORS: Mapping[str, str] = {
    "identical": "Identical calls",
    "near_duplicate": "Near-duplicate calls",
    "same_failure": "The same failure again",
    "alternation": "Back and forth",
    "nothing_new": "Nothing new",
    "monologue": "Monologue",
    "stream_repeats": "Repetition in an answer",
    "no_progress": "Motion without progress",
    "growing_context": "Context that only grows",
    "rising_cost": "Rising cost",
    "no_end": "No end in sight",
}
"""What each detector found, as a heading."""


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """A stretch of text; ``changed`` where the other side says something else."""

    text: str
    changed: bool = False


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One step as the page shows it."""

    call: int
    href: str
    tool: str
    agent: str
    at: int
    outcome: str
    arguments: tuple[Piece, ...]
    result: tuple[Piece, ...]


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """An earlier step and a later one; ``right`` is missing where there is nothing to compare."""

    left: Side
    right: Side | None
    said: str
    """What is the same and what is not, in words."""
    between: tuple[tuple[int, str], ...] = ()
    """The steps between them that the finding names too: number and address."""
    more: int = 0
    """So many more of them."""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A finding with its evidence; ``earlier`` are weaker or older ones of the same detector."""

    finding: Finding
    anchor: str
    title: str
    did: str
    """What was done about it: ``paused``, ``would pause``."""
    pairs: tuple[Pair, ...]
    earlier: tuple[Finding, ...] = ()


def tell(findings: Sequence[Finding], address: Callable[[Evidence], tuple[int, str]]) -> list[Told]:
    """A run's findings, one for each detector: the strongest, then the latest; the rest below it.

    ``address`` gives the number of a step in its run and where it stands.
    """
    by_detector: dict[str, list[Finding]] = {}
    for finding in findings:
        by_detector.setdefault(finding.detector, []).append(finding)
    told = []
    for detector, found in by_detector.items():
        best = max(found, key=lambda f: (STAGE_RANK[f.stage], f.call))
        others = sorted((f for f in found if f is not best), key=lambda f: f.call)
        told.append(
            Told(
                finding=best,
                anchor=f"finding-{re.sub(r'[^a-z0-9]+', '-', detector.lower())}",
                title=title(detector),
                did=did(best),
                pairs=pairs(best.evidence, address),
                earlier=tuple(others),
            )
        )
    return sorted(told, key=lambda t: (-STAGE_RANK[t.finding.stage], -t.finding.call))


def title(detector: str) -> str:
    """A detector's heading; one that we do not know speaks for itself."""
    own = fmt.one_line(detector, 40).replace("_", " ").capitalize()
    return DETECTORS.get(detector) or own or "Finding"


_DONE = {"nudge": "nudged", "pause": "paused", "kill": "killed"}


def did(finding: Finding) -> str:
    """What came of a finding, in a word or two."""
    if finding.mode == "enforce":
        return _DONE[finding.stage]
    return f"would {finding.stage}"


def pairs(
    evidence: Sequence[Evidence], address: Callable[[Evidence], tuple[int, str]]
) -> tuple[Pair, ...]:
    """The first and the last step of each tool; what stands alone is shown alone."""
    ordered = sorted(evidence, key=lambda e: (e.tool, e.agent, e.call))
    groups = [list(steps) for _, steps in groupby(ordered, key=lambda e: (e.tool, e.agent))]
    if all(len(group) == 1 for group in groups):
        groups = [list(s) for _, s in groupby(ordered, key=lambda e: e.tool)]
    repeated = sorted((g for g in groups if len(g) > 1), key=lambda g: g[0].call)
    if repeated:
        return tuple(_pair(group, address) for group in repeated)
    alone = sorted(evidence, key=lambda e: e.call)[-2:]
    return tuple(_alone(step, address) for step in alone)


def _pair(group: Sequence[Evidence], address: Callable[[Evidence], tuple[int, str]]) -> Pair:
    first, last = group[0], group[-1]
    arguments = words(first.arguments, last.arguments)
    results = words(first.result, last.result)
    between = [address(step) for step in group[1:-1]]
    return Pair(
        left=_side(first, address, arguments[0], results[0]),
        right=_side(last, address, arguments[1], results[1]),
        said=_said(first, last, arguments[1], results[1]),
        between=tuple(between[:_MOST_BETWEEN]),
        more=max(0, len(between) - _MOST_BETWEEN),
    )


def _alone(step: Evidence, address: Callable[[Evidence], tuple[int, str]]) -> Pair:
    arguments, result = (Piece(_clean(step.arguments)),), (Piece(_clean(step.result)),)
    return Pair(left=_side(step, address, arguments, result), right=None, said="")


def _side(
    step: Evidence,
    address: Callable[[Evidence], tuple[int, str]],
    arguments: tuple[Piece, ...],
    result: tuple[Piece, ...],
) -> Side:
    number, href = address(step)
    return Side(
        call=number,
        href=href,
        tool=fmt.one_line(step.tool, 80),
        agent=fmt.one_line(step.agent, 40),
        at=step.at,
        outcome=fmt.one_line(step.outcome, 80),
        arguments=tuple(p for p in arguments if p.text),
        result=tuple(p for p in result if p.text),
    )


def _said(
    first: Evidence, last: Evidence, arguments: Sequence[Piece], result: Sequence[Piece]
) -> str:
    what = "arguments" if last.tool else "text"
    parts = [_differs(what, first.arguments, last.arguments, arguments)]
    parts.append(_differs("result", first.result, last.result, result))
    return ", ".join(part for part in parts if part)


def _differs(name: str, old: str, new: str, pieces: Sequence[Piece]) -> str:
    if not old and not new:
        return ""
    if old == new:
        return f"same {name}"
    changed = sum(len(_WORDS.findall(p.text)) for p in pieces if p.changed and p.text.strip())
    whole = sum(len(_WORDS.findall(p.text)) for p in pieces)
    if changed > 0.6 * whole:
        return f"different {name}"
    return f"{name} differ{'s' if name != 'arguments' else ''} in part"


def words(old: str, new: str) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    """Two texts in pieces, with what only one of them says marked on its side."""
    before, after = _WORDS.findall(_clean(old)), _WORDS.findall(_clean(new))
    left: list[Piece] = []
    right: list[Piece] = []
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        changed = kind != "equal"
        _add(left, "".join(before[a:b]), changed)
        _add(right, "".join(after[c:d]), changed)
    return _trimmed(left), _trimmed(right)


def _add(pieces: list[Piece], text: str, changed: bool) -> None:
    """Add text; a gap after a change is part of it, so that one change is one mark."""
    if not text:
        return
    after = pieces[-1].changed if pieces else False
    changed = changed or (after and text.isspace())
    if pieces and after == changed:
        pieces[-1] = Piece(pieces[-1].text + text, changed)
    else:
        pieces.append(Piece(text, changed))


def _trimmed(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Marks without the gap at their end."""
    found: list[Piece] = []
    for piece in pieces:
        bare = piece.text.rstrip()
        if piece.changed and bare and bare != piece.text:
            found += [Piece(bare, True), Piece(piece.text[len(bare) :])]
        else:
            found.append(piece)
    return tuple(found)


def _clean(text: str) -> str:
    return fmt.visible(text[:_SHOWN])
