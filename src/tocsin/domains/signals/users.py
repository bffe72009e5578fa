"""The evaluator of what users do next: ask again, or say that the answer was wrong."""

from collections.abc import Iterator

from tocsin.core.interaction import Entry
from tocsin.core.lexicon import any_in, lexicon
from tocsin.core.patterns import lazily
from tocsin.core.score import Score
from tocsin.core.signals import Signal
from tocsin.domains.signals.form import ANSWERING, Scores
from tocsin.domains.signals.text import said

_BACK = 3
"""Earlier turns of the user that a turn is compared with."""
_LONGEST = 2_000
"""Characters of a turn that are compared."""
_FEWEST = 4
"""Words from which a turn can be the same question; "continue" and "yes please" are none."""
SIMILAR = 80.0
"""Similarity (0 to 100: normalised edit distance, words in their order or sorted, the better)
from which two turns ask the same. Set so that next to no turns of different conversations reach it
(``bench/evaluators.py``); no published threshold is known to us."""
_HEAD = 400
"""Characters at the start of a turn in which a correction is said."""

USERS_SIGNALS: tuple[Signal, ...] = (
    Signal(
        name="reask",
        title="Asked again",
        axis="correct",
        kind="rate",
        better="down",
        description="The user's message nearly repeats one of the user's three messages before; "
        "only where there is one, and for messages of four words or more.",
    ),
    Signal(
        name="corrected",
        title="Corrected by the user",
        axis="correct",
        kind="rate",
        better="down",
        description="The user says that the answer before was wrong or not what was asked for; "
        "only where there is one.",
    ),
)

_WORD = lazily(r"\w+")
_NUMBER = lazily(r"\d+")
_UNSPACED = lazily(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]")
_COMMON = lexicon(
    """
    what when where which whose does this that these those there here with from into have will
    would could should please again still just only about your yours mine their them they then
    than also now need want tell give show make help explain can you the and for how why are was
    bitte nochmal noch einmal wieder eine einen einem einer dass kann kannst können sind wird
    werden haben sagen gib zeig erkläre warum wieso
    encore fois peux peut pouvez vous nous dans avec pour pourquoi comment donne montre explique
    otra nuevo puedes puede para como cómo cuál por favor dame dime muestra explica
    ancora volta puoi può come perché dammi dimmi mostra spiega
    novamente pode você porque dê mostre explique
    """
)
"""Words that two askings of the same may differ in."""

_QUOTES = lazily(r"\"[^\"\n]{0,200}\"|“[^”\n]{0,200}”|```")
_THATS = r"(?:that|this|it|your (?:answer|response|code|solution|result|last answer|output))"
_CORRECTS = lazily(
    rf"\b{_THATS}(?:'s| is|s| was| are| looks?| seems?) (?:\w+ )?(?:wrong|incorrect|not right"
    r"|not correct|not true|not accurate|inaccurate|false|not what i|not it\b|not the (?:right"
    r"|correct|answer|one)|a mistake|nonsense)"
    rf"|\b{_THATS} (?:isn't|wasn't|aren't) (?:\w+ )?(?:right|correct|true|accurate|what i|it\b|the "
    r"(?:right|correct|answer))"
    rf"|\b{_THATS} (?:still )?(?:does not|doesn't|didn't|did not|won't) (?:work|answer|help|fix"
    r"|make sense|match|solve|compile|run)"
    r"|\b(?:still )?(?:doesn't|does not|isn't|not) work(?:ing)?\b.{0,40}$"
    r"|\byou(?:'re| are| were)? (?:\w+ )?(?:wrong|mistaken|incorrect|misunderstood|misread|missed"
    r"|forgot|ignored|made (?:a|an|some|several) (?:mistake|error)|got (?:it|that|this) wrong"
    r"|didn't (?:answer|follow|do|include|use|understand)|did not (?:answer|follow|do|include"
    r"|understand)|keep (?:making|giving|repeating))"
    r"|\b(?:i (?:actually )?meant\b|i didn't (?:ask|mean|say|want)|i did not (?:ask|mean|say|want)"
    r"|i never (?:asked|said)|i already (?:told|said|asked)|not what i (?:asked|meant|wanted|said)"
    r"|wrong answer|try again|that's not (?:what|how|the)|still (?:wrong|incorrect|the same error"
    r"|not (?:right|correct)))"
    r"|^\W*(?:no|nope|wrong|incorrect)\s?[,.!;:-]+ ?(?:i|it|that's (?:not|wrong)"
    r"|that is (?:not|wrong)|you|the|not|this|actually|read|check|there)\b"
    r"|^\W*(?:wrong|incorrect|false|not correct)\W*$"
)
_CORRECTS_ELSEWHERE = lazily(
    r"\b(?:das|es|die antwort|deine antwort|ihre antwort) (?:ist|war|stimmt)(?: so| leider| aber)?"
    r" (?:falsch|nicht (?:richtig|korrekt|wahr|das)|nicht\b)|\bstimmt (?:so )?nicht\b"
    r"|\bnein, (?:ich (?:meinte|wollte)|das|es|du)|\bich meinte\b|\bdu (?:hast|liegst) "
    r".{0,20}falsch"
    r"|\bdas habe ich nicht (?:gefragt|gemeint)|\bfunktioniert (?:immer noch )?nicht\b"
    r"|\bc'est (?:faux|incorrect|inexact|pas (?:ça|correct|juste|vrai|ce que))|\bce n'est pas "
    r"(?:ça|correct|juste|vrai|exact|ce que)|\bnon, (?:je voulais|ce n'est|c'est|tu|vous)"
    r"|\bje voulais dire\b|\b(?:tu te trompes|vous vous trompez)|\bça ne (?:marche|fonctionne) pas"
    r"|\b(?:eso|esto|la respuesta) (?:no es|es|está|no está) (?:incorrect|mal\b|fals|correct[oa]"
    r"|verdad|lo que)|\bno, (?:quería|quise|me refería|eso|no es)|\bquise decir\b|\bte equivocas"
    r"|\bestás equivocad|\bno funciona\b|\bno es (?:correcto|cierto|lo que)"
    r"|\b(?:è|questo è|la risposta è) (?:sbagliat|errat|fals)|\bnon è (?:corrett|giust|ver|quello)"
    r"|\bno, (?:intendevo|volevo|non è)|\bti sbagli|\bnon funziona\b"
    r"|\b(?:isso|está|a resposta) (?:está |é )?(?:errad|incorret|fals)|\bnão é (?:isso|corret"
    r"|verdade|o que)|\bnão, (?:eu (?:quis|queria)|isso)|\beu quis dizer"
    r"|\bnão está (?:certo|correto)"
    r"|\bnão funciona\b|\bdat (?:klopt niet|is (?:fout|onjuist|niet (?:goed|juist|waar)))"
    r"|(?:不对|错了|不是这样|不正确|你搞错|答案是错)|(?:違います|間違って|違う)|(?:틀렸|아니야|아닙니다)"
    r"|\bэто (?:не так|неправильно|неверно|ошибка)|\bты ошиб"
)
_HINTS = (
    "wrong", "incorrect", "not ", "n't", "mistak", "misunder", "misread", "missed", "forgot",
    "ignored", "meant", "false", "never", "already", "again", "still", "no,", "no.", "nope",
    "inaccurate", "nonsense", "keep ",
)  # fmt: skip
_HINTS_ELSEWHERE = (
    "falsch", "nicht", "nein", "ich meinte", "faux", "inexact", "pas ", "non, ", "je voulais",
    "tromp", "incorrec", "mal", "fals", "verdad", "quería", "quise", "refer", "equivoc", "no es",
    "no func", "no est", "sbagli", "errat", "non è", "intend", "volevo", "non funz", "errad", "não",
    "eu quis", "klopt", "fout", "onjuist", "niet ",
    "不", "错", "違", "間違", "틀렸", "아니", "아닙", "не",
    "ошиб",
)  # fmt: skip
"""What a text that either of those finds has in it."""
_FINE = lazily(r"^\W*no\b[,.! ]+(?:that's|that is|it's|thanks?|thank|problem|worries|need)")


class UsersEvaluator:
    """Judges the answer before by what its user says now. Owns no state."""

    name = "users"
    version = "1"
    signals = USERS_SIGNALS

    def evaluate(self, entry: Entry) -> list[Score]:
        """Scores of a call whose last message is a user's and continues a conversation."""
        call = entry.interaction
        if call.operation not in ANSWERING or len(entry.input) < 2:
            return []
        turns = _turns(entry)
        latest = next(turns, None)
        if latest is None:
            return []
        out = Scores(call.id, self.version)
        earlier = [text for text, _ in zip(turns, range(_BACK), strict=False)]
        if earlier and _words(latest) >= _FEWEST:
            again = any(same_question(latest, text) for text in earlier)
            out.add("reask", float(again))
        if any(message.role == "assistant" for message in entry.input):
            out.add("corrected", float(corrects(latest)))
        return out.found


def _turns(entry: Entry) -> Iterator[str]:
    """The user's turns, latest first, if the history ends with one."""
    for number, message in enumerate(reversed(entry.input)):
        if message.role == "user" and not message.answers:
            text = said(message)
            if text and not text.isspace():
                yield text
                continue
        if number == 0:
            return


def _words(text: str) -> int:
    head = text[:_LONGEST]
    found = len(head.split())
    return found if head.isascii() else found + len(_UNSPACED.findall(head)) // 2


def same_question(text: str, other: str) -> bool:
    """Whether two turns of a user ask the same, in nearly the same words.

    Turns with other numbers, or in which words of substance were put in the place of others
    ("... of France", "... of Spain"), do not.
    """
    one, two = text[:_LONGEST].casefold(), other[:_LONGEST].casefold()
    if one == two:
        return True
    if len(one) > 3 * len(two) or len(two) > 3 * len(one):
        return False
    first, second = _WORD.findall(one), _WORD.findall(two)
    if not first or not second:
        return False
    from rapidfuzz import fuzz

    joined, other_joined = " ".join(first), " ".join(second)
    if joined == other_joined:
        return True
    alike = fuzz.ratio(joined, other_joined, score_cutoff=SIMILAR) or fuzz.token_sort_ratio(
        joined, other_joined, score_cutoff=SIMILAR
    )
    if not alike or set(_NUMBER.findall(joined)) != set(_NUMBER.findall(other_joined)):
        return False
    known, others = set(first), set(second)
    put = " ".join(w for w in first if w not in others and len(w) > 2 and w not in _COMMON)
    gone = " ".join(w for w in second if w not in known and len(w) > 2 and w not in _COMMON)
    return not put or not gone or bool(fuzz.ratio(put, gone, score_cutoff=60.0))


def corrects(text: str) -> bool:
    """Whether a user's turn says that what was answered is wrong, or not what was meant."""
    head = text[:_HEAD].lower().replace("’", "'").strip()
    if '"' in head or "“" in head or "`" in head:
        head = _QUOTES.sub(" ", head)
    if any_in(head, _HINTS) and _FINE.match(head) is None:
        for line in head.split("\n")[:3]:
            if _CORRECTS.search(line) is not None:
                return True
    if not any_in(head, _HINTS_ELSEWHERE):
        return False
    return _CORRECTS_ELSEWHERE.search(head) is not None
