"""Numbers, amounts, percentages, dates and times in running text, in one normal form.

``1,234.50``, ``1.234,50`` and ``1 234,50`` are the same number; ``May 20th``, ``20 May`` and
``2024-05-20`` the same day; ``7 PM`` and ``19:00:00`` the same time; ``2.5 h`` and ``150 minutes``
the same duration. What can be read in two ways (``05/06/2024``, ``1.234``) has both readings.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Literal, TypeAlias

import msgspec

from tocsin.core.patterns import lazily
from tocsin.domains.signals.statements import lowered, stem, tokens
from tocsin.domains.signals.units import CURRENCIES, SCALES, UNITS, Unit

Number: TypeAlias = float
Day: TypeAlias = tuple[int, int, int]
"""Year, month, day; 0 where the text leaves it out."""
Kind = Literal["number", "date", "time", "code"]


class Value(msgspec.Struct, frozen=True, gc=False):
    """One value as it stands in a text."""

    kind: Kind
    start: int
    end: int
    text: str
    numbers: tuple[float, ...] = ()
    """Readings as a number; of a date its year, if it has one."""
    days: tuple[Day, ...] = ()
    minutes: tuple[int, ...] = ()
    """Readings as a time of day, in minutes since midnight."""
    unit: Unit | None = None
    places: int = 0
    """Decimal places; negative where a scale word makes it coarse (``3.5 million``: -5)."""
    worded: bool = False
    """Written in letters."""
    ordinal: bool = False


_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "january jan januar janvier enero januari gennaio",
            "february feb februar février febrero februari febbraio",
            "march mar märz mars marzo maart",
            "april apr avril abril aprile",
            "may mai mayo mei maggio",
            "june jun juni juin junio giugno",
            "july jul juli juillet julio luglio",
            "august aug août agosto augustus",
            "september sep sept septembre septiembre settembre",
            "october oct oktober okt octobre octubre ottobre",
            "november nov novembre noviembre",
            "december dec dezember dez décembre diciembre december dicembre",
        ),
        1,
    )
    for name in names.split()
}


def _by_stem(names: Iterable[str]) -> dict[str, str]:
    """Stem → the words that have it, as alternatives of a pattern."""
    found: dict[str, str] = {}
    for name in names:
        before = found.get(stem(name))
        found[stem(name)] = f"{before}|{name}" if before else name
    return found


_MONTH = "|".join(sorted(_MONTHS, key=len, reverse=True))
_DATE_WORDS = lazily(
    rf"\b(?:(?P<d1>\d{{1,2}})(?:st|nd|rd|th|\.)?(?:[ -]?(?:of|de|-)?[ ]?|-)(?P<m1>{_MONTH})\b\.?"
    rf"(?:(?:,? ?(?:of |de )?|-)(?P<y1>\d{{4}})\b)?"
    rf"|(?P<m2>{_MONTH})\b\.?(?:[ -](?:the )?(?P<d2>\d{{1,2}})(?:st|nd|rd|th)?(?![\d:,.]?\d))?"
    rf"(?:,? ?(?:of )?(?<=[, f])(?P<y2>\d{{4}})\b)?)",
    re.IGNORECASE,
)
_MONTH_STEMS = _by_stem(_MONTHS)
_BEFORE_MONTH = 10
"""Characters in which a day of the month stands before its name."""
_CHUNK = lazily(
    r"\d(?:\d|[.,:/'’\-](?=\d)|[ \u00a0\u202f](?=\d{3}(?!\d)))*"
    r"(?:T\d\d:\d\d(?::\d\d)?(?:\.\d+)?)?"
)
_MERIDIEM = lazily(r"[ \u00a0]?([ap])\.?[ ]?m\b\.?", re.IGNORECASE)
_AFTER = lazily(r"([ \u00a0\u202f-]?)([%‰°€£¥₹$][CF]?|[^\W\d_]{1,12}\.?(?:/[^\W\d_]{1,6})?)")
_ENDS = ("", ",", '"', "}", "]", ")", ";", ":", "\n")
_STARTS = ("", '"', "[", "(", "\n", "_", ":")
"""What stands around numbers of JSON and tables: no unit is looked for there."""
_CURRENCY_BEFORE = lazily(r"(?:([€£¥₹$])|\b([A-Z]{3}))[ \u00a0]?-?$")

_ISO = lazily(r"(\d{4})-(\d{1,2})-(\d{1,2})(?:T(\d\d):(\d\d).*)?$")
_YEAR_FIRST = lazily(r"(\d{4})[/.](\d{1,2})[/.](\d{1,2})$")
_YEAR_LAST = lazily(r"(\d{1,2})([/.-])(\d{1,2})\2(\d{4}|\d{2})$")
_CLOCK = lazily(r"(\d{1,2}):(\d\d)(?::(\d\d))?$")
_GROUPED = lazily(r"\d{1,3}(?:[,.'’ \u00a0\u202f]\d{3})+$")
_LONGEST = 64
"""Characters of one written number that are read; longer digit runs are codes."""

_ONES = {
    word: number
    for number, words in {
        0: "zero null zéro cero",
        1: "one",
        2: "two zwei deux dos both",
        3: "three drei trois tres",
        4: "four vier quatre cuatro",
        5: "five fünf cinq cinco",
        6: "six sechs seis",
        7: "seven sieben sept siete",
        8: "eight acht huit ocho",
        9: "nine neun neuf nueve",
        10: "ten zehn dix diez",
        11: "eleven elf onze once",
        12: "twelve zwölf douze doce dozen dutzend douzaine docena",
        13: "thirteen",
        14: "fourteen",
        15: "fifteen",
        16: "sixteen",
        17: "seventeen",
        18: "eighteen",
        19: "nineteen",
        20: "twenty zwanzig vingt veinte",
        30: "thirty",
        40: "forty",
        50: "fifty",
        60: "sixty",
        70: "seventy",
        80: "eighty",
        90: "ninety",
    }.items()
    for word in words.split()
}
_AMBIGUOUS = frozenset({"once", "sept", "elf", "dos", "null", "both", "acht"})
"""Number words that are also words of other languages: no numbers of their own accord."""
_TIMES = {"twice": 2, "thrice": 3}
_POWERS = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_WORD_NUMBER = "|".join(
    sorted({w for w in (*_ONES, *_TIMES) if w not in _AMBIGUOUS}, key=len, reverse=True)
)
_POWER = "|".join(_POWERS)
_WORDED = lazily(
    rf"\b(?:half a |a |an )?(?:{_WORD_NUMBER}|hundred|thousand)\b"
    rf"(?:(?:[ -]|(?: and ))(?:{_WORD_NUMBER}|{_POWER})\b){{0,8}}(?: and a half\b)?",
    re.IGNORECASE,
)
_NUMBER_STEMS = _by_stem(
    word for word in (*_ONES, *_TIMES, "hundred", "thousand") if word not in _AMBIGUOUS
)
_MAX_VALUES = 4_000
"""Values read of one text; a table longer than that is cut."""


def values_of(text: str, stems: Mapping[str, object] | None = None) -> list[Value]:
    """Every value in ``text``, in order. Digits that are part of words (``HAT136``) are codes of
    those words, not numbers, and left out.

    ``stems``: the stems of the text's words, where they are known: without a month or a number
    word among them, none is looked for.
    """
    if stems is None:
        stems = dict.fromkeys(tokens(text))
    found: list[Value] = []
    taken: list[tuple[int, int]] = []
    if not _MONTH_STEMS.keys().isdisjoint(stems):
        for date in _month_dates(text, stems):
            found.append(date)
            taken.append((date.start, date.end))
    found += islice(_digits(text, taken), _MAX_VALUES)
    if not _NUMBER_STEMS.keys().isdisjoint(stems):
        inside = {place for value in found if value.text[-1:].isalpha()
                  for place in range(value.start, value.end)}  # fmt: skip
        found += (v for v in islice(_in_words(text, stems), _MAX_VALUES) if v.start not in inside)
    found.sort(key=_start)
    return found


def _start(value: Value) -> int:
    return value.start


def _places(text: str, known: Mapping[str, str], stems: Mapping[str, object]) -> list[int]:
    """Where the words of ``known`` begin that the text has: far cheaper than trying all."""
    low = lowered(text)
    found: set[int] = set()
    for wanted in known:
        if wanted not in stems:
            continue
        for word in known[wanted].split("|"):
            at = low.find(word)
            while at >= 0:
                if not at or not low[at - 1].isalpha():
                    found.add(at)
                at = low.find(word, at + len(word))
    return sorted(found)


def _month_dates(text: str, stems: Mapping[str, object]) -> Iterator[Value]:
    done = 0
    for place in _places(text, _MONTH_STEMS, stems):
        if place < done:
            continue
        match = _DATE_WORDS.search(text, max(done, place - _BEFORE_MONTH), place + 40)
        if match is None:
            continue
        done = match.end()
        month = _MONTHS[(match["m1"] or match["m2"]).lower()]
        day, year = int(match["d1"] or match["d2"] or 0), int(match["y1"] or match["y2"] or 0)
        said = match["d1"] or match["d2"]
        if not said and not year and not _is_month(match):
            continue
        real = not said or 1 <= day <= 31
        yield Value(
            "date",
            match.start(),
            match.end(),
            match[0].strip(),
            numbers=(float(year),) if year else (),
            days=((year, month, day),) if real else (),
        )


def _is_month(match: re.Match[str]) -> bool:
    """Whether a month that stands alone is one: "May", "March" and short forms may be words."""
    word = match["m2"] or ""
    return word[:1].isupper() and len(word) > 4 and word != "March"


def _digits(text: str, taken: list[tuple[int, int]]) -> Iterator[Value]:
    blocked = iter([*taken, (len(text) + 1, len(text) + 1)])
    start_of_next, end_of_next = next(blocked)
    for match in _CHUNK.finditer(text):
        start, end = match.span()
        while end_of_next <= start:
            start_of_next, end_of_next = next(blocked)
        if end > start_of_next:
            continue
        before = text[start - 1] if start else " "
        if before.isalpha() or (before in "_-" and start > 1 and text[start - 2].isalnum()):
            continue
        yield from _of_chunk(text, match[0], start, end)


def _of_chunk(text: str, chunk: str, start: int, end: int) -> Iterator[Value]:
    parts = _parts(chunk[:_LONGEST]) if len(chunk) <= _LONGEST else ((chunk, "code", (), (), ()),)
    last = len(parts) - 1
    at = start
    for index, (piece, kind, numbers, days, minutes) in enumerate(parts):
        here = text.index(piece, at, end) if last else start
        at = here + len(piece)
        if kind == "code" or index < last:
            yield Value(kind, here, at, piece, numbers, days, minutes, None, _decimals(piece))
        else:
            value = _with_unit(text, piece, here, at, numbers)
            if kind != "number" and value is not None:
                value = msgspec.structs.replace(
                    value,
                    kind="date" if kind == "date" else value.kind,
                    days=days,
                    minutes=value.minutes or minutes,
                )
                if kind == "time":
                    value = msgspec.structs.replace(value, kind="time")
            if value is not None:
                yield value


def _with_unit(
    text: str, piece: str, start: int, end: int, numbers: tuple[float, ...]
) -> Value | None:
    """The value with what stands around it; ``None`` where letters make a code of it."""
    if text[end : end + 1] not in _ENDS and (half := _MERIDIEM.match(text, end)):
        minutes = _meridiem(piece, half[1].lower())
        if minutes is not None:
            return Value("time", start, half.end(), text[start : half.end()], minutes=(minutes,))
    sign = text[start - 1 : start]
    if text[end : end + 1] in _ENDS and sign in _STARTS:
        return Value("number", start, end, piece, numbers, places=_decimals(piece))
    unit: Unit | None = None
    places = _decimals(piece)
    stop = end
    before = _CURRENCY_BEFORE.search(text, max(0, start - 5), start)
    if before and (sign := before[1] or before[2]) in CURRENCIES:
        unit = CURRENCIES[sign]
    after = _AFTER.match(text, end)
    if after is not None:
        glued, word = not after[1], after[2]
        if glued and word.lower() in ("st", "nd", "rd", "th"):
            return Value(
                "number", start, after.end(), piece + word, numbers, ordinal=True, places=places
            )
        scale = _scale(word, glued, unit is not None)
        if scale:
            numbers = tuple(round(number * scale, 6) for number in numbers)
            places -= len(str(scale)) - 1
            stop = after.end()
            after = _AFTER.match(text, stop)
            word = after[2] if after is not None else ""
        known = None if unit is not None and not scale else _unit(word, not after or not after[1])
        if known is not None and after is not None and unit is None:
            unit, stop = known, after.end()
        elif glued and not scale and unit is None and word[0].isalpha():
            return None
    return Value("number", start, stop, text[start:stop], numbers, unit=unit, places=places)


def _scale(word: str, glued: bool, money: bool) -> int:
    word = word.rstrip(".")
    if word in ("M", "B", "K", "k") or (money and word in ("m", "b")):
        return SCALES[word.lower()] if glued or money else 0
    return SCALES.get(word.lower(), 0) if len(word) > 1 else 0


def _unit(word: str, glued: bool) -> Unit | None:
    known = UNITS.get(word) or UNITS.get(word.rstrip("."))
    if known is not None or len(word) < 2:
        return known
    return UNITS.get(word.lower().rstrip("."))


def _meridiem(piece: str, half: str) -> int | None:
    clock = _CLOCK.match(piece.replace(".", ":")) if piece.count(".") + piece.count(":") else None
    if clock is not None:
        hour, minute = int(clock[1]), int(clock[2])
    elif piece.isdigit() and len(piece) <= 2:
        hour, minute = int(piece), 0
    else:
        return None
    if not 0 < hour <= 12 or minute > 59:
        return None
    return (hour % 12 + (12 if half == "p" else 0)) * 60 + minute


_Part = tuple[str, Kind, tuple[float, ...], tuple[Day, ...], tuple[int, ...]]


@lru_cache(maxsize=8192)
def _parts(chunk: str) -> tuple[_Part, ...]:
    """What a run of digits and marks says: piece, kind, numbers, days, minutes."""
    if chunk.isdigit():
        if len(chunk) > 15:
            return ((chunk, "code", (), (), ()),)
        return ((chunk, "number", (float(chunk),), (), ()),)
    if found := _as_date(chunk):
        return (found,)
    if clock := _CLOCK.match(chunk):
        hour, minute = int(clock[1]), int(clock[2])
        if hour <= 24 and minute <= 59:
            # Without am or pm an hour up to twelve may be either.
            both = (hour % 24 * 60 + minute, (hour + 12) * 60 + minute)
            sure = hour > 12 or hour == 0 or (len(clock[1]) == 2 and bool(clock[3]))
            return ((chunk, "time", (), (), both[:1] if sure else both),)
    for sign in ("-", "/", ":", " ", "\u00a0", "\u202f"):
        if sign in chunk and not (sign.isspace() and _GROUPED.match(chunk)):
            return _split(chunk, sign)
    numbers = readings(chunk)
    kind: Kind = "number" if numbers else "code"
    return ((chunk, kind, numbers, (), ()),)


def _split(chunk: str, sign: str) -> tuple[_Part, ...]:
    pieces = chunk.split(sign)
    if sign == "-" and (len(pieces) > 2 or any(len(p) > 4 and p.isdigit() for p in pieces)):
        return ((chunk, "code", (), (), ()),)
    if chunk == "24/7":
        return ()
    if sign == "/" and len(pieces) == 2 and all(p.isdigit() and len(p) <= 2 for p in pieces):
        first, second = int(pieces[0]), int(pieces[1])
        days = tuple(
            (0, month, day)
            for month, day in {(first, second), (second, first)}
            if 1 <= month <= 12 and 1 <= day <= 31
        )
        numbers = (round(first / second, 6),) if second else ()
        return ((chunk, "date" if days else "number", numbers, days, ()),)
    return tuple(part for piece in pieces for part in _parts(piece) if piece)


def _as_date(chunk: str) -> _Part | None:
    if match := _ISO.match(chunk) or _YEAR_FIRST.match(chunk):
        year, month, day = int(match[1]), int(match[2]), int(match[3])
        minutes: tuple[int, ...] = ()
        if match.re is _ISO and match[4]:
            minutes = (int(match[4]) % 24 * 60 + int(match[5]),)
        if 1 <= month <= 12 and 1 <= day <= 31:
            return (chunk, "date", (float(year),), ((year, month, day),), minutes)
    elif match := _YEAR_LAST.match(chunk):
        first, second, year = int(match[1]), int(match[3]), int(match[4])
        year += 0 if len(match[4]) == 4 else 2000 if year < 70 else 1900
        days = tuple(
            (year, month, day)
            for month, day in dict.fromkeys([(first, second), (second, first)])
            if 1 <= month <= 12 and 1 <= day <= 31
        )
        if days:
            return (chunk, "date", (float(year),), days, ())
    return None


@lru_cache(maxsize=8192)
def readings(chunk: str) -> tuple[float, ...]:
    """What digits with separators may mean as a number; empty for ``1.2.3``."""
    for space in (" ", "\u00a0", "\u202f", "'", "’"):
        chunk = chunk.replace(space, "")
    points, commas = chunk.count("."), chunk.count(",")
    if not points and not commas:
        return (float(chunk),) if len(chunk) <= 15 else ()
    found = []
    # The last kind of mark is the decimal one, unless it appears twice.
    for thousands, decimal in ((",", "."), (".", ",")):
        whole, _, rest = chunk.partition(decimal)
        if chunk.count(decimal) > 1 or thousands in rest:
            continue
        if thousands in whole and not _GROUPED.match(whole):
            continue
        found.append(round(float(f"{whole.replace(thousands, '')}.{rest or 0}"), 6))
    return tuple(dict.fromkeys(found))


def _decimals(piece: str) -> int:
    mark = max(piece.rfind("."), piece.rfind(","))
    if mark < 0 or (len(piece) - mark == 4 and piece[mark] == ","):
        return 0
    return len(piece) - mark - 1


def _in_words(text: str, stems: Mapping[str, object]) -> Iterator[Value]:
    done = 0
    for place in _places(text, _NUMBER_STEMS, stems):
        if place < done:
            continue
        match = _WORDED.search(text, max(done, place - 7), place + 80)
        if match is None:
            continue
        done = match.end()
        number = _worded(match[0].lower())
        unit, after = None, _AFTER.match(text, done)
        if after is not None and after[1] and (unit := _unit(after[2], False)) is not None:
            done = after.end()
        yield Value(
            "number", match.start(), done, text[match.start() : done], (number,), unit=unit,
            worded=True,
        )  # fmt: skip


@lru_cache(maxsize=2048)
def _worded(phrase: str) -> float:
    """``twenty-five`` is 25, ``two hundred and six`` 206, ``half a dozen`` 6."""
    half = phrase.startswith("half a ")
    more = 0.5 if phrase.endswith(" and a half") else 0.0
    total = group = 0
    seen = False
    for word in re.split(r"[ -]+", phrase.removeprefix("half a ").removesuffix(" and a half")):
        if word in ("a", "an", "and"):
            continue
        if word in ("hundred", "dozen") and seen:
            group = max(group, 1) * (100 if word == "hundred" else 12)
        elif word == "hundred":
            group = 100
        elif word in _POWERS:
            total += max(group, 1) * _POWERS[word]
            group = 0
        else:
            group += _ONES.get(word, _TIMES.get(word, 0))
        seen = True
    value = float(total + group) + more
    return value / 2 if half else value
