"""Requests for one of several literal options: which options, and which one an answer gives.

Recognised are options in brackets or quotes joined by "or" (``"[Yes]" or "[No]"``), lettered or
numbered options (``(A) ...``, ``B. ...``), a list after "one of", and the usual pairs (yes or no,
true or false). Every pattern here is matched in time linear in the text.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import msgspec

from tocsin.core.lexicon import any_in
from tocsin.core.patterns import lazily

Form = Literal["bracketed", "words", "lettered"]


class Choices(msgspec.Struct, frozen=True):
    """The options that a request lists, in its order.

    ``names`` are what an answer gives: the words without brackets or quotes, or the labels of
    lettered options, whose ``texts`` say what they stand for.
    """

    form: Form
    names: tuple[str, ...]
    texts: tuple[str, ...] = ()


class Pick(msgspec.Struct, frozen=True):
    """The option that an answer gives. ``exact``: in the form in which it was asked for."""

    index: int
    exact: bool = True


_MOST = 26
_BRACKETED = lazily(r"\[{1,2}([^\[\]\n]{1,40})\]{1,2}(?!\()")
_QUOTED = lazily(r"[\"“„«]([^\"“”„«»\n]{1,40})[\"”“»]|(?<!\w)['‘`]([^'‘’`\n]{1,40})['’`](?!\w)")
_OR = r"(?:or|oder|ou|o|ó|u|of|eller|lub|или|або|または|或|/|\|)"
_JOIN = lazily(r"[\"'“”‘’`«»„.]*\s*(?:[,;]\s*(?:and|und|et|y|e)?|and)?\s*[\"'“”‘’`«»„]*")
_JOIN_OR = lazily(r"[\"'“”‘’`«»„.]*\s*,?\s*(?:either\s)?" + _OR + r"\s*[\"'“”‘’`«»„]*", re.I)
_GAP = 16
_CUE = lazily(
    r"\b(?:answer|respond|reply|choose|select|pick|classify|label|categori[sz]e|decide|judge|rate"
    r"|antworte\w*|wähle|réponds|répondez|choisi\w*|responde\w*|contesta|elige|escoge|rispondi"
    r"|scegli|responda|escolha)\b",
    re.I,
)
_TELL = lazily(r"\b(?:say|output|return|print|write|state|give|gib|sage|dis|di|diga)\b", re.I)
"""Cues, too, but where code is asked for they say what the code does."""
_CODING = lazily(r"```|\b(?:code|function|method|script|program|class|api|column|field)\b", re.I)
_CUE_BEFORE = 120
_PICK_CUE = lazily(
    r"\b(?:(?:choose|pick|select) (?:the|one|an?|only|exactly|which|your|from)\b|multiple[- ]choice"
    r"|(?:best|correct|right|single) (?:single )?(?:answer|option|choice)"
    r"|(?:answer|option|choice) (?:letter|number)|wähle (?:die|eine)|choisi\w* (?:la|une|l')"
    r"|eli[gj]e (?:la|una)|escoge (?:la|una)|scegli (?:la|una)|escolha (?:a|uma))",
    re.I,
)
_ASKS = lazily(
    r"\?|_{3}|\b(?:question|which|what|antwort|frage|réponse|respuesta|risposta|resposta"
    r"|(?:most|least|best) (?:likely|appropriate|suitable)|called an?|called a/an)\b",
    re.I,
)
_STEM = 250
"""Characters before a list of options in which something is asked."""
_TAIL = 600
"""Characters from the last option's label to the end of the request."""
_OPTION = 400
"""Characters of an option."""
_SEVERAL = lazily(
    r"\b(?:all that apply|(?:select|choose|pick|check|mark) (?:all|any|two|three|several|multiple"
    r"|one or more|at least one))\b",
    re.I,
)
_MARK = lazily(r"(?<!\S)(\(|\[(?!\d))?([A-Za-z]|\d{1,2})([.):\]]{1,2})(?=\s)")
_SECONDS = ("B)", "B.", "b)", "b.", "2.", "2)", "B:", "B]", "b:")
"""What every list of options has."""
_PAIRS: tuple[tuple[str, ...], ...] = (
    ("positive", "negative", "neutral"), ("yes", "no", "maybe"), ("yes", "no", "unknown"),
    ("true", "false", "unknown"), ("yes", "no"), ("true", "false"), ("agree", "disagree"),
    ("positive", "negative"), ("correct", "incorrect"), ("pass", "fail"), ("ja", "nein"),
    ("oui", "non"), ("sí", "no"), ("si", "no"), ("sì", "no"), ("sim", "não"), ("ja", "nee"),
    ("wahr", "falsch"), ("richtig", "falsch"), ("vrai", "faux"), ("verdadero", "falso"),
    ("vero", "falso"), ("verdadeiro", "falso"), ("да", "нет"), ("はい", "いいえ"), ("是", "否"),
)  # fmt: skip
"""Options that are named without any mark; longer lists first."""
_BETWEEN = rf"\s?(?:,\s?{_OR}?|{_OR})\s?"
_PAIR = lazily(
    rf"(?<!\w)(?:{'|'.join(_BETWEEN.join(map(re.escape, words)) for words in _PAIRS)})(?!\w)", re.I
)
_WORD = lazily(r"[^\W\d_]+")
_AFTER_PAIR = lazily(r"[\"'”’*`]{0,2}\s?(?:[?:)\]]|$|\n)")
_HINTS = (
    "positive", "yes", "true", "agree", "correct", "pass", "ja ", "ja,", "ja/", "oui", "sí", "si o",
    "si/", "sì", "sim ", "sim/", "wahr", "richtig", "vrai", "verdade", "vero", "да", "はい", "是",
)  # fmt: skip
_ONE_OF = lazily(
    r"\b(?:one of|one word|single word|one label|one category|eine[ns]? von|l'un de|uno de|una de"
    r"|uno di|um de)\b[^\n:.]{0,60}:[ \t]?([^\n]{3,400})"
    r"|\b(?:classify|label|categori[sz]e)\b[^\n:.]{0,80}?\b(?:as|into)\b:? (?:either )?"
    r"([^\n]{3,300})"
    r"|\b(?:answer|respond|reply|choose|pick|select|return|output)\b[^\n:.]{0,40}?\bone of"
    r" (?!the\b|these\b|those\b|my\b|your\b|our\b)([^\n]{3,300})",
    re.I,
)
_CUT = lazily(r"[.;:?!()\n]| based\b| depending\b| and (?:then|return|explain|give)\b")
_SPLIT = lazily(rf"\s?(?:,\s?(?:{_OR}\b|and\b)?|/|\||\b(?:{_OR}|and)\b)\s?", re.I)
_LIST_CUE = lazily(
    r"(?:\bone\b|\bsingle\b|\bexactly\b|classify|categori[sz]e|\blabel)[^\n]{0,120}:[ \t]?$", re.I
)
_BULLET = lazily(r"[ \t]{0,8}[-*•][ \t]+(\S[^\n]{0,80})")
_STRIP = " \t\r\n*_`\"'“”‘’«».,;:!?()[]{}#>"


def choices_in(text: str) -> Choices | None:
    """The options that a request asks to pick one of; ``None`` when it lists none."""
    found = _bracketed(text) or _lettered(text) or _quoted(text) or _bare(text)
    if found is not None and _SEVERAL.search(text) is not None:
        return None
    return found


def _cued(before: str, text: str) -> bool:
    """Whether an answer is told how to be, by the words before its options."""
    if _CUE.search(before) is not None:
        return True
    return _TELL.search(before) is not None and _CODING.search(text) is None


def _named(form: Form, found: list[str]) -> Choices | None:
    names = [name.strip(_STRIP) for name in found]
    known = {name.casefold() for name in names}
    if not 2 <= len(names) <= _MOST or len(known) < len(names) or "" in known:
        return None
    return Choices(form, tuple(names))


def _bracketed(text: str) -> Choices | None:
    if "[" not in text:
        return None
    return _group(text, list(_BRACKETED.finditer(text)), "bracketed")


_QUOTES = ('"', "“", "`", "„", "«")
_APOSTROPHES = ("' or", "','", "', '", "'/'", "' / '", "' oder", "' ou ", "' o ", "’ or", "’, ‘")


def _quoted(text: str) -> Choices | None:
    if not any_in(text, _QUOTES) and not any_in(text, _APOSTROPHES):
        return None
    return _group(text, list(_QUOTED.finditer(text)), "words")


def _group(text: str, items: list[re.Match[str]], form: Form) -> Choices | None:
    """The last run of items with nothing but joints between them."""
    best: Choices | None = None
    start = 0
    for index in range(1, len(items) + 1):
        joined = index < len(items) and _joint(text, items[index - 1], items[index])
        if joined:
            continue
        run = items[start:index]
        start = index
        if len(run) < 2:
            continue
        either = any(_joint(text, a, b) == "or" for a, b in pairwise(run))
        names = [next(g for g in m.groups() if g is not None) for m in run]
        before = text[max(0, run[0].start() - _CUE_BEFORE) : run[0].start()]
        cued = _cued(before, text)
        words = any(not name.strip().isdigit() for name in names)
        alone = form == "bracketed" and either and words and "?" in before
        if alone or (cued and (either or "one of" in before.lower())):
            best = _named(form, names) or best
    return best


def _joint(text: str, one: re.Match[str], other: re.Match[str]) -> str:
    gap = text[one.end() : other.start()]
    if len(gap) > _GAP:
        return ""
    if _JOIN_OR.fullmatch(gap) is not None:
        return "or"
    return "and" if gap.strip() and _JOIN.fullmatch(gap) is not None else ""


def _lettered(text: str) -> Choices | None:
    """The last list that counts from A or 1 and has a question before it, or "pick one"."""
    if not any_in(text, _SECONDS):
        return None
    run: list[re.Match[str]] = []
    best: list[re.Match[str]] = []
    for mark in _MARK.finditer(text):
        label = mark[2]
        if label in ("A", "a", "1"):
            run = [mark]
        elif run and label == _next_label(run[-1][2]) and _alike(text, run[0], mark):
            if mark.start() - run[-1].start() > _OPTION:
                run = []
                continue
            run.append(mark)
            best = run
    if not best or len(text) - best[-1].start() > _TAIL or not _is_asked(text, best):
        return None
    ends = [m.start() for m in best[1:]] + [len(text)]
    texts = [
        text[m.end() : end].strip().split("\n", 1)[0][:200]
        for m, end in zip(best, ends, strict=True)
    ]
    return Choices("lettered", tuple(m[2] for m in best[:_MOST]), tuple(texts[:_MOST]))


def _is_asked(text: str, marks: list[re.Match[str]]) -> bool:
    at = marks[0].start()
    stem = text[max(0, at - _STEM) : at]
    around = stem + "\n" + text[marks[-1].end() :]
    if _PICK_CUE.search(around) is not None:
        return True
    if marks[0][2].isdigit():
        return False
    return _ASKS.search(stem) is not None or _PICK_CUE.search(text, 0, 400) is not None


def _alike(text: str, first: re.Match[str], mark: re.Match[str]) -> bool:
    """Whether two marks are of one list: written alike, both in brackets or both on new lines."""
    if first[1] != mark[1] or first[3][0] != mark[3][0]:
        return False
    return mark[3][0] in ")]" or _starts_line(text, mark.start())


def _starts_line(text: str, at: int) -> bool:
    line = text[max(0, at - 8) : at].rsplit("\n", 1)
    return (len(line) > 1 or at < 8) and not line[-1].strip(" \t>*-")


def _next_label(label: str) -> str:
    return str(int(label) + 1) if label.isdigit() else chr(ord(label) + 1)


def _bare(text: str) -> Choices | None:
    """Options without marks: "one of: a, b, c", the usual pairs, a list under such a line."""
    low = text.lower()
    for match in _ONE_OF.finditer(text) if any_in(low, _ONE_HINTS) else ():
        rest = next(g for g in match.groups() if g is not None)
        cut = _CUT.search(rest)
        names = [n.strip() for n in _SPLIT.split(rest[: cut.start()] if cut else rest)]
        if "" not in names and all(len(n.split()) <= (4 if match[1] else 2) for n in names):
            found = _named("words", names)
            if found is not None:
                return found
    for match in _PAIR.finditer(text) if any_in(low, _HINTS) else ():
        before = text[max(0, match.start() - 60) : match.start()]
        if (
            before.rstrip("\"'“‘*`")[-1:] == "("
            or _cued(before, text)
            or (match[0][0] not in "aA" and _AFTER_PAIR.match(text, match.end()) is not None)
        ):
            words = [w for w in _WORD.findall(match[0]) if w.casefold() in _PAIR_WORDS]
            found = _named("words", words)
            if found is not None:
                return found
    return _bullets(text) if any(f"\n{bullet} " in text for bullet in "-*•") else None


_ONE_HINTS = (
    "one of", "one word", "single word", "one label", "one category", "classify", "label",
    "categori", "eine", "l'un de", "uno de", "una de", "uno di", "um de",
)  # fmt: skip
_PAIR_WORDS = frozenset(word for words in _PAIRS for word in words)


def _bullets(text: str) -> Choices | None:
    if ":" not in text:
        return None
    found: list[str] = []
    open_ = False
    for line in text.split("\n"):
        bullet = _BULLET.fullmatch(line) if open_ else None
        if bullet is not None and len(bullet[1].split()) <= 6:
            found.append(bullet[1])
        elif found or (open_ and line.strip()):
            open_ = False
            if len(found) > 1:
                break
            found = []
        if len(line) < 400 and _LIST_CUE.search(line) is not None:
            open_, found = True, []
    return _named("words", found) if len(found) > 1 else None


# -- the answer --

_MARKUP = str.maketrans("", "", "*_`#")
_SENTENCE = lazily(r"[.!?\n]")
_FINAL = lazily(
    r"\b(?:answer|verdict|result|conclusion|label|category|classification|sentiment|select|choose"
    r"|pick|correct|antwort|lösung|réponse|respuesta|risposta|resposta|ответ|回答|答案)\b",
    re.I,
)
"""What an answer follows ..."""
_LEADS = lazily(r"\b(?:choice|option|opción|therefore|thus|hence|so)\b", re.I)
"""... and what it may follow where none of those stands."""
_DENIED = lazily(r"[^.\n]{0,60}\b(?:not|isn't|incorrect|wrong|false|inappropriate|unlikely)\b")
_FILLER = lazily(
    r"(?:\s|[:=,\-–>→\"'“‘«(\[]|\b(?:is|are|be|would|ist|est|es|è|é|the|la|le|die|der|option|choice"
    r"|letter|to|this|that|for|question|answer|correct|best|most|likely|probably|definitely|final|therefore|thus)\b){0,12}+",
    re.I,
)
_LABEL = lazily(r"[(\[]?([A-Za-z]|\d{1,2})(?![\w'’])")
_LABEL_FIRST = lazily(r"\W{0,8}([A-Za-z]|\d{1,2})(?:[).:\],]|\s?$|\s?\n|\s[-–—]\s)")
_LABELS = lazily(r"[(\[]([A-Za-z]|\d{1,2})[)\]]")
_ARTICLE = lazily(r"[aA]\s+(?!because|since|as\b|$)[a-z]")
_AND = lazily(r"[)\].]{0,2}\s?(?:,|and|or|&|/)\s?[(\[]?([A-Z]|\d{1,2})[)\].,\s]")
_MIGHT = lazily(r"\b(?:might|may|could|would|can)\s$", re.I)
"""Before a verb: "some might choose (A)" gives nothing."""
_ENDS = 600
"""Characters at either end of an answer in which an option without a mark is looked for."""


def pick_of(choices: Choices, answer: str) -> Pick | None:
    """The one option that an answer gives: the last one marked as the answer counts."""
    if choices.form == "bracketed":
        return _pick_bracketed(choices, answer)
    plain = answer.translate(_MARKUP) if any(c in answer for c in "*_`#") else answer
    if choices.form == "lettered":
        index = _pick_lettered(choices, plain)
    else:
        index = _pick_word(choices.names, plain, answer)
    return Pick(index) if index is not None else None


def _pick_bracketed(choices: Choices, answer: str) -> Pick | None:
    names = {name.casefold(): i for i, name in enumerate(choices.names)}
    found = [
        (m.start(), names[key])
        for m in _BRACKETED.finditer(answer)
        if (key := m[1].strip(_STRIP + "\\").casefold()) in names
    ]
    if found:
        at, index = found[-1]
        others = [where for where, other in found if other != index]
        # Both in one sentence: "[Yes] if it is, [No] if it is not" gives neither.
        if not others or _SENTENCE.search(answer, others[-1], at) is not None:
            return Pick(index)
        return None
    loose = _pick_word(choices.names, answer.translate(_MARKUP), answer)
    return Pick(loose, exact=False) if loose is not None else None


def _pick_word(names: tuple[str, ...], plain: str, answer: str) -> int | None:
    """An option in words: as the last line, after "the answer is", at the start, or marked."""
    known = [(name.casefold(), i) for i, name in enumerate(names)]
    known.sort(key=lambda pair: -len(pair[0]))
    tail = plain[-_ENDS:].strip()
    last = tail.rsplit("\n", 1)[-1].strip(_STRIP).casefold()
    for name, index in known:
        if last == name:
            return index
    for match in _cues(tail):
        filler = _FILLER.match(tail, match.end())
        at = _starts(known, tail[filler.end() if filler else match.end() :])
        if at is not None:
            return at
    at = _starts(known, plain[:_ENDS].lstrip(_STRIP + "-"))
    return at if at is not None else _marked(known, answer)


def _starts(known: list[tuple[str, int]], text: str) -> int | None:
    head = text[:64].casefold()
    for name, index in known:
        if head.startswith(name):
            rest = head[len(name) :]
            if not rest or not (rest[0].isalnum() or rest[0] in "'’-"):
                short = len(name.split()) == 1 and rest[:1] == " " and rest.strip()
                # "No one knows" is no "no"; "yes it is" is a yes.
                if not short or name not in _NEGATIONS:
                    return index
    return None


_NEGATIONS = frozenset(("no", "non", "none", "nein", "não", "nee", "so", "a", "i"))


def _marked(known: list[tuple[str, int]], answer: str) -> int | None:
    """The only option that stands in quotes or bold print, or in an answer of a few words."""
    if len(answer) > 4 * _ENDS:
        return None
    low = answer.casefold()
    found = {
        index
        for name, index in known
        if any(
            f"{q}{name}{e}" in low for q, e in (('"', '"'), ("**", "**"), ("`", "`"), ("“", "”"))
        )
    }
    if not found and len(low) < 120:
        words = low.split()
        if len(words) <= 8:
            shown = " " + " ".join(word.strip(_STRIP) for word in words) + " "
            found = {i for name, i in known if name not in _NEGATIONS and f" {name} " in shown}
    return found.pop() if len(found) == 1 else None


def _pick_lettered(choices: Choices, answer: str) -> int | None:
    labels = {label: i for i, label in enumerate(choices.names)}
    # "Answer: D" is an answer to "d.", too.
    labels |= {label.swapcase(): i for label, i in labels.items()}
    text = answer.strip()
    index = _final_label(labels, text)
    if index is not None:
        return index
    first = _LABEL_FIRST.match(text)
    if first is not None and first[1] in labels and not _lists(labels, text, first):
        return labels[first[1]]
    lines = [line for line in text[-_ENDS:].split("\n") if line.strip()][-2:]
    for part in (text, *([] if _go_on(lines) else lines[-1:])):
        found = {labels[m[1]] for m in _LABELS.finditer(part) if m[1] in labels}
        if len(found) == 1:
            return found.pop()
    if any(m[1] in labels for m in _LABELS.finditer(text)):
        return None
    return _by_text(choices, text)


def _final_label(labels: dict[str, int], text: str) -> int | None:
    """The label that the last "the answer is" names, unless it goes on to list the others."""
    tail = text[-_ENDS * 4 :]
    for match in _cues(tail):
        filler = _FILLER.match(tail, match.end())
        at = filler.end() if filler else match.end()
        label = _LABEL.match(tail, at)
        if label is None or label[1] not in labels or _ARTICLE.match(tail, label.start(1)):
            continue
        if _MIGHT.search(tail, max(0, match.start() - 12), match.start()) is not None:
            continue
        if _LEADS.fullmatch(match[0]) is not None and (
            label[1] == "I" or label[1].isdigit() or _DENIED.match(tail, label.end()) is not None
        ):
            continue
        return None if _lists(labels, tail, label) else labels[label[1]]
    return None


def _cues(text: str) -> Iterator[re.Match[str]]:
    """What an answer follows, the last first; then what it may follow."""
    yield from reversed(list(_FINAL.finditer(text)))
    yield from reversed(list(_LEADS.finditer(text)))


def _lists(labels: dict[str, int], text: str, first: re.Match[str]) -> bool:
    """Whether a label that stands first is only the first of several."""
    several = _AND.match(text, first.end(1))
    if several is not None and several[1] in labels and several[1] != first[1]:
        return True
    following = text[first.end() :].split("\n", 3)[1:3]
    marks = [_LABEL_FIRST.match(line) for line in following if line.strip()]
    return any(m is not None and m[1] == _next_label(first[1]) for m in marks)


def _go_on(lines: list[str]) -> bool:
    """Whether the last two lines of an answer are items of a list of options."""
    if len(lines) < 2:
        return False
    one, other = _LABEL_FIRST.match(lines[0]), _LABEL_FIRST.match(lines[1])
    return one is not None and other is not None and other[1] == _next_label(one[1])


def _by_text(choices: Choices, answer: str) -> int | None:
    """The only option whose words an answer without labels gives."""
    head = answer[:_ENDS].strip(_STRIP).casefold()
    texts = [(text.strip(_STRIP).casefold(), i) for i, text in enumerate(choices.texts)]
    for text, index in texts:
        if text and head == text:
            return index
    if len(answer) > _ENDS:
        return None
    found = [(text, i) for text, i in texts if len(text) > 3 and _holds(head, text)]
    # "Somewhat likely" holds "likely", too: the longer one is meant.
    found = [(t, i) for t, i in found if not any(t != o and t in o for o, _ in found)]
    return found[0][1] if len(found) == 1 else None


def _holds(text: str, words: str) -> bool:
    at = text.find(words)
    if at < 0:
        return False
    end = at + len(words)
    return not (text[at - 1 : at].isalnum() or text[end : end + 1].isalnum())
