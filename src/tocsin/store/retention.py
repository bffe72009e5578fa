"""Retention and deletion: short transactions with pauses between, so that nobody waits for them."""

import time
from collections.abc import Callable, Iterator

import msgspec

from tocsin.core.interaction import Interaction
from tocsin.store import ledger, operation_care, reading, records, signal_care, supervision
from tocsin.store.api import Swept
from tocsin.store.database import Database, Row, Session
from tocsin.store.packs import Place, read_items
from tocsin.store.removal import Removal, Victim, read_victims

_FOREVER = 1 << 62
_FIRST_SLICE = 64
_SLICE_S = 0.02
_PAUSE_S = 0.005
_SCAN_ROWS = 2000
_SHARED_ROWS = 20_000
NOTHING = Swept(interactions=0, runs=0, contents=0, freed_bytes=0)


def add(one: Swept, other: Swept) -> Swept:
    """Both together."""
    return Swept(
        interactions=one.interactions + other.interactions,
        runs=one.runs + other.runs,
        contents=one.contents + other.contents,
        freed_bytes=one.freed_bytes + other.freed_bytes,
        operations=one.operations + other.operations,
    )


class _Slices:
    """How many rows one transaction may delete, so that it takes about 20 ms."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.size = min(_FIRST_SLICE, most)

    def took(self, seconds: float) -> None:
        if seconds > 2 * _SLICE_S:
            self.size = max(8, self.size // 2)
        elif seconds < _SLICE_S / 2:
            self.size = min(self._most, self.size * 2)
        # Whoever waits for the lock gets it in this pause.
        time.sleep(max(_PAUSE_S, seconds))


class Sweeper:
    """Deletes from one database."""

    def __init__(self, database: Database, segment_bytes: Callable[[], int]) -> None:
        self._database = database
        self._segment_bytes = segment_bytes

    def by_age(self, older_than: int, batch: int) -> Swept:
        """Delete what started before ``older_than``."""
        total = self._oldest(older_than, batch, lambda: True)
        supervision.forget_old(self._database, older_than)
        signal_care.forget_old(self._database, older_than)
        operation_care.forget_old(self._database, older_than)
        return total

    def by_size(self, max_bytes: int, batch: int) -> Swept:
        """Delete the oldest until what lives takes at most ``max_bytes``."""

        def over() -> bool:
            with self._database.read() as session:
                return self._database.used_bytes(session) + self._segment_bytes() > max_bytes

        ended = 0

        def lead(oldest: int) -> bool:
            nonlocal ended
            gone = operation_care.forget_ended(self._database, oldest, over)
            ended += gone
            return gone > 0

        total = self._oldest(_FOREVER, batch, over, lead)
        if total.interactions:
            signal_care.forget_old_as_records(self._database)
        lead(_FOREVER)
        return msgspec.structs.replace(total, operations=ended)

    def _oldest(
        self,
        before: int,
        batch: int,
        needed: Callable[[], bool],
        lead: Callable[[int], bool] = lambda _: False,
    ) -> Swept:
        """Delete the oldest interactions while it is needed; ``lead`` deletes what is older than
        the oldest of them, and says whether there was any."""
        total = NOTHING
        slices = _Slices(batch)
        with self._database.read() as session:
            head = session.one("head")
        last_seq = head[0] if head else 0
        while needed():
            with self._database.read() as session:
                rows = session.all("oldest", (before, last_seq, slices.size))
                victims = read_victims(session, [(r[0], *r[2:]) for r in rows])
            if not victims:
                break
            if lead(rows[0][1]):
                continue
            edge = (rows[-1][1], rows[-1][0] + 1)
            with self._database.write() as session:
                started = time.perf_counter()
                total = add(total, Removal(self._database, session).delete(victims))
                _note_edge(session, last_seq, edge)
            slices.took(time.perf_counter() - started)
        return total

    def tidy_shared(self) -> None:
        """Take out what is left of deleted runs in the table of shared content."""
        edge = (0, 0)
        while True:
            with self._database.write() as session:
                started = time.perf_counter()
                row = session.one("shared_edge", (*edge, _SHARED_ROWS))
                end = (_FOREVER, 0) if row is None else (row[0], row[1])
                session.run("delete_shared_of_no_run", (*edge, *end))
                seconds = time.perf_counter() - started
            if row is None:
                return
            edge = end
            time.sleep(max(_PAUSE_S, seconds))

    def end_user(self, end_user: str, batch: int) -> Swept:
        """Delete every interaction and operation of one end user."""
        total = NOTHING
        slices = _Slices(batch)
        waiting: list[Row] = []
        for found in self._rows_of(end_user):
            waiting += found
            while waiting:
                part, waiting = waiting[: slices.size], waiting[slices.size :]
                with self._database.read() as session:
                    victims = read_victims(session, part)
                with self._database.write() as session:
                    started = time.perf_counter()
                    total = add(total, self._delete_user_slice(session, victims))
                slices.took(time.perf_counter() - started)
        with self._database.write() as session:
            supervision.forget_name(session, end_user)
            ledger.forget_end_user(session, end_user)
            signal_care.forget_name(session, end_user)
        operations = operation_care.forget_end_user(self._database, end_user)
        return add(total, msgspec.structs.replace(NOTHING, operations=operations))

    def _delete_user_slice(self, session: Session, victims: list[Victim]) -> Swept:
        removal = Removal(self._database, session)
        swept = removal.delete(victims)
        for key in removal.survivors:
            _refresh_identity(session, key)
        supervision.forget_keys(session, removal.survivors)
        records_gone = [victim.record for victim in victims]
        operation_care.forget_calls(
            session,
            [record.id for record in records_gone],
            list({record.run_id for record in records_gone}),
        )
        seqs = msgspec.json.encode([victim.seq for victim in victims]).decode()
        session.run("add_purge", (_FOREVER, 0, 0, seqs))
        return swept

    def _rows_of(self, end_user: str) -> Iterator[list[Row]]:
        """(seq, place) rows of an end user's records, found by reading them all."""
        seq = 0
        while True:
            with self._database.read() as session:
                rows = session.all("places_after", (seq, _FOREVER, _SCAN_ROWS))
                if not rows:
                    return
                seq = rows[-1][0]
                places: dict[Place, int] = {(r[2], r[3], r[4]): r[0] for r in rows}
                needle = end_user.encode()
                items = read_items(session, list(places), containing=needle)
            yield [
                (places[place], *place)
                for place, item in items.items()
                if needle in item and reading.decode(item).end_user == end_user
            ]


def _note_edge(session: Session, last_seq: int, edge: tuple[int, int]) -> None:
    """Tell segments up to where records are gone, in the transaction that deletes them."""
    session.run("add_purge", (last_seq, *edge, "[]"))
    session.run("drop_covered_purges", (last_seq, *edge))


def _refresh_identity(session: Session, key: int) -> None:
    """Say whose a run is from the interactions that are left."""
    sums: records.RunSums | None = None
    title = ""
    rows = session.all("run_places", (key,))
    for at in range(0, len(rows), _SCAN_ROWS):
        for victim in read_victims(session, rows[at : at + _SCAN_ROWS]):
            if sums is None:
                title = _title(session, victim.record)
                sums = records.RunSums(victim.record)
            sums.add(victim.record)
    if sums is not None:
        session.run(
            "set_identity",
            (
                title,
                sums.feature,
                sums.source,
                sums.end_user,
                sums.key_id,
                sums.release,
                sums.conversation_id,
                sums.agent,
                key,
            ),
        )


def _title(session: Session, first: Interaction) -> str:
    if first.input_node is None:
        return ""
    _, messages = reading.history(session, first.input_node, None)
    user = next((message for message in messages if message.role == "user"), None)
    return "" if user is None else records.title_of(user)
