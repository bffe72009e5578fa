"""Citations in an answer, and whether what they point to is in the context."""

import re
from collections.abc import Iterable, Iterator

import msgspec

from tocsin.core.patterns import lazily


class Citation(msgspec.Struct, frozen=True, gc=False):
    """One citation: a label (``3``, ``doc-3``), an address, or a source in words."""

    kind: str
    """``label``, ``address`` or ``words``."""
    target: str
    text: str


URL = lazily(r"\b(?:https?://|www\.)[^\s<>\"'`\])}|]{2,400}", re.IGNORECASE)
_CODE_BLOCK = lazily(r"```.*?(?:```|$)|`[^`\n]*`", re.DOTALL)
_LABEL = lazily(
    r"(?<![\w\])])\[\^?((?:(?:doc|document|source|passage|ref|chunk|result|p|s)[ _:#-]{0,2})?"
    r"\d{1,4}(?:\s*[,;–-]\s*\d{1,4}){0,9}|[A-Za-z][\w.-]{0,30}\d[\w.-]{0,20})\](?!\()"
    r"|(?<=[\w.,;:!?)\]\"”])\[\^?((?:doc|source|ref)?[ _:#-]?\d{1,4}(?:\s*[,;–-]\s*\d{1,4}){0,9}"
    r"|[a-z]{2,12}[-_]\d{1,6})\](?!\()"
    r"|【(\d{1,4})(?::\d{1,4})?[^】\n]{0,60}】",
    re.IGNORECASE,
)
_SOURCE = lazily(
    r"[(\[](?:source|sources|see|ref|reference|cited from|quelle|fuente|fonte)s?\s*[:：]\s*"
    r"([^)\]\n]{2,200})[)\]]",
    re.IGNORECASE,
)
_DEFINED = lazily(r"^[ \t]*\[\^?([\w-]{1,20})\][ \t:]+(\S[^\n]{3,300})$", re.MULTILINE)
_NUMBERED_SOURCE = (
    r"(?:\[\^?{n}\]|(?:doc|document|source|passage|chunk|result|reference|section|excerpt|snippet"
    r"|page|paragraph|ref)s?[ _:#\-\"']{{0,3}}0*{n}\b|\b(?:id|index|idx|number|no|rank|position)"
    r"\"?'?\s*[:=]\s*[\"']?(?:[a-z]{{1,9}}[-_ ])?{n}\b|<index>\s*{n}\b|^\s*\(?{n}[.):]\s)"
)
_ANY_LABEL = lazily(r"\[\^?\d{1,3}\]|\b(?:doc|document|source|passage)[ _:#-]?\d", re.IGNORECASE)


def citations_of(answer: str) -> list[Citation]:
    """The citations of an answer, each once. Code is left out."""
    text = _CODE_BLOCK.sub(" ", answer) if "`" in answer else answer
    found: dict[tuple[str, str], Citation] = {}
    for citation in _found(text):
        found.setdefault((citation.kind, citation.target), citation)
    return list(found.values())


def _found(text: str) -> Iterator[Citation]:
    if "[" in text or "【" in text:
        for match in _LABEL.finditer(text):
            inner = match[1] or match[2] or match[3]
            for target in _targets(inner):
                yield Citation("label", target, f"[{target}]")
    for match in _SOURCE.finditer(text):
        words = match[1].strip()
        if not words.isdigit() and not URL.search(words):
            yield Citation("words", words, match[0])
    for match in URL.finditer(text):
        address = match[0].rstrip(".,;:!?*_")
        yield Citation("address", address, address)


def _targets(inner: str) -> Iterator[str]:
    if re.fullmatch(r"[\d\s,;–-]+", inner) and not inner.isdigit():
        for piece in re.split(r"[,;]", inner):
            ends = [int(n) for n in re.findall(r"\d+", piece)]
            if len(ends) == 2 and 0 < ends[1] - ends[0] < 20:
                yield from (str(n) for n in range(ends[0], ends[1] + 1))
            else:
                yield from map(str, ends)
    else:
        yield inner.strip()


def labels_exist(targets: list[str], texts: list[str], answer: str, results: int) -> list[bool]:
    """Whether each label names something in the context.

    ``results``: how many documents or results there are where they have no labels of their own:
    a number up to it counts as their position.
    """
    defined = {match[1]: match[2] for match in _DEFINED.finditer(answer)}
    joined = "\n".join(texts)
    labelled = _ANY_LABEL.search(joined) is not None
    return [_exists(target, joined, defined, 0 if labelled else results) for target in targets]


def _exists(target: str, context: str, defined: dict[str, str], results: int) -> bool:
    number = target if target.isdigit() else ""
    if number and 0 < int(number) <= results:
        return True
    if number:
        pattern = _NUMBERED_SOURCE.format(n=int(number))
        if re.search(pattern, context, re.IGNORECASE | re.MULTILINE):
            return True
    else:
        flat = re.sub(r"[\s_:#-]+", "", target).lower()
        if flat and re.search(rf"(?<![^\W_]){_loosely(target)}(?![^\W_])", context, re.IGNORECASE):
            return True
    if (known := defined.get(target)) is not None:
        address = URL.search(known)
        if address:
            return address_exists(address[0].rstrip(".,;:!?*_"), context)
        return words_exist(known, context)
    return False


def _loosely(label: str) -> str:
    return r"[\s_:#-]{0,2}".join(re.escape(part) for part in re.split(r"[\s_:#-]+", label) if part)


def dangling(
    citations: Iterable[Citation], context: str, answer: str, results: int = 0
) -> list[str]:
    """Those citations, as they stand in the answer, that point to nothing in the context.

    ``results`` as in ``labels_exist``.
    """
    found = list(citations)
    labels = [citation for citation in found if citation.kind == "label"]
    exist = labels_exist([label.target for label in labels], [context], answer, results)
    bad = [label.text for label, there in zip(labels, exist, strict=True) if not there]
    for citation in found:
        if (citation.kind == "address" and not address_exists(citation.target, context)) or (
            citation.kind == "words" and not words_exist(citation.target, context)
        ):
            bad.append(citation.text)
    return bad


def plain_address(address: str) -> str:
    """An address without scheme, ``www.`` and what ends it."""
    address = re.sub(r"^(?:https?://)?(?:www\.)?", "", address.strip(), flags=re.IGNORECASE)
    return address.partition("#")[0].rstrip("/.,;:!?*_)").lower()


def address_exists(address: str, context: str) -> bool:
    """Whether the address itself stands in the context; of a bare host, any page of it."""
    wanted = plain_address(address)
    if not wanted:
        return True
    low = context.lower()
    at = low.find(wanted)
    while at >= 0:
        after = low[at + len(wanted) : at + len(wanted) + 1]
        if (
            "/" not in wanted
            or not after
            or after in " \n\t\r<>\"'`)]}|,;#.!?*\\"
            or (
                after == "/"
                and low[at + len(wanted) + 1 : at + len(wanted) + 2]
                in ("", " ", '"', ")", "\n", "]", "<", "'")
            )
        ):
            return True
        at = low.find(wanted, at + 1)
    return False


def words_exist(words: str, context: str) -> bool:
    """Whether most words of a named source stand in the context."""
    wanted = re.findall(r"[^\W_]{2,}", words.lower())
    low = context.lower()
    there = sum(word in low for word in wanted)
    return bool(wanted) and there >= 0.75 * len(wanted)
