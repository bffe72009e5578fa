"""What answers say without saying anything: disclaimers and courtesies."""

import re

_HEAD = 700
"""Characters at either end of an answer that are looked at."""
_END = re.compile(r"[.!?。！？]+(?=[\s\"'”)\]]|$|[^\x00-\x7f])|\n+")

_FILLERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("an ai", ("as an ai", "i'm just an ai", "i am just an ai")),
    ("language model", ("as a language model", "as a large language")),
    ("important", ("it's important to note", "it is important to note", "important to remember")),
    (" noting", ("it's worth noting", "it is worth noting")),
    ("note that", ("please note that",)),
    ("keep in mind", ("keep in mind that",)),
    ("my ", ("my knowledge cutoff", "my last update", "my last knowledge", "my training data")),
    ("informational", ("for informational purposes",)),
    ("advice", ("not legal advice", "not medical advice", "not financial advice")),
    ("consult", ("consult a ", "consult with ", "consult your ")),
    ("professional", ("seek professional", "qualified professional", "healthcare professional")),
    ("hope th", ("i hope this helps", "hope this helps", "hope that helps")),
    ("let me know", ("let me know if",)),
    ("feel free", ("feel free to ask", "feel free to reach", "feel free to let")),
    ("if you have any", ("if you have any",)),
    ("hesitate", ("don't hesitate", "do not hesitate")),
    ("anything else", ("anything else i can", "is there anything else")),
    ("to help", ("happy to help", "glad to help", "here to help")),
    ("to assist", ("happy to assist", "here to assist")),
    (" question", ("great question", "good question", "excellent question")),
    ("sure", ("sure!", "sure thing")),
    ("ly!", ("certainly!", "absolutely!")),
    ("of course", ("of course!",)),
    ("apolog", ("i apologize for", "i apologise for", "apologies for the")),
    ("sorry", ("sorry for the", "sorry for any", "i'm sorry", "i am sorry")),
    ("thank", ("thank you for your", "thanks for reaching")),
    ("als ki", ("als ki",)),
    ("beachten", ("bitte beachten sie", "es ist wichtig zu beachten")),
    ("hoffe", ("ich hoffe, das hilft", "ich hoffe das hilft")),
    ("wissen", ("lassen sie es mich wissen", "lass es mich wissen")),
    ("weitere fragen", ("wenn sie weitere fragen", "wenn du weitere fragen")),
    ("gerne!", ("gerne!",)),
    ("tut mir leid", ("es tut mir leid",)),
    ("gute frage", ("gute frage",)),
    ("en tant qu", ("en tant qu'ia", "en tant qu'assistant", "en tant que modèle")),
    ("noter", ("il est important de noter", "veuillez noter")),
    ("hésite", ("n'hésitez pas", "n'hésite pas")),
    ("espère", ("j'espère que cela",)),
    ("bien sûr", ("bien sûr !", "bien sûr!")),
    ("bonne question", ("bonne question",)),
    ("désolé", ("je suis désolé",)),
    ("es importante", ("es importante tener en cuenta", "es importante señalar")),
    ("dude", ("no dudes en", "no dude en")),
    ("espero que", ("espero que esto", "espero que isso")),
    ("supuesto", ("¡por supuesto!",)),
    ("claro!", ("claro!",)),
    ("lo siento", ("lo siento",)),
    ("en cuenta que", ("ten en cuenta que",)),
    ("notare", ("è importante notare",)),
    ("esitare", ("non esitare",)),
    ("spero che", ("spero che questo",)),
    ("certamente!", ("certamente!",)),
    ("mi dispiace", ("mi dispiace",)),
    ("é importante", ("é importante notar", "é importante ressaltar")),
    ("não hesite", ("não hesite",)),
    ("se precisar", ("se precisar de mais",)),
)
"""What any of some phrases has in it, and the phrases."""


def boilerplate_share(answer: str, count: int) -> float:
    """The share of an answer's ``count`` words in sentences of disclaimers and courtesies.

    Those stand at its ends: the first and last 700 characters are looked at.
    """
    low = (answer if len(answer) <= 2 * _HEAD else f"{answer[:_HEAD]}\n{answer[-_HEAD:]}").lower()
    if "’" in low:
        low = low.replace("’", "'")
    spans: list[tuple[int, int]] = []
    for hint, phrases in _FILLERS:
        if hint in low:
            _find(low, phrases, spans)
    if not spans:
        return 0.0
    spans.sort()
    filled = done = 0
    for begin, end in spans:
        begin = max(begin, done)
        if end > begin:
            filled += len(low[begin:end].split())
            done = end
    return min(1.0, filled / max(1, count))


def _find(low: str, phrases: tuple[str, ...], spans: list[tuple[int, int]]) -> None:
    """Add the sentences that have one of the phrases."""
    for words in phrases:
        at = low.find(words)
        while at >= 0 and len(spans) < 64:
            span = _sentence_at(low, at, at + len(words))
            spans.append(span)
            at = low.find(words, max(span[1], at + 1))


def _sentence_at(text: str, begin: int, end: int) -> tuple[int, int]:
    """The sentence around a part of a text, 400 characters to either side at most."""
    first = max(0, begin - 400)
    before = list(_END.finditer(text, first, begin))
    if before:
        first = before[-1].end()
    following = _END.search(text, max(begin, end - 1), end + 400)
    return first, following.end() if following is not None else min(len(text), end + 400)
