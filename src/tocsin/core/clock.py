"""Time, as the product sees it: a value that tests can script."""

import time
from typing import Protocol


class Clock(Protocol):
    """Where every timestamp and duration comes from."""

    def now_us(self) -> int:
        """Wall-clock time in microseconds since the Unix epoch."""
        ...

    def monotonic_us(self) -> int:
        """Microseconds of a clock that never goes back; only differences mean anything."""
        ...


class SystemClock:
    """The machine's own clocks."""

    __slots__ = ()

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic_us(self) -> int:
        return time.monotonic_ns() // 1000
