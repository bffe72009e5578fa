"""Whether a number is what simple arithmetic makes of numbers beside it."""

import re
from collections.abc import Iterator, Sequence
from itertools import combinations

from tocsin.domains.signals.values import Value, values_of

_TOTAL = re.compile(
    r"\b(?:total\w*|sum|combined|altogether|overall|in all|refund\w*|differences?|remain\w*|balance"
    r"|left|per|each|additional|cost\w*|sav\w+|more|less|both|together|average|twice|double|half"
    r"|change|increase\w*|decrease\w*|grew|fell|rose|drop\w*|duration|takes|lasts|years? old"
    r"|insgesamt|gesamt\w*|summe|differenz)\b"
    r"|[=+×x*/%−-]\s*[€£$¥₹]?\s*$",
    re.IGNORECASE,
)
_MOST = 14
_LONGEST_RUN = 8
_REACH = 240
_SMALL, _CLOSE = 20, 120
_EACH = re.compile(r"\b(?:per|each|every|apiece)\b", re.IGNORECASE)


def reckons(value: Value, known: Sequence[Value], answer: str) -> bool:
    """Whether ``value`` is a sum, difference, product, share or average of ``known`` values, where
    the answer speaks of such a thing."""
    if not value.numbers or not _speaks_of_it(value, answer):
        return False
    others = [other for other in known if other.kind == "number" and other.numbers]
    near = sorted(others, key=lambda other: abs(other.start - value.start))[:_MOST]
    if value.numbers[0] < _SMALL:
        return _small(value, near) or _multiplied(value, near, answer)
    numbers = [other.numbers[0] for other in sorted(near, key=lambda other: other.start)]
    half = 0.5 * 10.0 ** -max(value.places, 0) + 1e-9
    return any(
        abs(made - number) <= (half if inexact else 1e-6)
        for number in value.numbers
        for made, inexact in _made(list(dict.fromkeys(numbers)), numbers, value)
    )


def _small(value: Value, near: Sequence[Value]) -> bool:
    """Most small numbers can be made of most others: only of two that stand close by."""
    close = [other.numbers[0] for other in near if abs(other.start - value.start) < _CLOSE]
    return any(
        value.numbers[0] in (first + second, first * second)
        for first, second in combinations(close[:4], 2)
        if min(first, second) > 1
    )


def _multiplied(value: Value, near: Sequence[Value], answer: str) -> bool:
    """Whether a small number is so many each of so many: "2 bags per passenger, two passengers".

    One of the two factors is said of each; the other, and the product, stand within reach of it.
    """
    close = [other for other in near if abs(other.start - value.start) < _REACH]
    for one in close:
        if _EACH.search(answer, one.end, one.end + 40) is None or one.numbers[0] <= 1:
            continue
        if any(
            other is not one and other.numbers[0] > 1
            and one.numbers[0] * other.numbers[0] == value.numbers[0]
            for other in close
        ):  # fmt: skip
            return True
    return False


def _speaks_of_it(value: Value, answer: str) -> bool:
    start = answer.rfind("\n", 0, value.start) + 1
    end = answer.find("\n", value.end)
    end = len(answer) if end < 0 else end
    return (
        _TOTAL.search(answer[max(start, value.start - _REACH) : min(end, value.end + 80)])
        is not None
    )


def _made(numbers: list[float], run: list[float], value: Value) -> Iterator[tuple[float, bool]]:
    """What can be made of the numbers; with whether that is rounded."""
    for first, second in combinations(numbers, 2):
        yield first + second, False
        yield abs(first - second), False
        small, large = sorted((first, second))
        if 2 <= small <= 100:
            yield small * large, False
            if large % small or large / small >= 10:
                yield large / small, True
        if small and large and value.unit is not None and value.unit.dimension == "percent":
            yield small / large * 100, True
            yield (large - small) / small * 100, True
            yield (large - small) / large * 100, True
    for number in numbers:
        for times in (2, 3, 4, 5):
            yield number * times, False
            if number >= 20:
                yield number / times, False
    for start in range(len(run)):
        total = run[start]
        for other in run[start + 1 : start + _LONGEST_RUN]:
            total += other
            yield total, False


_CODE = re.compile(r"\b(?=\w{0,12}\d)(?=\w{0,12}[^\W\d_])\w{3,20}\b")
_MOST_CODES = 6
_RECORD = 360
"""Characters after a code in which the numbers of its record stand."""
_BLOCK = 900


def reckons_from_records(value: Value, answer: str, texts: Sequence[str]) -> bool:
    """Whether ``value`` is a sum or difference of one number each of the records that codes beside
    it name (the prices of "HAT136 & HAT039"), or small multiples of one."""
    if not value.numbers or not _speaks_of_it(value, answer):
        return False
    head = max(answer.rfind("\n\n", 0, value.start), value.start - _BLOCK, 0)
    codes = list(dict.fromkeys(_CODE.findall(answer[head : value.start + 80])))[-_MOST_CODES:]
    records = [numbers for code in codes if (numbers := _record(code, texts))]
    wanted = value.numbers[0]
    for first, second in combinations(records, 2):
        if any(a + b == wanted or abs(a - b) == wanted for a in first for b in second):
            return True
    return any(number * times == wanted for numbers in records for number in numbers
               for times in (2, 3, 4))  # fmt: skip


def _record(code: str, texts: Sequence[str]) -> set[float]:
    found: set[float] = set()
    for text in texts:
        at = text.find(code)
        for _ in range(3):
            if at < 0:
                break
            end = text.find("}, {", at, at + _RECORD)
            window = text[at + len(code) : end if end > 0 else at + _RECORD]
            found |= {v.numbers[0] for v in values_of(window, {})
                      if v.kind == "number" and v.numbers and v.numbers[0] >= 10}  # fmt: skip
            at = text.find(code, at + 1)
    return found
