"""How importers make records: messages, contents, and which of a call's messages are new."""

import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from tocsin.core.interaction import Blob, Entry, Interaction, Usage
from tocsin.core.messages import (
    ROOT,
    Hash,
    Message,
    Node,
    chain,
    content_hash,
    link,
    parse_message,
)
from tocsin.importers.messages import Wire, as_text

MAX_ATTRIBUTES = 64
MAX_ATTRIBUTE = 1000
"""Characters of an attribute's value that are kept."""
MAX_NAME = 200
"""Characters of names and ids that come from elsewhere."""
MAX_BLOB = 1024 * 1024
"""Bytes of content that is no message; longer content is cut and says so."""
_CUT = b" [cut by tocsin]"
_UNSAFE = re.compile(r"[^A-Za-z0-9_.:\-]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_encode = msgspec.json.Encoder().encode


def to_message(wire: Wire) -> Message:
    """A message from its OpenAI-shaped form; one that JSON cannot hold keeps its text."""
    try:
        return parse_message(_encode(wire))
    except (msgspec.DecodeError, TypeError, ValueError, OverflowError, RecursionError):
        role, content = as_text(wire.get("role")), as_text(wire.get("content"))
        return parse_message(_encode({"role": role, "content": content}))


def to_messages(wires: Sequence[Wire]) -> tuple[Message, ...]:
    """The same for a history."""
    return tuple([to_message(wire) for wire in wires])


def extend(nodes: tuple[Node, ...], message: Message) -> tuple[Node, ...]:
    """The nodes of a history with one more message."""
    start = nodes[-1].hash if nodes else ROOT
    return (*nodes, Node(link(start, message.hash), start, message.hash))


def to_blob(text: str | bytes) -> Blob | None:
    """Content that is no message; ``None`` when there is none."""
    data = text.encode(errors="replace") if isinstance(text, str) else text
    if not data:
        return None
    if len(data) > MAX_BLOB:
        data = data[:MAX_BLOB].decode(errors="ignore").encode() + _CUT
    return Blob(content_hash(data), data)


def call_entry(
    facts: dict[str, Any],
    *,
    history: tuple[Message, ...],
    output: Message | None,
    params: bytes = b"",
    known: int = 0,
    nodes: tuple[Node, ...] | None = None,
) -> Entry:
    """The entry of a model call.

    ``facts`` has every field of the interaction that does not follow from the messages, ``known``
    says how many leading messages an earlier call had, ``nodes`` are those of ``history`` where
    they are known already.
    """
    if nodes is None:
        nodes = chain(history)
    if nodes:
        facts["input_node"] = nodes[-1].hash
    if output is not None:
        nodes = extend(nodes, output)
        facts["output_node"] = nodes[-1].hash
        facts["output_bytes"] = len(output.raw)
        facts["tool_calls"] = len(output.calls)
    new = history[known:]
    blob = to_blob(params)
    interaction = Interaction(
        input_messages=len(history),
        new_messages=len(new),
        tool_results=sum([len(message.answers) for message in new]),
        input_bytes=sum([len(message.raw) for message in history]),
        params=None if blob is None else blob.hash,
        **facts,
    )
    blobs = () if blob is None else (blob,)
    return Entry(interaction=interaction, input=history, nodes=nodes, output=output, blobs=blobs)


def step_entry(facts: dict[str, Any], given: str, result: str) -> Entry:
    """The entry of a tool execution, an agent, a workflow: what went in and out are its bodies."""
    first, second = to_blob(given), to_blob(result)
    interaction = Interaction(
        request_body=None if first is None else first.hash,
        response_body=None if second is None else second.hash,
        input_bytes=0 if first is None else len(first.data),
        output_bytes=0 if second is None else len(second.data),
        **facts,
    )
    blobs = tuple(blob for blob in (first, second) if blob is not None)
    return Entry(interaction=interaction, blobs=blobs)


def clean(text: str, limit: int = MAX_NAME) -> str:
    """Text from elsewhere as a name or label: cut, and without NUL, which databases refuse."""
    text = text[:limit]
    return text.replace("\0", "") if "\0" in text else text


def feature_name(text: str) -> str:
    """A feature's name made of what somebody else calls it: 128 characters that ids may have."""
    return _UNSAFE.sub("-", text[:128]).lstrip("-_.:") or "default"


def usage_from(value: Any) -> Usage | None:
    """The usage object of either provider dialect; ``None`` when it tells no counts."""
    if not isinstance(value, dict):
        return None
    given = _first(value, "prompt_tokens", "input_tokens")
    told = _first(value, "completion_tokens", "output_tokens")
    read = _first(value, "cache_read_input_tokens")
    written = _first(value, "cache_creation_input_tokens")
    if given is not None and (read or written):
        # Anthropic's input leaves out what was read from and written to the cache.
        given += (read or 0) + (written or 0)
    inside = _first_object(value, "prompt_tokens_details", "input_tokens_details")
    more = _first_object(value, "completion_tokens_details", "output_tokens_details")
    if given is None and told is None:
        return None
    return Usage(
        input_tokens=given,
        output_tokens=told,
        cache_read_tokens=read if read is not None else _first(inside, "cached_tokens"),
        cache_write_tokens=written,
        reasoning_tokens=_first(more, "reasoning_tokens"),
        source="reported",
    )


def count(value: Any) -> int | None:
    """A count of tokens; ``None`` when it is no whole number of a sensible size."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    plain = isinstance(value, int) and not isinstance(value, bool)
    return value if plain and 0 <= value < 1 << 50 else None


def _first(value: dict[str, Any], *names: str) -> int | None:
    return next((n for n in (count(value.get(name)) for name in names) if n is not None), None)


def _first_object(value: dict[str, Any], *names: str) -> dict[str, Any]:
    return next((o for o in (value.get(name) for name in names) if isinstance(o, dict)), {})


def microseconds(value: Any) -> int | None:
    """A time from elsewhere as microseconds since the epoch; ``None`` when it is none.

    ISO 8601 text (without a zone: UTC), or a number of seconds, milli-, micro- or nanoseconds.
    """
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value.strip())
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0, (moment - _EPOCH) // timedelta(microseconds=1))
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e19:
        return None
    # A time since 1973 says by its size which unit it is in.
    for limit, factor in ((1e11, 1e6), (1e14, 1e3), (1e17, 1.0)):
        if value < limit:
            return int(value * factor)
    return int(value // 1000)


class Histories:
    """Ends of histories seen of late: tells which messages of a call are new.

    Keeps the latest ``size`` ends; a call that continues an older one counts as all new, which
    only makes a page show more than it needs. Any thread may use it.
    """

    def __init__(self, size: int = 20_000) -> None:
        self._ends: OrderedDict[Hash, str] = OrderedDict()
        self._size = size
        self._lock = threading.Lock()

    def continued(self, nodes: Sequence[Node]) -> int:
        """How many leading messages an earlier call was asked and answered already."""
        ends = self._ends
        for index in range(len(nodes) - 1, -1, -1):
            if nodes[index].hash in ends:
                return index + 1
        return 0

    def run_of(self, nodes: Sequence[Node]) -> str | None:
        """The run of the call that a history continues, ``None`` when it continues none."""
        count = self.continued(nodes)
        return self._ends.get(nodes[count - 1].hash) if count else None

    def ended(self, node: Hash, run_id: str) -> None:
        """Remember the end of a history: its messages and the answer."""
        with self._lock:
            self._ends[node] = run_id
            self._ends.move_to_end(node)
            if len(self._ends) > self._size:
                self._ends.popitem(last=False)
