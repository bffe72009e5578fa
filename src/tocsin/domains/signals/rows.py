"""What a feature remembers of single calls: to name slices and examples once something changed."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from zlib import crc32

import msgspec

RECENT = 400
"""Latest calls of a feature that are remembered one by one."""
OLDER = 200
"""Calls from all the time before that are remembered, each as likely as any other."""


class Row(msgspec.Struct, array_like=True):
    """One call: its id, when it ended, its slices, and outer values by signal."""

    id: str
    at: int
    slices: dict[str, str]
    values: dict[str, float]


class Rows:
    """The latest calls, and a fair sample of those before."""

    __slots__ = ("_count", "_older", "_recent")

    def __init__(self) -> None:
        self._recent: OrderedDict[str, Row] = OrderedDict()
        self._older: list[Row] = []
        self._count = 0

    def put(self, id: str, at: int, slices: Mapping[str, str], values: dict[str, float]) -> None:  # noqa: A002
        """Remember a call; what is said of it later is added to what is known."""
        row = self._recent.get(id)
        if row is not None:
            row.values.update(values)
            row.slices.update(slices)
            return
        self._recent[id] = Row(id, at, dict(slices), values)
        if len(self._recent) > RECENT:
            self._age(self._recent.popitem(last=False)[1])

    def _age(self, row: Row) -> None:
        """Reservoir sampling (Vitter, 1985); what decides is the id, so runs can be repeated."""
        self._count += 1
        if len(self._older) < OLDER:
            self._older.append(row)
            return
        place = crc32(row.id.encode()) * self._count >> 32
        if place < OLDER:
            self._older[place] = row

    def __iter__(self) -> Iterator[Row]:
        yield from self._older
        yield from self._recent.values()

    def since(self, at: int) -> Iterator[Row]:
        """The latest calls that ended then or later, oldest first."""
        return (row for row in self._recent.values() if row.at >= at)

    def save(self) -> tuple[int, list[Row], list[Row]]:
        """What ``load`` takes."""
        return self._count, self._older, list(self._recent.values())

    @classmethod
    def load(cls, saved: tuple[int, list[Row], list[Row]]) -> "Rows":
        """Rows as they were when they were saved."""
        made = cls()
        made._count, made._older = saved[0], saved[1]
        made._recent = OrderedDict((row.id, row) for row in saved[2])
        return made


__all__ = ["OLDER", "RECENT", "Row", "Rows"]
