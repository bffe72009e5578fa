"""Appended calls with the content that evaluators read, many at once.

Calls of one run, and calls of one feature, share most of what they were sent. Links and messages
that were read lately are remembered, so a run that sends its history again costs its new messages.
"""

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

import msgspec

from tocsin.core.interaction import Blob, Entry, Interaction
from tocsin.core.messages import ROOT, Hash, Message, Node, parse_message
from tocsin.store.append import Recent
from tocsin.store.database import Database, Row, Session
from tocsin.store.packs import Place, read_items
from tocsin.store.reading import decode

_BATCH_BYTES = 8 * 1024 * 1024
"""Content of one batch that is read; a batch of larger calls is shorter."""
_REMEMBERED_BYTES = 2 * 1024 * 1024
_LINKS = 8_192
_FRONT = 8
"""Messages at the beginning of a history among which its system messages are."""
_IN_FRONT = ("system", "developer")
_MESSAGE_BYTES = 500

K = TypeVar("K")
V = TypeVar("V")

_Link = tuple[Hash, int]
"""Parent and content of a node."""


class _Lately(Generic[K, V]):
    """What was read lately, up to a size: two generations."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._bytes = 0
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        found = self._young.get(key)
        return self._old.get(key) if found is None else found

    def put(self, key: K, value: V, size: int) -> None:
        self._young[key] = value
        self._bytes += size
        if self._bytes > self._most:
            self._old, self._young, self._bytes = self._young, {}, 0


class _Asked(msgspec.Struct):
    """One call on its way to becoming an entry."""

    seq: int
    one: Interaction
    answer: int | None
    chain: list[tuple[Hash, Hash, int]]
    """(node, parent, content) of the last messages, oldest first."""
    front: list[tuple[Hash, Hash, int]]
    """The same of the history's beginning, where the chain does not reach it."""


class Recorded:
    """Reads entries in the order of their append. Used by one thread at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._links: Recent[Hash, _Link] = Recent(_LINKS)
        self._fronts: Recent[Hash, list[tuple[Hash, Hash, int]]] = Recent(512)
        self._messages: _Lately[int, tuple[Hash, Message]] = _Lately(_REMEMBERED_BYTES)
        self._blobs: _Lately[Hash, bytes] = _Lately(_REMEMBERED_BYTES)

    def after(self, seq: int, limit: int, last: int) -> list[tuple[int, Entry]]:
        """``api.Store.recorded_after``; fewer than ``limit`` when calls are large."""
        with self._database.read() as session:
            rows = session.all("recorded_after", (seq, limit))
            asked = self._asked(session, rows, max(1, last))
            messages, asked = self._read(session, asked)
            blobs = self._bodies(session, [one.one for one in asked])
        return [(one.seq, _entry(one, messages, blobs)) for one in asked]

    def _asked(self, session: Session, rows: Sequence[Row], last: int) -> list[_Asked]:
        records = read_items(session, [(row[1], row[2], row[3]) for row in rows])
        tips = [bytes(row[4]) for row in rows if row[4] is not None]
        chains, open_ends = self._chains(session, tips, last)
        found = []
        for row in rows:
            record = records.get((row[1], row[2], row[3]))
            if record is None:
                continue
            tip = None if row[4] is None else bytes(row[4])
            chain = [] if tip is None else chains.get(tip, [])
            front: list[tuple[Hash, Hash, int]] = []
            if tip is not None and tip in open_ends:
                front = self._front(session, tip, chain, open_ends[tip])
            found.append(_Asked(row[0], decode(record), row[5], chain, front))
        return found

    def _chains(
        self, session: Session, tips: Iterable[Hash], last: int
    ) -> tuple[dict[Hash, list[tuple[Hash, Hash, int]]], dict[Hash, Hash]]:
        """The last links of histories, oldest first, and where those go on that are longer."""
        chains: dict[Hash, list[tuple[Hash, Hash, int]]] = {tip: [] for tip in tips}
        ends: dict[Hash, Hash] = {tip: tip for tip in chains}
        links: dict[Hash, _Link] = {}
        walking = list(chains)
        while walking:
            unknown: dict[Hash, None] = {}
            still = []
            for tip in walking:
                at = self._walk(chains[tip], ends[tip], links, last)
                ends[tip] = at
                if at != ROOT and len(chains[tip]) < last:
                    unknown[at] = None
                    still.append(tip)
            found = session.listed("links", list(unknown))
            for value, parent, content in found:
                link = links[bytes(value)] = (bytes(parent), content)
                self._links.put(bytes(value), link)
            walking = [tip for tip in still if ends[tip] in links]
        for chain in chains.values():
            chain.reverse()
        whole = {tip: end for tip, end in ends.items() if end != ROOT and len(chains[tip]) >= last}
        return chains, whole

    def _walk(
        self, chain: list[tuple[Hash, Hash, int]], at: Hash, links: dict[Hash, _Link], last: int
    ) -> Hash:
        """Follow links that are known; returns the first that is not, or ``ROOT``."""
        remembered = self._links
        while at != ROOT and len(chain) < last:
            link = links.get(at)
            if link is None:
                link = remembered.get(at)
                if link is None:
                    return at
                links[at] = link
            chain.append((at, *link))
            at = link[0]
        return at

    def _front(
        self, session: Session, tip: Hash, chain: list[tuple[Hash, Hash, int]], end: Hash
    ) -> list[tuple[Hash, Hash, int]]:
        """The beginning of a history; calls of a run share theirs."""
        for node, _, _ in reversed(chain):
            front = self._fronts.get(node)
            if front is not None:
                break
        else:
            rows = session.all("chain_front", (end, _FRONT))
            front = [(bytes(row[0]), bytes(row[1]), row[2]) for row in rows]
        self._fronts.put(tip, front)
        return front

    def _read(
        self, session: Session, asked: list[_Asked]
    ) -> tuple[dict[int, tuple[Hash, Message]], list[_Asked]]:
        """The messages of as many calls as fit a batch, and those calls."""
        known: dict[int, tuple[Hash, Message]] = {}
        unknown: dict[int, None] = {}
        for one in asked:
            for content in _contents_of(one):
                if content not in known and content not in unknown:
                    message = self._messages.get(content)
                    if message is None:
                        unknown[content] = None
                    else:
                        known[content] = message
        rows = session.listed("contents_by_id", list(unknown))
        places = {r[0]: (bytes(r[1]), (r[2], r[3], r[4])) for r in rows if r[2] is not None}
        fitting = _fitting(asked, places)
        wanted = {content for one in fitting for content in _contents_of(one)}
        items = read_items(session, [p for c, (_, p) in places.items() if c in wanted])
        for content, (value, place) in places.items():
            item = items.get(place)
            if item is not None and content in wanted:
                message = self._parsed(content, value, item)
                if message is not None:
                    known[content] = message
        return known, fitting

    def _parsed(self, content: int, value: Hash, item: bytes) -> tuple[Hash, Message] | None:
        try:
            found = (value, parse_message(item))
        except msgspec.DecodeError:
            return None
        self._messages.put(content, found, len(item) + _MESSAGE_BYTES)
        return found

    def _bodies(self, session: Session, ones: list[Interaction]) -> dict[Hash, bytes]:
        known: dict[Hash, bytes] = {}
        unknown: dict[Hash, None] = {}
        for one in ones:
            for value in _bodies_of(one):
                body = self._blobs.get(value)
                if body is None:
                    unknown[value] = None
                else:
                    known[value] = body
        rows = session.listed("content_places", list(unknown))
        places: dict[Place, Hash] = {(r[1], r[2], r[3]): bytes(r[0]) for r in rows}
        for place, item in read_items(session, list(places)).items():
            known[places[place]] = item
            self._blobs.put(places[place], item, len(item) + _MESSAGE_BYTES)
        return known


def _contents_of(one: _Asked) -> Iterable[int]:
    for _, _, content in one.front:
        yield content
    for _, _, content in one.chain:
        yield content
    if one.answer is not None:
        yield one.answer


def _bodies_of(one: Interaction) -> tuple[Hash, ...]:
    return tuple(h for h in (one.params, one.request_body, one.response_body) if h)


def _fitting(asked: list[_Asked], places: dict[int, tuple[Hash, Place]]) -> list[_Asked]:
    """The first calls whose content fits a batch; at least one."""
    room = _BATCH_BYTES
    counted: set[int] = set()
    for at, one in enumerate(asked):
        for content in _contents_of(one):
            if content in places and content not in counted:
                counted.add(content)
                room -= places[content][1][2]
        if room < 0 and at:
            return asked[:at]
    return asked


def _entry(
    asked: _Asked, messages: dict[int, tuple[Hash, Message]], blobs: dict[Hash, bytes]
) -> Entry:
    one = asked.one
    history: list[Message] = []
    nodes: list[Node] = []
    for links, only_front in ((asked.front, True), (asked.chain, False)):
        for node, parent, content in links:
            found = messages.get(content)
            if only_front and (found is None or found[1].role not in _IN_FRONT):
                break
            if found is not None:
                history.append(found[1])
                nodes.append(Node(node, parent, found[0]))
    answer = None if asked.answer is None else messages.get(asked.answer)
    if answer is not None and one.output_node is not None:
        nodes.append(Node(one.output_node, one.input_node or ROOT, answer[0]))
    return Entry(
        interaction=one,
        input=tuple(history),
        nodes=tuple(nodes),
        output=None if answer is None else answer[1],
        blobs=tuple(Blob(hash=h, data=blobs[h]) for h in _bodies_of(one) if h in blobs),
    )
