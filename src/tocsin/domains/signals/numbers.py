"""Which numbers of an answer its context does not have: exactly, with units, and with sums."""

import re
from collections.abc import Iterator, Sequence
from datetime import date, timedelta

from tocsin.core.patterns import lazily
from tocsin.domains.signals.evidence import Evidence, Evidences
from tocsin.domains.signals.reckoning import reckons, reckons_from_records
from tocsin.domains.signals.statements import content
from tocsin.domains.signals.values import Day, Value, values_of

_ENUMERATED = lazily(r"(?:^|\n)[ \t>*_#\-•]*(?:\d{1,3}[.)][ \t])?[*_]*(?:[^\W\d_]+ ){0,3}$")
_AFTER_NUMBERING = lazily(r"\**[ \t]*(?:[:.)(]|\*\*)")
_ABOUT = lazily(
    r"(?:\b(?:about|around|approximately|approx\.?|roughly|nearly|almost|some|circa|ca\."
    r"|just (?:over|under)|etwa|rund|environ|unos)|[~≈])"
    r"\s*[€£$¥₹]?\s*$",
    re.IGNORECASE,
)
_WEAK = 31
"""Whole numbers up to here are in most texts: they must be about the same thing, too."""
_MEANT = 0.9
"""How near to a value its words must be to say what it is, ..."""
_AS_NEAR = 0.5
"""... and how near, compared with that, a small number is among those that they may mean."""
_ALONE = 40
"""A result of fewer characters is a number without words: what a calculator says."""
_LOOSE = 0.1
"""How far from the number an "about" may be, as a share of it."""
_RELATIVE: tuple[tuple[str, tuple[int, ...]], ...] = (
    (r"yesterday|last night|gestern|the (?:day|night) before|previous day", (-1,)),
    (r"(?:a|one) day (?:earlier|before|sooner|prior)", (-1,)),
    (r"tomorrow|morgen|(?:next|following) day|(?:a|one) day (?:later|after)|overnight", (1,)),
    (r"last week|(?:a|one) week (?:ago|earlier|before)|the week before", (-7,)),
    (r"next week|in a week|(?:a|one) week (?:later|after)", (7,)),
)  # fmt: skip
"""Words that name a day by its distance from another one, and those distances in days."""
_DISTANCES = tuple((lazily(rf"\b(?:{words})\b", re.I), steps) for words, steps in _RELATIVE)
_NEXT_DAY = lazily(r":\d\d\+1\b")
"""How timetables write an arrival on the next day."""
_WEEKDAY = lazily(
    r"\b(last|past|previous|next|coming|this) (mon|tues|wednes|thurs|fri|satur|sun)day\b"
    r"|\b(last|this|past|next) weekend\b",
    re.IGNORECASE,
)
_WEEKDAYS = ("mon", "tues", "wednes", "thurs", "fri", "satur", "sun")
_AGO = lazily(
    r"\b(in |for )?(\d{1,3}|two|three|four|five|six|seven|eight|nine|ten) (day|week|month|year)s?"
    r"(?: (ago|earlier|before|later|from now|after|now))?\b",
    re.IGNORECASE,
)
_ITEM = lazily(r"^([ \t]*)(?:[-*•]|\d{1,2}[.)])[ \t]", re.MULTILINE)
_COUNTS = {
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
}
_MONTHS_AWAY = (
    (lazily(r"\b(?:last|previous) month\b|\ba month ago\b", re.IGNORECASE), -1),
    (lazily(r"\b(?:next|following|coming) month\b|\bin a month\b", re.IGNORECASE), 1),
    (lazily(r"\bthis month\b|\bearlier this\b", re.IGNORECASE), 0),
)
_YEARS_AWAY = (
    (lazily(r"\blast year\b|\ba year ago\b|\bprevious year\b", re.IGNORECASE), -1),
    (lazily(r"\bnext year\b|\bfollowing year\b|\bin a year\b", re.IGNORECASE), 1),
)
_MOST_DAYS = 64
_MOST_VALUES = 200
"""Values of an answer that are checked."""
_ROUNDS = 3
"""What was worked out is an operand of the next: subtotals, totals, what is left."""


class Numbers:
    """Checks the values of one answer.

    ``said``: what the model has told before. A number of it that nobody objected to is no new
    claim of this answer.
    """

    def __init__(self, answer: str, given: Evidences, said: Evidences) -> None:
        self._answer = answer
        self._given = given
        self._all = Evidences([text.read() for text in (*given.texts, *said.texts)])
        self._derived: tuple[set[Day], set[float]] | None = None

    def unsupported(self) -> tuple[list[Value], int]:
        """Values that the context does not have, and how many were looked at."""
        values = [value for value in values_of(self._answer) if self._counts(value)][:_MOST_VALUES]
        missing = [value for value in values if not self._stands(value)]
        for _ in range(_ROUNDS):
            known = [value for value in values if value not in missing]
            left = [value for value in missing if not self._follows(value, known)]
            if len(left) == len(missing):
                break
            missing = left
        return missing, len(values)

    def _counts(self, value: Value) -> bool:
        """Whether a value of the answer is a claim: no numbering, no "one", no citation."""
        text, start, end = self._answer, value.start, value.end
        if value.worded and value.numbers in ((0.0,), (1.0,)):
            return False
        if value.kind != "number" or value.unit is not None or value.places:
            return True
        before = text[max(0, start - 40) : start]
        if before.endswith(("©", "© ", "[", "[^", "#", "Copyright ")):
            return False
        small = len(value.text) < 3
        return not (
            small and _AFTER_NUMBERING.match(text, end) and _ENUMERATED.search(before) is not None
        )

    # -- as it stands --

    def _stands(self, value: Value) -> bool:
        if value.kind == "code":
            return any(value.text in text.text for text in self._all.texts)
        minutes = value.minutes
        if minutes and any(m in text.minutes for text in self._all.texts for m in minutes):
            return True
        if value.days and self._has_day(value.days):
            return True
        if value.kind in ("date", "time") and value.text.count("/") != 1:
            return False
        return any(self._has_number(value, number) for number in value.numbers)

    def _has_day(self, days: Sequence[Day]) -> bool:
        years = {known[0] for text in self._all.texts for known in text.days}
        return any(
            _same_day(day, known) and (not day[0] or known[0] or day[0] in years)
            for text in self._all.texts
            for known in text.days
            for day in days
        )

    def _has_number(self, value: Value, number: float) -> bool:
        if value.ordinal and any(day[2] == number for text in self._all.texts for day in text.days):
            return True
        found = [
            (text, index)
            for text in self._all.texts
            for index in text.numbers.get(number, ())
            if _agree(value, text.value(index))
        ]
        if not found:
            return self._in_digits(value) or self._converted(value, number)
        return self._belongs(value, number, found)

    def _belongs(self, value: Value, number: float, found: list[tuple[Evidence, int]]) -> bool:
        """Whether the number stands by the words that it stands by in the answer.

        A text full of numbers has most small ones somewhere; where the answer's words stand by
        others, the number is not what it says.
        """
        if any(_for_itself(value, text, text.value(index)) for text, index in found):
            return True
        label = self._label(value)
        small = value.unit is None and number <= _WEAK and number == int(number)
        if not small:
            return True
        if not label:
            return value.worded
        best = own = 0.0
        for text in self._all.texts:
            votes = text.kinship(label)
            for index, vote in votes.items():
                other = text.value(index)
                if vote > best and other.kind == "number" and _agree(value, other):
                    best = vote
            mine = [votes.get(index, 0.0) for other, index in found if other is text]
            own = max([own, *mine])
        if best < _MEANT:
            return own > 0
        return own >= _AS_NEAR * best

    def _label(self, value: Value) -> dict[str, float]:
        """The words that say what a value is, by weight: the nearest on its line."""
        text = self._answer
        start = max(text.rfind("\n", 0, value.start) + 1, value.start - 100)
        end = text.find("\n", value.end)
        end = min(len(text) if end < 0 else end, value.end + 60)
        label: dict[str, float] = {}
        before = [w for w in content(text[start : value.start]) if not w[0].isdigit()]
        after = [w for w in content(text[value.end : end]) if not w[0].isdigit()]
        for words in (before[::-1][:5], after[:4]):
            for distance, word in enumerate(words):
                weight = 1.0 / (1.0 + 0.3 * distance)
                label[word] = max(label.get(word, 0.0), weight)
        return label

    def _in_digits(self, value: Value) -> bool:
        """Long numbers are often parts of ids (``card_4421486``)."""
        if not value.text.isdigit() or len(value.text) < 4:
            return False
        whole = lazily(rf"(?<!\d){value.text}(?!\d)")
        return any(value.text in text.text and whole.search(text.text) for text in self._all.texts)

    def _converted(self, value: Value, number: float) -> bool:
        """Other units, percentages as shares, rounding."""
        loose = _ABOUT.search(self._answer, max(0, value.start - 24), value.start) is not None
        unit = value.unit
        for text in self._given.texts:
            for other, at in text.numbers.items():
                for known in map(text.value, at[:4]):
                    size = 1.0
                    if unit is not None and known.unit is not None:
                        if not unit.agrees(known.unit):
                            continue
                        size = known.unit.size / unit.size
                    elif unit is not None and unit.dimension == "percent" and other <= 1:
                        size = 100.0
                    if _comes_to(other * size, number, value, loose, plain=size == 1.0):
                        return True
        return False

    # -- worked out --

    def _follows(self, value: Value, known: Sequence[Value]) -> bool:
        if value.days or (value.numbers and 1000 <= value.numbers[0] < 3000):
            days, years = self._days()
            if any(_same_day(day, other) for day in value.days for other in days):
                return True
            if not value.days and value.numbers[0] in years:
                return True
        if value.kind != "number" or not value.numbers:
            return False
        if reckons(value, known, self._answer) or self._counted(value):
            return True
        return reckons_from_records(value, self._answer, [t.text for t in self._given.texts])

    def _days(self) -> tuple[set[Day], set[float]]:
        if self._derived is None:
            self._derived = _derived(self._given.texts)
        return self._derived

    def _counted(self, value: Value) -> bool:
        """ "Two flights", where two are listed or told of."""
        number = value.numbers[0]
        if value.unit is not None or not 2 <= number <= 20 or number != int(number):
            return False
        end = self._answer.find("\n", value.end)
        if end > 0 and self._answer[:end].rstrip(" *_").endswith(":"):
            listed = _ITEM.findall(self._answer, end)
            if number in (len(listed), sum(not indent for indent in listed)):
                return True
        if not value.worded:
            return False
        after = content(self._answer[value.end : value.end + 40])[:2]
        return any(
            sum(len(text.where().get(word, ())) for text in self._given.texts) == number
            for word in after
        )


def _agree(value: Value, known: Value) -> bool:
    """Whether two values may be compared as they stand: no units, or the same."""
    if value.unit is None or known.unit is None:
        return True
    return value.unit.agrees(known.unit) and value.unit.size == known.unit.size


def _for_itself(value: Value, text: Evidence, known: Value) -> bool:
    """Whether an occurrence needs no words beside it: it has the same unit, or stands alone."""
    if value.unit is not None and known.unit is not None and value.unit.dimension != "money":
        return True
    return len(text.text) < _ALONE


def _same_day(day: Day, known: Day) -> bool:
    """Whether what ``day`` says is what ``known`` says; a year may stand elsewhere."""
    if day[1] != known[1] or (day[0] and known[0] and day[0] != known[0]):
        return False
    return not day[2] or day[2] == known[2]


def _comes_to(other: float, number: float, value: Value, loose: bool, *, plain: bool) -> bool:
    if other == number:
        return not plain
    if abs(other - number) <= 1e-6 * abs(number) and not plain:
        return True
    if loose and other and abs(other - number) <= _LOOSE * abs(other) and number >= 10:
        return True
    # Rounded: the context is finer, and what is left still says something.
    step: float = 10.0**-value.places
    if abs(number) < 10 * step or abs(other - number) > step / 2 + 1e-9:
        return False
    return abs(other / step - round(other / step)) > 1e-6


def _derived(texts: Sequence[Evidence]) -> tuple[set[Day], set[float]]:
    """Days that the texts name by their distance from days that they name, and such years."""
    days: set[Day] = set()
    years: set[float] = set()
    known = list(dict.fromkeys(day for text in texts for day in text.days))[:_MOST_DAYS]
    joined = "\n".join(text.text for text in texts)
    away = {step for pattern, steps in _DISTANCES if pattern.search(joined) for step in steps}
    if _NEXT_DAY.search(joined):
        away.add(1)
    weekdays = set(_named_weekdays(joined))
    months = {step for pattern, step in _MONTHS_AWAY if pattern.search(joined)}
    years_away = {step for pattern, step in _YEARS_AWAY if pattern.search(joined)}
    for unit, step in _told_distances(joined):
        if unit == "year":
            years_away.add(step)
        elif unit == "month":
            months.add(step)
        else:
            away.add(step * (7 if unit == "week" else 1))
    for year, month, day in known:
        if day:
            days |= _shifted(year, month, day, away)
            if year and weekdays:
                days |= _weekdays(year, month, day, weekdays)
        for step in months:
            at = (year * 12 + month - 1 + step) if year else month - 1 + step
            days.add((at // 12 if year else 0, at % 12 + 1, 0))
        if year:
            years |= {float(year + step) for step in years_away}
    return days, years


def _shifted(year: int, month: int, day: int, away: set[int]) -> set[Day]:
    found: set[Day] = set()
    try:
        at = date(year or 2023, month, day)
    except ValueError:
        return found
    for step in list(away)[:40]:
        try:
            other = at + timedelta(days=step)
        except OverflowError:
            continue
        found.add((other.year if year else 0, other.month, other.day))
    return found


def _told_distances(text: str) -> Iterator[tuple[str, int]]:
    """(unit, how many) of "three days ago", "in two weeks", "for seven years now"."""
    for match in _AGO.finditer(text):
        before, after = (match[1] or "").strip().lower(), (match[4] or "").lower()
        if before or after:
            step = _COUNTS.get(match[2].lower()) or int(match[2])
            past = after in ("ago", "earlier", "before", "now") or before == "for"
            yield match[3].lower(), -step if past else step


def _named_weekdays(text: str) -> Iterator[tuple[int, int]]:
    """(day of the week, -1 before or 1 after) of what a text calls "last Friday" and the like."""
    for match in _WEEKDAY.finditer(text):
        before = (match[1] or match[3]).lower() in ("last", "past", "previous")
        names = (match[2].lower(),) if match[2] else ("satur", "sun")
        for name in names:
            yield _WEEKDAYS.index(name), -1 if before else 1


def _weekdays(year: int, month: int, day: int, wanted: set[tuple[int, int]]) -> set[Day]:
    """Those weekdays next to a date, before or after it."""
    try:
        at = date(year, month, day)
        found = set()
        for weekday, way in wanted:
            away = (weekday - at.weekday()) * way % 7 or 7
            other = at + timedelta(days=way * away)
            found.add((other.year, other.month, other.day))
    except (ValueError, OverflowError):
        return set()
    return found
