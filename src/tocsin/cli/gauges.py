"""What a scrape of `/metrics` is told of objectives: composed here, of the store and the domain."""

import threading
from collections.abc import Iterator

from tocsin.app import App
from tocsin.domains.signals.objectives import ObjectiveStanding, standings
from tocsin.gateway.metrics import Labels, Metrics

_FRESH_US = 15_000_000
"""Scrapes closer together are told the same: each asks the store several times."""


class ObjectiveGauges:
    """Error budgets and burn rates, from the sums in the store."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._read_at: int | None = None
        self._told: list[ObjectiveStanding] = []

    def add_to(self, metrics: Metrics) -> None:
        """Add the families."""
        metrics.gauges(
            "tocsin_objective_budget_left",
            "Share of the error budget that is left; below 0 when it is overspent.",
            ("objective", "feature"),
            self._left,
        )
        metrics.gauges(
            "tocsin_objective_burn_rate",
            "How many times too fast the error budget burns.",
            ("objective", "feature", "window"),
            self._burning,
        )

    def _left(self) -> Iterator[tuple[Labels, float]]:
        for one in self._standings():
            if one.events:
                yield (one.name, one.feature), one.left

    def _burning(self) -> Iterator[tuple[Labels, float]]:
        for one in self._standings():
            for window, rate in one.burn_rates.items():
                yield (one.name, one.feature, window), rate

    def _standings(self) -> list[ObjectiveStanding]:
        app = self._app
        now = app.clock.monotonic_us()
        with self._lock:
            if self._read_at is None or now - self._read_at > _FRESH_US:
                told, known = app.services.objectives(), app.behaviour.catalogue
                self._told = standings(app.store, told, known, app.clock.now_us())
                self._read_at = now
            return self._told


__all__ = ["ObjectiveGauges"]
