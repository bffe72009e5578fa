"""The tables of the gateway benchmark. Ratios and differences are taken inside each round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from harness.load import CHUNKS
from harness.tables import Table, median, ratio, shown, times

Row = Mapping[str, Any]
Reading = Callable[[Row], float | None]


def line(row: Row) -> str:
    """One finished cell in one line, for the reader who follows a run."""
    head = f"r{row['round']:<3}{row['shape']:<11}{row['target']:<11}"
    if "error" in row:
        return f"{head} {row['error']}"
    return (
        f"{head}{row['rps']:10.1f} rps  p50 {_latency('p50')(row) or 0:8.2f}"
        f"  p99 {_latency('p99')(row) or 0:8.2f} ms"
        f"  {row.get('cpu_us_per_request', 0):8.1f} us/request"
        f"  foreign {row['foreign_cores']:.2f}  errors {_errors(row)}"
    )


def _of(name: str) -> Reading:
    return lambda row: row.get(name)


def _latency(which: str, group: str = "lat_ms") -> Reading:
    """A percentile; the load generator prints -1 where it saw nothing."""

    def read(row: Row) -> float | None:
        value = row.get(group, {}).get(which, -1)
        return value if value >= 0 else None

    return read


def _errors(row: Row) -> int:
    """Requests that failed, were cut off, or were never sent or answered in the time given."""
    parts = ("err_status", "err_conn", "err_incomplete", "in_flight_at_end", "unsent")
    return sum(int(row.get(x, 0)) for x in parts)


def _delivered(row: Row) -> float | None:
    """Events that arrived over events that the upstream sent, for the streams that ended."""
    return ratio(row.get("events"), row.get("ok", 0) * (CHUNKS + 1))


class Cells:
    """All rounds of one shape."""

    def __init__(self, rows: Sequence[Row], base: str) -> None:
        self.by = {(r["target"], r["round"]): r for r in rows}
        self.names = list(dict.fromkeys(r["target"] for r in rows))
        self.base = base

    def rounds(self, name: str) -> list[Row]:
        return [r for (target, _), r in self.by.items() if target == name and "error" not in r]

    def middle(self, name: str, read: Reading) -> float | None:
        """The median over rounds."""
        return median(read(r) for r in self.rounds(name))

    def over_base(self, name: str, read: Reading) -> float | None:
        """The median over rounds of target / base."""
        pairs = ((r, self.by.get((self.base, r["round"]), {})) for r in self.rounds(name))
        return median(ratio(read(a), read(b)) for a, b in pairs)

    def over_direct(self, name: str, read: Reading) -> float | None:
        """The median over rounds of target - direct."""
        found = []
        for row in self.rounds(name):
            mine, bare = read(row), read(self.by.get(("direct", row["round"]), {}))
            if mine is not None and bare is not None:
                found.append(mine - bare)
        return median(found)

    def errors(self, name: str) -> str:
        broken = [r["error"] for (t, _), r in self.by.items() if t == name and "error" in r]
        return broken[0] if broken else str(sum(_errors(r) for r in self.rounds(name)))


def _plain(title: str, cells: Cells) -> Table:
    cpu, rps = _of("cpu_us_per_request"), _of("rps")
    p50, p99 = _latency("p50"), _latency("p99")
    rows = tuple(
        (
            name,
            times(cells.over_base(name, cpu)),
            times(cells.over_base(name, rps)),
            shown(cells.middle(name, cpu), 1),
            shown(cells.middle(name, rps), 0),
            shown(cells.over_direct(name, p50)),
            shown(cells.over_direct(name, p99)),
            shown(cells.middle(name, p50)),
            shown(cells.middle(name, p99)),
            cells.errors(name),
            shown(cells.middle(name, _of("foreign_cores"))),
        )
        for name in cells.names
    )
    base = cells.base
    columns: tuple[str, ...] = ("target", f"CPU / {base}", f"rps / {base}", "CPU us/request", "rps")
    columns += ("added p50 ms", "added p99 ms", "p50 ms", "p99 ms", "errors", "foreign cores")
    return Table(title=title, columns=columns, rows=rows)


def _open(title: str, cells: Cells) -> Table:
    cpu, p50, p99 = _of("cpu_us_per_request"), _latency("p50"), _latency("p99")
    rows = tuple(
        (
            name,
            shown(cells.over_direct(name, p50)),
            shown(cells.over_direct(name, p99)),
            shown(cells.middle(name, p50)),
            shown(cells.middle(name, p99)),
            times(cells.over_base(name, cpu)),
            shown(cells.middle(name, cpu), 1),
            cells.errors(name),
        )
        for name in cells.names
    )
    columns: tuple[str, ...] = ("target", "added p50 ms", "added p99 ms", "p50 ms", "p99 ms")
    columns += (f"CPU / {cells.base}", "CPU us/request", "errors")
    note = "Latency counts from when a request was due; errors include what was never answered."
    return Table(title=title, columns=columns, rows=rows, note=note)


def _stream(title: str, cells: Cells) -> Table:
    cpu = _of("cpu_us_per_event")
    first50, first99 = _latency("p50", "ttfc_ms"), _latency("p99", "ttfc_ms")
    rows = tuple(
        (
            name,
            times(cells.over_base(name, cpu)),
            shown(cells.middle(name, cpu), 1),
            shown(cells.over_direct(name, first50)),
            shown(cells.over_direct(name, first99)),
            shown(cells.middle(name, first50)),
            shown(cells.middle(name, _latency("p99", "gap_ms"))),
            shown(_percent(cells.middle(name, _delivered)), 1, " %"),
            shown(cells.over_base(name, _of("events_per_s"))),
            cells.errors(name),
        )
        for name in cells.names
    )
    columns: tuple[str, ...] = (
        "target",
        f"CPU / {cells.base}",
        "CPU us/event",
        "first chunk added p50 ms",
    )
    columns += ("added p99 ms", "first chunk p50 ms", "gap p99 ms", "delivered")
    columns += (f"events/s / {cells.base}", "errors")
    note = "More than 100 % delivered: the target adds events of its own."
    return Table(title=title, columns=columns, rows=rows, note=note)


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _memory(rows: Sequence[Row], base: str) -> Table:
    known = {r["target"]: r for r in rows}
    reference = known.get(base, {})
    lines = tuple(
        (
            name,
            times(ratio(row.get("start_mb"), reference.get("start_mb"))),
            shown(row.get("first_200_s"), 2),
            shown(row.get("start_mb"), 1),
            shown(row.get("after_20000_mb"), 1),
            shown(row.get("after_200000_mb"), 1),
            shown(row.get("end_mb"), 1),
            shown(row.get("requests"), 0),
        )
        for name, row in known.items()
        if name != "direct"
    )
    columns: tuple[str, ...] = (
        "target",
        f"start / {base}",
        "start to first 200, s",
        "MiB at start",
    )
    columns += ("after 20,000", "after 200,000", "at the end", "requests sent")
    note = "PSS of the process tree. 'At the end' stands where the time ran out before a mark."
    return Table(title="Memory and start", columns=columns, rows=lines, note=note)


def _title(shape: str) -> str:
    kind, number = shape.split("-")
    if kind == "plain":
        return f"Plain requests, closed loop, connections: {number}"
    if kind == "open":
        return f"Open loop, {number} requests/s, 64 connections, upstream answers after 50 ms"
    return f"{number} streams at once, {CHUNKS} events each, 10 ms apart, first after 20 ms"


def tables(rows: Sequence[Row], absent: Mapping[str, str], base: str) -> Iterator[Table]:
    """All tables that the rows allow, most important first."""
    measured = list(dict.fromkeys(r["target"] for r in rows if r["target"] != "direct"))
    if base not in measured and measured:
        base = measured[0]
    cells = [r for r in rows if r["kind"] == "cell"]
    for shape in dict.fromkeys(r["shape"] for r in cells):
        these = Cells([r for r in cells if r["shape"] == shape], base)
        make = {"plain": _plain, "open": _open, "stream": _stream}[shape.split("-")[0]]
        yield make(_title(shape), these)
    if memory := [r for r in rows if r["kind"] == "memory"]:
        yield _memory(memory, base)
    if records := [r for r in rows if r["kind"] == "records"]:
        lines = tuple((r["target"], f"{r['sent']:,}", shown(r["recorded"], 0)) for r in records)
        columns: tuple[str, ...] = ("target", "requests sent", "interactions recorded")
        yield Table(title="Every call recorded once", columns=columns, rows=lines)
    if absent:
        reasons = tuple((name, why) for name, why in absent.items())
        yield Table(title="Not measured", columns=("target", "why"), rows=reasons)
