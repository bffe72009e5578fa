"""Appending: the one way in. One transaction, a dozen statements, whatever the batch's size."""

import threading
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from tocsin.core.interaction import Entry
from tocsin.core.messages import ROOT, Hash, Message, Node
from tocsin.store import records
from tocsin.store.database import Database, Session
from tocsin.store.packs import CONTENT_BYTES, RECORD_BYTES, Packer

_REMEMBERED = 4096

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """What was seen lately: two generations, so that forgetting costs nothing."""

    __slots__ = ("_limit", "_old", "_young")

    def __init__(self, limit: int = _REMEMBERED) -> None:
        self._limit = limit
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        value = self._young.get(key)
        if value is None:
            value = self._old.get(key)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        self._young[key] = value
        if len(self._young) >= self._limit:
            self._old, self._young = self._young, {}

    def clear(self) -> None:
        self._young, self._old = {}, {}


class _Content:
    """A content's number, the run that brought it, and whether its bytes are there."""

    __slots__ = ("filled", "id", "run")

    def __init__(self, number: int, run: int, filled: bool) -> None:
        self.id = number
        self.run = run
        self.filled = filled


class _Memory:
    """What this process knows to be in the database. A deletion anywhere makes it worthless."""

    def __init__(self) -> None:
        self.epoch = -1
        self.runs: Recent[str, int] = Recent()
        self.nodes: Recent[Hash, bool] = Recent()
        self.contents: Recent[Hash, _Content] = Recent()
        self.titles: Recent[Hash, str] = Recent(512)

    def trust(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch = epoch
            for part in (self.runs, self.nodes, self.contents):
                part.clear()


class Appender:
    """Writes entries, and remembers them so that repeated content costs next to nothing."""

    def __init__(self, database: Database, *, keep_content: bool) -> None:
        self._database = database
        self._keep_content = keep_content
        self._memory = _Memory()
        self._lock = threading.Lock()

    def append(self, entries: Sequence[Entry]) -> int:
        """Write what is new of ``entries``; returns how many were."""
        unique = {entry.interaction.id: entry for entry in entries}
        if len(unique) != len(entries):
            unique = {entry.interaction.id: entry for entry in reversed(entries)}
            unique = dict(reversed(unique.items()))
        if not unique:
            return 0
        encoded = {name: records.encode(entry.interaction) for name, entry in unique.items()}
        with self._lock:
            try:
                self._write(unique, encoded)
            except BaseException:
                # What was found or made in this batch was rolled back with it.
                self._memory.epoch = -1
                raise
        return len(unique)

    def _write(self, unique: dict[str, Entry], encoded: dict[str, bytes]) -> None:
        with self._database.write() as session:
            for (known,) in session.listed("existing_ids", list(unique)):
                del unique[known]
            if unique:
                batch = _Batch(session, self._memory, self._keep_content)
                batch.write(list(unique.values()), encoded)


class _Batch:
    """One transaction's worth of new entries."""

    def __init__(self, session: Session, memory: _Memory, keep_content: bool) -> None:
        self.session = session
        self.keep_content = keep_content
        head = session.one("head")
        assert head is not None
        self.seq, self.run, self.content, pack, epoch = head
        memory.trust(epoch)
        self.memory = memory
        self.known_runs: dict[str, int] = {}
        self.known_nodes: set[Hash] = set()
        self.known_contents: dict[Hash, _Content] = {}
        self.records = Packer(pack + 1, RECORD_BYTES)
        self.rows: list[Any] = []
        self.new_contents: dict[int, list[Any]] = {}
        self.content_refs: dict[int, int] = {}
        self.new_nodes: dict[Hash, list[Any]] = {}
        self.node_refs: dict[Hash, int] = {}
        self.items: list[tuple[_Content, bytes]] = []
        self.shared: list[tuple[int, int]] = []
        self.tool_calls: list[Any] = []
        self.sums: dict[str, records.RunSums] = {}
        self.fresh: set[str] = set()

    def write(self, entries: list[Entry], encoded: dict[str, bytes]) -> None:
        """Fill the tables; the order of statements is the order of their references."""
        self._find_runs(entries)
        self._find_nodes(entries)
        self._find_contents(entries)
        for entry in entries:
            self._add(entry, encoded[entry.interaction.id])
        session = self.session
        next_pack = self._write_contents(self.records.flush())
        session.write_rows("add_packs", self.records.rows)
        session.write_rows("add_nodes", [v for row in self.new_nodes.values() for v in row])
        session.write_rows("add_node_refs", _flat(self.node_refs))
        session.write_rows("add_interactions", self.rows)
        session.write_rows("add_tool_calls", self.tool_calls)
        session.write_rows("add_shared", [v for pair in dict.fromkeys(self.shared) for v in pair])
        flat: list[Any] = []
        for name, sums in self.sums.items():
            flat += sums.row(self.known_runs[name], name)
        session.write_rows("upsert_runs", flat)
        session.run("set_head", (self.seq, self.run, self.content, next_pack - 1))

    # -- what is there already --

    def _find_runs(self, entries: list[Entry]) -> None:
        known = self.known_runs
        unknown: dict[str, None] = {}
        for entry in entries:
            name = entry.interaction.run_id
            if name not in known:
                key = self.memory.runs.get(name)
                if key is None:
                    unknown[name] = None
                else:
                    known[name] = key
        known.update(self.session.listed("run_keys", list(unknown)))
        for name in unknown:
            if name not in known:
                self.run += 1
                known[name] = self.run
                self.fresh.add(name)
            self.memory.runs.put(name, known[name])

    def _find_nodes(self, entries: list[Entry]) -> None:
        known = self.known_nodes
        unknown: dict[Hash, None] = {}
        for entry in entries:
            at = _asked_count(entry)
            if not at and entry.interaction.input_node is not None:
                unknown[entry.interaction.input_node] = None
            while at:
                at -= 1
                value = entry.nodes[at].hash
                if value in unknown or value in known:
                    break
                if self.memory.nodes.get(value):
                    known.add(value)
                    break
                unknown[value] = None
        for (found,) in self.session.listed("existing_nodes", list(unknown)):
            known.add(found)
            self.memory.nodes.put(found, True)

    def _find_contents(self, entries: list[Entry]) -> None:
        known = self.known_contents
        unknown: dict[Hash, None] = {}
        walked = set(self.known_nodes)
        first = set(self.fresh)
        for entry in entries:
            run = entry.interaction.run_id
            for value in self._needed(entry, walked, whole=run in first):
                if value not in known:
                    content = self.memory.contents.get(value)
                    if content is None:
                        unknown[value] = None
                    else:
                        known[value] = content
            first.discard(run)
        for value, number, filled, run_key in self.session.listed("content_ids", list(unknown)):
            known[value] = _Content(number, run_key, bool(filled))
            self.memory.contents.put(value, known[value])

    def _needed(self, entry: Entry, walked: set[Hash], *, whole: bool) -> list[Hash]:
        """Contents whose number this entry will ask for: of a run's first entry all of them."""
        one = entry.interaction
        needed = [h for h in (one.params, one.request_body, one.response_body) if h]
        nodes = entry.nodes
        oldest_new = 0 if whole else _asked_count(entry) - one.new_messages
        for at in range(len(nodes) - 1, -1, -1):
            node = nodes[at]
            if at < oldest_new and node.hash in walked:
                break
            walked.add(node.hash)
            needed.append(node.content)
        return needed

    # -- one entry --

    def _add(self, entry: Entry, record: bytes) -> None:
        one = entry.interaction
        run = self.known_runs[one.run_id]
        self.seq += 1
        sums = self.sums.get(one.run_id)
        if sums is None:
            sums = self.sums[one.run_id] = records.RunSums(one)
        if not sums.title and entry.input and self.keep_content:
            sums.title = self._title(entry.input)
        sums.add(one)
        answer = self._add_messages(entry, run) if entry.nodes else None
        if one.params is not None or one.request_body is not None or one.response_body is not None:
            self._add_blobs(entry, run)
        asked = one.input_node
        if asked is not None:
            if asked in self.known_nodes:
                self._refer(asked)
            else:
                asked = None
        usage = one.usage
        self.rows += (
            self.seq,
            one.id,
            run,
            records.kind_of(one),
            one.started_at,
            one.duration_us,
            one.outcome,
            usage.input_tokens,
            usage.output_tokens,
            one.cost_nano_usd,
            one.tool_calls,
            asked,
            answer,
            one.output_node,
            *self.records.add(record),
            records.digest(record),
        )
        if entry.output is not None and entry.output.calls:
            for call in entry.output.calls:
                self.tool_calls += (records.call_number(call.id), self.seq)

    def _title(self, messages: tuple[Message, ...]) -> str:
        """A run's title, remembered by message: many runs begin alike."""
        for message in messages:
            if message.role == "user":
                break
        else:
            return ""
        title = self.memory.titles.get(message.hash)
        if title is None:
            title = records.title_of(message)
            self.memory.titles.put(message.hash, title)
        return title

    def _refer(self, node: Hash) -> None:
        row = self.new_nodes.get(node)
        if row is not None:
            row[3] += 1
        else:
            self.node_refs[node] = self.node_refs.get(node, 0) + 1

    def _add_messages(self, entry: Entry, run: int) -> int | None:
        """Add what is new of the history and of the answer; returns the answer's number."""
        nodes = entry.nodes
        count = first = _asked_count(entry)
        while first and nodes[first - 1].hash not in self.known_nodes:
            first -= 1
        messages = entry.input
        for at in range(first, count):
            self._add_node(nodes[at], messages[at].raw if at < len(messages) else None, run)
        linked = max(0, count - entry.interaction.new_messages)
        if entry.interaction.run_id in self.fresh:
            self.fresh.discard(entry.interaction.run_id)
            linked = 0
        for at in range(linked, first):
            content = self.known_contents.get(nodes[at].content)
            if content is not None and content.run != run:
                self.shared.append((content.id, run))
        if count == len(nodes):
            return None
        output = entry.output
        raw = None if output is None else output.raw
        return self._refer_content(nodes[count].content, raw, run, blob=0).id

    def _add_node(self, node: Node, raw: bytes | None, run: int) -> None:
        content = self._refer_content(node.content, raw, run, blob=0)
        self.new_nodes[node.hash] = [node.hash, node.parent, content.id, 0]
        if node.parent != ROOT:
            self._refer(node.parent)
        self.known_nodes.add(node.hash)
        self.memory.nodes.put(node.hash, True)

    def _add_blobs(self, entry: Entry, run: int) -> None:
        one = entry.interaction
        datas = {blob.hash: blob.data for blob in entry.blobs}
        for value in (one.params, one.request_body, one.response_body):
            if value is not None:
                self._refer_content(value, datas.get(value), run, blob=1)

    def _refer_content(self, value: Hash, data: bytes | None, run: int, *, blob: int) -> _Content:
        """The content of this hash with one more reference, added if it is new."""
        content = self.known_contents.get(value)
        if content is None:
            self.content += 1
            content = _Content(self.content, run, filled=False)
            self.known_contents[value] = content
            self.memory.contents.put(value, content)
            self.new_contents[content.id] = [content.id, value, blob, run, 1, None, 0, 0]
        else:
            row = self.new_contents.get(content.id)
            if row is not None:
                row[4] += 1
            else:
                self.content_refs[content.id] = self.content_refs.get(content.id, 0) + 1
            if content.run != run and not blob:
                self.shared.append((content.id, run))
        if not content.filled and data is not None and self.keep_content:
            content.filled = True
            self.items.append((content, data))
        return content

    def _write_contents(self, first_pack: int) -> int:
        packer = Packer(first_pack, CONTENT_BYTES)
        fills = []
        for content, data in self.items:
            place = packer.add(data)
            row = self.new_contents.get(content.id)
            if row is not None:
                row[5:] = place
            else:
                fills.append((*place, content.id))
        next_pack = packer.flush()
        self.session.write_rows("add_packs", packer.rows)
        self.session.write_rows(
            "add_contents", [v for row in self.new_contents.values() for v in row]
        )
        for fill in fills:
            self.session.run("fill_content", fill)
        self.session.write_rows("add_content_refs", _flat(self.content_refs))
        return next_pack


def _flat(counts: dict[Any, int]) -> list[Any]:
    return [value for pair in counts.items() for value in pair]


def _asked_count(entry: Entry) -> int:
    """How many of the entry's nodes are the history that was sent: all but the answer's."""
    nodes = entry.nodes
    if nodes and nodes[-1].hash == entry.interaction.output_node:
        return len(nodes) - 1
    return len(nodes)
