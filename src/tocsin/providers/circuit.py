"""``Circuit``: when a failing upstream is left out, and who may try it again."""

import msgspec


class Circuit:
    """Closed, open, half-open. One per upstream; times in microseconds of a monotonic clock.

    ``failures_to_open`` failures in a row open it for ``rest_us``. Then one call at a time may
    probe the upstream: its success closes the circuit, its failure opens it again.
    """

    __slots__ = ("_failures", "_limit", "_open_until", "_probing", "_rest_us")

    def __init__(self, failures_to_open: int, rest_us: int) -> None:
        self._limit = failures_to_open
        self._rest_us = rest_us
        self._failures = 0
        self._open_until: int | None = None
        self._probing = False

    @property
    def closed(self) -> bool:
        """Whether nothing is known against the upstream."""
        return self._open_until is None

    def admits(self, now: int) -> bool:
        """Whether a call may go to the upstream now."""
        return self._open_until is None or (now >= self._open_until and not self._probing)

    def begin(self, now: int) -> None:
        """A call goes there; after the rest, it is the probe."""
        if self._open_until is not None and now >= self._open_until:
            self._probing = True

    def succeeded(self) -> None:
        """The upstream answered."""
        if self._failures or self._open_until is not None:
            self._failures = 0
            self._open_until = None
            self._probing = False

    def failed(self, now: int) -> None:
        """The upstream did not answer, or answered that it cannot."""
        self._failures += 1
        if self._failures >= self._limit or self._open_until is not None:
            self._open_until = now + self._rest_us
            self._probing = False

    def undecided(self) -> None:
        """The call ended before anything was learnt (cancelled): the next one may probe."""
        self._probing = False


class UpstreamStats(msgspec.Struct, kw_only=True):
    """Counts of one upstream since start."""

    attempts: int = 0
    failures: int = 0
    """Attempts without an answer, and answers that say the upstream cannot (408, 429, 5xx)."""
    retries: int = 0
    fallbacks: int = 0
    """Attempts made here because another upstream had failed."""
    broken_streams: int = 0
    """Streams that broke off after they had begun: too late for any fallback."""


class RouterStats:
    """What the router has done, by upstream. Plain counts, for metrics and later signals."""

    __slots__ = ("upstreams",)

    def __init__(self) -> None:
        self.upstreams: dict[str, UpstreamStats] = {}

    def of(self, upstream: str) -> UpstreamStats:
        """The counts of one upstream, made when first asked for."""
        found = self.upstreams.get(upstream)
        if found is None:
            found = self.upstreams[upstream] = UpstreamStats()
        return found
