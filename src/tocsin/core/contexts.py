"""Which context was an answer given: tool results, documents, marked passages of the request."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from tocsin.core.interaction import Entry
from tocsin.core.lexicon import lexicon
from tocsin.core.messages import Message
from tocsin.core.patterns import lazily

MAX_TEXT = 64 * 1024
"""Characters of a request's texts that are read closely, the latest first."""
_MAX_DEPTH = 12
_MAX_LEAVES = 2_000

_decode = msgspec.json.Decoder().decode

_TAGGED = lazily(
    r"<(context|contexts|documents?|docs?|passages?|sources?|search_results?|results?|excerpts?"
    r"|knowledge|references?|retrieved[\w-]{0,24}|article|transcript|data|files?|emails?|webpage"
    r"|page|faq|evidence|snippets?|chunks?)\b[^>\n]{0,200}>(.*?)</\1\s*>",
    re.IGNORECASE | re.DOTALL,
)
_HEADED = lazily(
    r"\n[ \t]*(?:#{1,4} *|\*\*)?((?:(?:relevant|retrieved|search|supporting|reference|provided"
    r"|background|given|source|additional) ){0,2}(?:contexts?|documents?|sources?|passages?"
    r"|results?|information|excerpts?|knowledge(?: base)?|articles?|transcript|text|evidence"
    r"|references?|snippets?|chunks?|conversation|dialogue|notes|facts|report|kontext|quellen|dokumente|contexte"
    r"|contexto|fuentes|documentos|contesto|fonti))(?:\*\*)?[ \t]*[:：](?:\*\*)?",
    re.IGNORECASE,
)
_HEADING_AFTER = lazily(
    r"\n[ \t]*(?:#{1,4} *|\*\*)?(?:(?:user(?:['’]s)? |my |the )?(?:question|query|request)|user"
    r"|answer|instructions?|task|frage|antwort|réponse|pregunta|respuesta|domanda|assistant)"
    r"(?:\*\*)?[ \t]*[:：]|\n(?:-{3,}|={3,})[ \t]*(?=\n|$)",
    re.IGNORECASE,
)
_NUMBERED = lazily(r"\n[ \t]*\[\d{1,3}\][ \t:]")
_GIVEN = lazily(
    r"\b(?:(?:based|rely|relying|drawing) (?:only |solely |strictly )?(?:up)?on|using|given|from"
    r"|according to|summari[sz]e|extract [\w ]{1,30} from|answer [\w ]{0,40}from|read) "
    r"(?:only )?(?:the |this |these )(?:following |provided |above |below |given )?"
    r"(?:[\w-]+ ){0,2}(?:contexts?|texts?|documents?|passages?|articles?|information|excerpts?"
    r"|transcripts?|conversations?|sources?|paragraphs?|reports?|emails?|notes|results)\b",
    re.IGNORECASE,
)
_LONG = 300
"""Characters from which a request that speaks of a text holds it."""
_HEAD, _TAIL = 1500, 500
"""Where in a request it is looked for what it is about."""

_NOTHING = lazily(
    r"^[\s\"'`.\[\]{}()<>*\-]*(?:none|null|nil|n/a|nothing|empty|\(?no (?:\w+ ){0,3}(?:results?"
    r"|documents?|context|matches|passages|records|data|information|sources|entries|hits|items)"
    r"(?: (?:found|available|matched|returned|retrieved|provided|were found|was found)"
    r"(?: for [^\n]{0,80})?)?"
    r"|0 (?:results|documents|matches|hits)(?: found)?|not found|keine (?:ergebnisse|treffer))?"
    r"[\s\"'`.!\[\]{}()<>*\-]*$",
    re.IGNORECASE,
)
_EMPTY_OBJECT = lazily(
    r"^\s*\{\s*(?:\"[\w-]{1,40}\"\s*:"
    r"\s*(?:\[\s*\]|\{\s*\}|null|0|\"\"|false|true|\"[\w .-]{0,40}\")"
    r"\s*(?:,\s*|(?=\})))*\}\s*$"
)
_HOLLOW = lazily(r"\[\s*\]|\{\s*\}|:\s*null")
_ESCAPE = lazily(r"\\(?:u([0-9a-fA-F]{4})|([nrt\"/\\]))")
_PLAIN_ESCAPES = {"n": "\n", "r": "\n", "t": " ", '"': '"', "/": "/", "\\": "\\"}


class Source(msgspec.Struct, frozen=True, gc=False):
    """One text that the answer may rest on."""

    text: str
    key: bytes
    """Names the text: equal texts of one message have equal keys."""


class Context(msgspec.Struct, frozen=True):
    """What an answer was given to rest on."""

    sources: tuple[Source, ...]
    """Texts of everybody but the model, the latest first."""
    spoken_of: bool
    """The request has a place for context (documents, a tool's result)."""
    given: bool
    """... and there is something in it."""
    whole: bool
    """Nothing of it is out of sight: images, files by reference, messages that are gone."""
    rest: str = ""
    """What lies further back than ``MAX_TEXT``."""
    said: tuple[Source, ...] = ()
    """What the model itself has told before in this conversation."""
    results: int = 0
    """Documents and results of tools, as they can be counted."""


class _Part(msgspec.Struct):
    text: str
    kind: str
    """``context`` (a result, a document), ``said`` (by user or system)."""


def answer_of(message: Message | None) -> str:
    """The text that a caller sees of an answer; empty for one that asks for tools."""
    if message is None or message.calls:
        return ""
    return "\n".join(part for part in _said(_content(message)) if part)


def context_of(entry: Entry) -> Context:
    """The context of an entry's answer."""
    whole = entry.interaction.input_messages <= len(entry.input)
    return context_in(entry.input, entry.output, whole=whole)


def context_in(messages: Sequence[Message], output: Message | None, *, whole: bool) -> Context:
    """The context that messages give an answer. ``whole``: they are all that the model read."""
    sources: list[Source] = []
    said: list[Source] = []
    results = 0
    rest: list[str] = []
    room = MAX_TEXT
    spoken = given = False
    for message in reversed((*messages, *((output,) if output is not None else ()))):
        if message is not output and message.role == "assistant" and room:
            for text in _said(_content(message)):
                said.append(Source(text[:room], message.hash + _size(text)))
                room -= len(text[:room])
        parts, opaque = _parts(message)
        whole = whole and not opaque
        for number, part in enumerate(reversed(parts)):
            text = unescaped(part.text)
            has_place, filled = _place(part, text, opaque)
            spoken, given = spoken or has_place, given or filled
            results += part.kind == "context"
            if not text.strip():
                continue
            if len(text) > room:
                rest.append(text[: len(text) - room])
                text = text[len(text) - room :]
            if text:
                sources.append(Source(text, message.hash + bytes((number & 255,)) + _size(text)))
                room -= len(text)
    return Context(tuple(sources), spoken, given, whole, "\n".join(rest), tuple(said), results)


def _size(text: str) -> bytes:
    return len(text).to_bytes(4, "big")


def _place(part: _Part, text: str, opaque: bool) -> tuple[bool, bool]:
    """Whether a part has a place for context, and whether something is in it."""
    if part.kind == "context":
        return True, opaque or not is_nothing(text)
    text = f"\n{text}"  # patterns that begin with a line's end are found ten times as fast
    bodies = list(_marked(text))
    if bodies:
        return True, any(not is_nothing(body) for body in bodies)
    if len(_NUMBERED.findall(text)) >= 2:
        return True, True
    if len(text) > _LONG and _GIVEN.search(text, 0, _HEAD):
        return True, True
    if len(text) > _HEAD and _GIVEN.search(text, len(text) - _TAIL):
        return True, True
    return False, False


def _marked(text: str) -> Iterator[str]:
    tagged = False
    if "</" in text:
        for match in _TAGGED.finditer(text):
            tagged = True
            yield match[2]
    if tagged:
        return
    for match in _HEADED.finditer(text):
        after = _HEADING_AFTER.search(text, match.end())
        yield text[match.end() : after.start() if after else len(text)]


def is_nothing(text: str) -> bool:
    """Whether a place for context holds none: white space, ``[]``, "No results found."."""
    if len(text) > 400:
        return False
    if _NOTHING.match(text):
        return True
    return _HOLLOW.search(text) is not None and _EMPTY_OBJECT.match(text) is not None


def unescaped(text: str) -> str:
    """JSON text with its escapes as characters: what is compared is what was meant."""
    if "\\" not in text:
        return text
    return _ESCAPE.sub(_one, text)


def _one(match: re.Match[str]) -> str:
    return chr(int(match[1], 16)) if match[1] else _PLAIN_ESCAPES[match[2]]


# -- messages --


def _content(message: Message) -> Any:
    try:
        value = _decode(message.raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value.get("content") if isinstance(value, dict) else None


def _said(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for block in content:
            if isinstance(block, str):
                yield block
            elif isinstance(block, dict) and _type(block) in _TEXTS:
                text = block.get("text")
                if isinstance(text, str):
                    yield text


_TEXTS = ("text", "input_text", "output_text")
_UNSEEN = lexicon(
    "image image_url input_image input_audio audio file input_file video document_url"
)
_NOT_TEXT = lexicon(
    "type id tool_use_id tool_call_id call_id cache_control encrypted_content status is_error "
    "role encrypted_index media_type file_id"
)


def _type(block: dict[str, Any]) -> str:
    kind = block.get("type", "text")
    return kind if isinstance(kind, str) else ""


def _parts(message: Message) -> tuple[list[_Part], bool]:
    """The texts of a message, and whether it holds something that cannot be read."""
    content = _content(message)
    assistant = message.role == "assistant"
    if message.role in ("tool", "function"):
        texts, opaque = _leaves(content)
        return [_Part("\n".join(texts), "context")], opaque
    if isinstance(content, str):
        return ([] if assistant else [_Part(content, "said")]), False
    parts: list[_Part] = []
    unread = False
    for block in content if isinstance(content, list) else ():
        if not isinstance(block, dict):
            continue
        kind = _type(block)
        if kind in _TEXTS:
            text = block.get("text")
            if isinstance(text, str) and not assistant:
                parts.append(_Part(text, "said"))
        elif kind in _UNSEEN:
            unread = unread or not assistant
        elif _is_context(kind):
            texts, opaque = _leaves({k: v for k, v in block.items() if k != "queries"})
            parts.append(_Part("\n".join(texts), "context"))
            unread = unread or opaque
    return parts, unread


def _is_context(kind: str) -> bool:
    """Results of tools that clients or upstreams ran, and documents."""
    if kind in ("document", "search_result", "function_call_output", "container_upload"):
        return True
    return kind.endswith(("_result", "_call_output")) or kind in (
        "file_search_call",
        "code_interpreter_call",
        "mcp_call",
        "web_search_call",
    )


def _leaves(value: Any) -> tuple[list[str], bool]:
    """All text in a block, in order, and whether something in it cannot be read."""
    texts: list[str] = []
    opaque = False
    stack: list[tuple[Any, int]] = [(value, 0)]
    while stack and len(texts) < _MAX_LEAVES:
        item, depth = stack.pop()
        if isinstance(item, str):
            texts.append(item)
        elif isinstance(item, bool) or item is None:
            continue
        elif isinstance(item, int | float):
            texts.append(f"{item:.10g}" if isinstance(item, float) else str(item))
        elif depth >= _MAX_DEPTH:
            opaque = True
        elif isinstance(item, list):
            stack += [(inner, depth + 1) for inner in reversed(item)]
        elif isinstance(item, dict):
            kind = _type(item)
            hidden = kind in _UNSEEN or kind in ("base64", "url") or "encrypted_content" in item
            opaque = opaque or hidden or bool(item.get("file_id"))
            if kind not in _UNSEEN and kind != "base64":
                inner = [(v, depth + 1) for k, v in item.items() if k not in _NOT_TEXT]
                stack += reversed(inner)
    return texts, opaque or bool(stack)
