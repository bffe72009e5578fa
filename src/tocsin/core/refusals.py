"""Refusals and non-answers in words.

A refusal stands at the start of an answer and is said by the one who answers; "I cannot" further
on, in a story or in quotation marks is none. Two kinds of sentences are told apart:

- declining ("I can't help with that") is a refusal, however long it is explained, unless the
  answer turns round ("but here is what I can say: ...") and goes on for a while;
- disclaiming ("as an AI I have no opinions", "this is subjective and depends on the individual")
  is one only where next to nothing else is said.

The wording is that of ordinary speech in English, German, French, Spanish, Italian, Portuguese
and Dutch, with the commonest forms in Chinese, Japanese, Korean and Russian. "I don't know" and
"the text does not say" are answers.
"""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec

from tocsin.core.lexicon import any_in, finder

_HEAD = 700
"""Characters at the start of an answer in which a refusal begins."""
_SENTENCES = 3
"""Sentences at the start, one of which declines if any does."""
_TURNED = 60
"""Words after a turn ("however, ...") from which an answer was given after all."""
_REST = 12
"""Words beside disclaimers from which something was answered."""
_MOST = 120
"""Words up to which an answer may be nothing but disclaimers."""

_DO = (
    r"(?:help(?! but\b)|assist|aid|provide|answer|comply|fulfil+|generate|create|write|compose"
    r"|offer|support|participate|engage|discuss|share|continue|complete (?:this|that|your|the)"
    r"|produce|respond|do (?:that|this|so|it)\b|carry out|proceed|advise|facilitate|endorse|condone"
    r"|promote|encourage|perform|process (?:this|that|your)|give (?:you )?(?:any |a |an "
    r"|out )?(?:advice"
    r"|instructions|information|opinion|guidance|specific|personal|medical|legal|financial|details)"
    r"|access|browse|predict|disclose|reveal|describe|choose|pick|select|accommodate|recommend"
    r"|make (?:that|this|any|personal|a (?:choice|judg))|suggest|take part|play along|pretend"
    r"|display|analy[sz]e|summari[sz]e|translate|retrieve|arrange|draw|recall (?:previous|our|past)"
    r"|express (?:personal|an? |any )|have (?:personal|an? opinion|opinions|feelings))"
)
_CANNOT = (
    r"(?:can ?not|can't|won't|will not|am unable to|'m unable to|am not able to"
    r"|'m not able to|am not allowed to|'m not allowed to|am not permitted to|am not programmed to"
    r"|'m not programmed to|am not designed to|'m not going to|am not going to"
    r"|am not comfortable|'m not comfortable|must refuse to|must decline to|have to decline to"
    r"|do not feel comfortable|don't feel comfortable)"
)
_ENGLISH = re.compile(
    rf"\bi ?{_CANNOT}(?: (?:in good conscience|ethically|directly|personally|really|fully|legally"
    rf"|even|actually|also|currently|and will not|or will not|be able to|with)){{0,2}} {_DO}"
    rf"|\bi (?:must|have to|will have to|need to) (?:respectfully |politely )?(?:decline|refuse)\b"
    rf"|\bunable to (?:help|assist|comply|fulfil+|answer|provide|generate|process) "
    rf"(?:with |you|your |this |that )|^\W*sorry,? (?:but )?(?:i )?(?:can't|cannot|no\W|not able)"
    rf"|\b(?:request|question|content|prompt|this|that)\b[^.]{{0,60}}\b(?:against|violates?|goes "
    rf"against) (?:my|our|the|openai|anthropic)\b[^.]{{0,30}}\b(?:guidelines|polic|programming"
    rf"|principles|rules|terms)|\bi'm sorry, (?:but )?(?:as|that's) (?:an? ai\b|something i can)"
)
_GERMAN = re.compile(
    r"\b(?:ich (?:kann|darf|werde|möchte) |kann ich |bin ich |ich bin )(?:[\w-]+,? ){0,8}?"
    r"(?:nicht|kein\w*)(?: [\w-]+,?){0,8}? (?:helfen|weiterhelfen|unterstützen|beantworten|geben"
    r"|bereitstellen|erstellen|schreiben|erfüllen|anbieten|liefern|antworten|teilnehmen|nachkommen"
    r"|generieren|(?:in der )?lage|befugt|äußern|bieten|beraten|abgeben)"
)
_FRENCH = re.compile(
    r"\bje (?:ne (?:peux|puis|suis|saurais)|n'ai)(?: malheureusement| hélas)?(?: pas)?(?: en"
    r" mesure| capable| autorisée?)?(?: de| d'| le droit de)? ?(?:vous |t'|te |la |le |l'|y )?"
    r"(?:aider|assister|répondre|fournir|donner|générer|créer|écrire|produire|traiter|satisfaire"
    r"|donner suite|discuter|partager|rédiger|en mesure|d'opinion|pas d'opinion)"
)
_ROMANCE = re.compile(
    r"\bno (?:puedo|me es posible|tengo permitido|estoy (?:autorizad[oa]|en condiciones|capacitad"
    r"[oa]) (?:a|para|de)?) ?(?:ayudar|asistir|responder|proporcionar|generar|crear|escribir"
    r"|ofrecer|cumplir|participar|dar|brindar|compartir|continuar|hablar|facilitar)"
    r"|\bnon (?:posso|mi è possibile|sono in grado di|sono autorizzat[oa] a) ?(?:aiutar|assister"
    r"|risponder|fornir|generar|crear|scriver|offrir|soddisfar|partecipar|dar|condivider"
    r"|continuar|procedere)"
    r"|\bnão (?:posso|consigo|me é possível|sou capaz de|estou autorizad[oa] a) ?(?:ajud|auxili"
    r"|respond|fornec|ger|cri|escrev|oferec|cumpr|particip|dar|compartilh|continu|atender)"
    r"|\bik kan (?:[\w-]+ ){0,6}?(?:niet|geen) (?:[\w-]+ ){0,6}?(?:helpen|beantwoorden|geven"
    r"|bieden|maken|schrijven|voldoen|verstrekken)"
)
_OTHERS = re.compile(
    r"我(?:无法|不能|無法|不可以|没有办法)(?:提供|回答|帮助|协助|满足|生成|讨论|完成|参与|支持|幫助|協助)"
    r"|(?:抱歉|对不起|很遗憾)[^。\n]{0,16}(?:无法|不能|不可以)"
    r"|(?:お答え|お手伝い|対応|提供|応じる)[^。\n]{0,14}(?:できません|できかねます|いたしかねます)"
    r"|(?:도와드릴|제공할|답변할|답변드릴|도움을 드릴|도와 드릴) 수 없"
    r"|\bя не (?:могу|смогу|в состоянии|имею права) (?:\w+ )?(?:помочь|ответить|предоставить"
    r"|выполнить|создать|написать|дать|обсуждать|участвовать)"
)
_DECLINING: tuple[tuple[tuple[str, ...], re.Pattern[str]], ...] = (
    (
        ("can't", "cannot", "can not", "couldn't", "could not", "won't", "will not", "unable to",
         "not able", "not allowed", "not permitted", "not programmed", "not designed", "not going",
         "comfortable", "decline", "refuse", "against", "violate", "sorry"),
        _ENGLISH,
    ),
    (("nicht", "kein"), _GERMAN),
    (("je ne ", "je n'"), _FRENCH),
    (("no p", "no m", "no t", "no e", "non p", "non m", "non s", "não ", "ik kan"), _ROMANCE),
    (("我", "抱歉", "对不起", "遗憾", "ません", "ねます", "없", "я не"), _OTHERS),
)  # fmt: skip
"""Forms of declining, each with words one of which is in any text that it finds."""
_DECLINING_HINTS = tuple(hint for hints, _ in _DECLINING for hint in hints)

_AS_AI = re.compile(
    r"\b(?:as|being|i am|i'm)(?: just| only| merely)? an? (?:[\w-]+ )?(?:ai\b|artificial int|large"
    r" language|language model|machine|virtual assistant|chatbot|computer program)|\bby an ai\b"
    r"|\bals (?:eine? )?(?:ki\b|künstliche|sprachmodell|ki-|großes sprach)"
    r"|\ben tant qu(?:'|e )(?:ia\b|une ia|intelligence|assistante?|modèle)"
    r"|\bcomo (?:una? |uma? )?(?:ia\b|inteligencia|inteligência|modelo de|asistente|assistente)"
    r"|\b(?:in quanto|come) (?:ia\b|intelligenza|modello|assistente)|作为(?:一个|一名)?(?:ai|人工)"
    r"|\bals (?:een )?(?:ai\b|taalmodel)|aiとして|ai로서|\bкак (?:ии|языковая|искусственный)"
)
_NO_OWN = re.compile(
    r"\bi (?:do not|don't|lack|have no)(?: \w+){0,2}? ?(?:have|hold|possess|form|any)?"
    r"(?: any| a| the| my)?(?: own)? ?(?:personal|opinion|feeling|preference|belief|experience"
    r"|emotion|access|ability|capab|real-?time|spouse|family|body|gender|physical|political)"
    r"|\bich habe keine(?: \w+)? (?:meinung|gefühl|erfahrung|vorlieb|zugriff|zugang)"
    r"|\bje n'ai pas(?: \S+){0,2}? (?:d'opinion|opinion|sentiment|accès|préférence|expérience)"
    r"|\bno tengo(?: \w+)? (?:opinion|sentimiento|acceso|preferencia|experiencia)"
    r"|\bnon ho(?: \w+)? (?:opinion|sentiment|accesso|preferenz|esperienz)"
    r"|\bnão (?:tenho|possuo)(?: \w+)? (?:opini|sentiment|acesso|prefer|experi)"
)
_SUBJECTIVE = re.compile(
    r"\b(?:is|are|be|highly|entirely|very|purely|a) (?:\w+ )?subjective\b"
    r"|\b(?:is|as|a|very)(?: \w+)? (?:personal|private) (?:question|matter|decision|choice)\b"
    r"|\b(?:question|answer|response|this|that|it)\b[^.]{0,60}?\b(?:depends?|dependent|var(?:y|ies)"
    r"|differs?)\b[^.]{0,120}?\b(?:individual|personal|person|opinion|preference|belief|perspective"
    r"|perception|experience|views?|your own|your|one's|circumstances|respondent|you)"
    r"|\b(?:cannot|can't|can not) be (?:answered|determined|chosen)\b"
    r"|\brequires? (?:personal|more) (?:information|context|opinion)"
    r"|\b(?:ist|sehr|rein) subjektiv|\best (?:très )?subjecti|\bes (?:muy )?subjetiv"
    r"|\bè (?:molto )?soggettiv|\bé (?:muito )?subjetiv"
)
_DISCLAIMING_HINTS = (
    "subjecti", "subjekti", "subjetiv", "soggettiv", "depend", "vary", "varies", "differ",
    "personal", "private", " ai", " ki", "l'ia", " ia", "model", "assist", "machine", "chatbot",
    "be answered", "be determined", "be chosen", "opini", "meinung", "i don't", "i do not",
    "i lack", "i have no", "n'ai pas", "keine", "requir", "no tengo", "non ho", "artificial",
    "taalmodel",
)  # fmt: skip
_DISCLAIMING_ELSEWHERE = ("não", "ai", "人工", "ии")
_SORRY = re.compile(
    r"\W*(?:i(?:'m| am) (?:\w+ )?sorry|sorry|i apologi[sz]e|apologies|my apologies|unfortunately"
    r"|es tut mir leid|tut mir leid|entschuldigung|leider|désolé|je suis désolé|lo siento|perdón"
    r"|mi dispiace|scusa|desculpe|sinto muito|lamento|thank you|please (?:provide|ask|consult|let)"
    r"|if you (?:have|need|would)|is there|feel free|it is important|it's important|however, i can"
    r"|some (?:possible )?(?:answers|responses|might|people|individuals)|therefore)"
)
_TURN = re.compile(
    r"\b(?:but|however|that said|nevertheless|nonetheless|instead|having said that|aber|jedoch"
    r"|allerdings|mais|cependant|toutefois|pero|sin embargo|ma|tuttavia|però|mas|porém"
    r"|no entanto|maar|но|однако|i (?:can|will|could|would)(?! ?not)|i'll|i'd)\b"
    r"|但是?|不过|ですが|しかし|하지만"
)
_OPENS = ('"', "“", "„", "«", "「")
_END = re.compile(r"[.!?。！？]+(?=[\s\"'”)\]]|$|[^\x00-\x7f])|\n+")


class _Wire(msgspec.Struct):
    refusal: str | None = None
    content: Any = None


_decode = msgspec.json.Decoder(_Wire).decode


def refusal_said(message: bytes) -> str:
    """What OpenAI's ``refusal`` field or block of an answer says; empty without one."""
    if b'"refusal"' not in message:
        return ""
    try:
        wire = _decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    if wire.refusal and not wire.refusal.isspace():
        return wire.refusal
    for block in wire.content if isinstance(wire.content, list) else ():
        said = block.get("refusal") if isinstance(block, dict) else None
        if isinstance(said, str) and said and not said.isspace():
            return said
    return ""


def refused(answer: str) -> bool:
    """Whether an answer declines, or says nothing but that it has none."""
    head = answer[:_HEAD].lower().replace("’", "'").strip()
    if not head or head.startswith(_OPENS):
        return False
    if finder(_DECLINING_HINTS)(head):
        patterns = [pattern for hints, pattern in _DECLINING if any_in(head, hints)]
        for begin, end in islice(_spans(head), _SENTENCES):
            at = _declined(head[begin:end], patterns)
            if at is not None:
                return not _answered_after(answer, begin + at)
    return _only_disclaims(answer, head)


def _declined(sentence: str, patterns: list[re.Pattern[str]]) -> int | None:
    """Where a sentence declines, outside quotation marks."""
    for pattern in patterns:
        found = pattern.search(sentence)
        if found is not None and not _quoted(sentence[: found.start()]):
            return found.end()
    return None


def _quoted(before: str) -> bool:
    return before.count('"') % 2 == 1 or before.count("“") > before.count("”")


def _answered_after(answer: str, at: int) -> bool:
    """Whether a declining answer turns round and answers after all."""
    if "```" in answer:
        return True
    turn = _TURN.search(answer[at : at + 2 * _HEAD].lower().replace("’", "'"))
    return turn is not None and len(answer[at + turn.end() :].split(None, _TURNED)) > _TURNED


def _only_disclaims(answer: str, head: str) -> bool:
    if len(answer) > 10 * _MOST or len(answer.split(None, _MOST)) > _MOST:
        return False
    if not finder(_DISCLAIMING_HINTS)(head) and (
        head.isascii() or not any_in(head, _DISCLAIMING_ELSEWHERE)
    ):
        return False
    low = answer.lower().replace("’", "'")
    disclaimed = rest = 0
    for begin, end in _spans(low):
        sentence = low[begin:end]
        if _disclaims(sentence):
            disclaimed += 1
        elif _SORRY.match(sentence) is None:
            rest += len(sentence.split())
    return disclaimed > 0 and rest < _REST


def _disclaims(sentence: str) -> bool:
    if _SUBJECTIVE.search(sentence) is not None or _NO_OWN.search(sentence) is not None:
        return True
    # "As an AI" alone only says who speaks; what is denied makes it a disclaimer.
    found = _AS_AI.search(sentence)
    return found is not None and _DENIES.search(sentence) is not None


_DENIES = re.compile(
    r"\b(?:not|cannot|\w+n't|no|never|unable|nicht|keine?\w*|pas|ne|non|não|niet|geen|не)\b|不|没"
    r"|ない|없"
)


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """Where the sentences of a text stand."""
    begin = 0
    for end in _END.finditer(text):
        if text[begin : end.end()].strip():
            yield begin, end.end()
        begin = end.end()
    if text[begin:].strip():
        yield begin, len(text)
