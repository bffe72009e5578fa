"""``Pricer``: what a call cost, in integer nano US dollars, or that nobody knows.

Prices come from ``genai-prices``, from the list inside the installed package: the package's own
updater is never started, so nothing here touches a network. The list costs some 250 ms and 25 MB
to load, so it is loaded at the first use, or by ``warm`` in a thread.
"""

import re
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from tocsin.config.model import Price
from tocsin.core.interaction import CostSource, Usage

MAX_REMEMBERED = 4096

_FEMTO_PER_NANO = 1_000_000
_NANO_PER_USD = 1_000_000_000

Cost = tuple[int | None, CostSource]
_UNKNOWN: Cost = (None, "unknown")

# OpenTelemetry's provider names (and older ones) to those of the price list.
_IDS = {
    "mistral_ai": "mistral",
    "x_ai": "x-ai",
    "xai": "x-ai",
    "gcp.gemini": "google",
    "gcp.gen_ai": "google",
    "gcp.vertex_ai": "google",
    "gemini": "google",
    "vertex_ai": "google",
    "azure.ai.openai": "azure",
    "azure.ai.inference": "azure",
    "az.ai.openai": "azure",
    "az.ai.inference": "azure",
    "aws.bedrock": "aws",
    "aws_bedrock": "aws",
    "bedrock": "aws",
}
_UNPRICED = frozenset({"local", "replay"})
"""Providers whose answers cost nobody anything that a list could know."""

# Who makes a model that only its maker (or a reseller at its price) sells. Open weights are not
# here: what they cost is up to whoever runs them.
_MAKERS = (
    (re.compile(r"(?:gpt-(?!oss)|chatgpt-|o[1-9](?:-|\Z)|text-embedding-|ft:gpt-)"), "openai"),
    (re.compile(r"claude"), "anthropic"),
    (re.compile(r"gemini"), "google"),
    (re.compile(r"grok-"), "x-ai"),
)


class _Rates(msgspec.Struct, frozen=True):
    """Femto US dollars (1e-15) per token, exact integers, up to ``valid_to`` input tokens."""

    fresh: int
    output: int
    cache_read: int
    cache_write: int
    source: CostSource
    valid_to: int | None = None
    dearer: Callable[[Usage, int], Cost] | None = None
    """The price beyond ``valid_to``."""


_Priced = Callable[[Usage, int], Cost]


class Pricer:
    """Cost of a usage: ``pricer(provider, model, usage, at_us)`` → (nano US dollars, source).

    ``provider`` is the attempt's provider (``openai``), ``at_us`` when the call was made
    (microseconds since the epoch). Overrides are by model name, by ``provider/model``, or a
    glob of either; they win over the list. A model that is in neither is ``(None, "unknown")``:
    an unknown price is never zero. May be called from any thread.
    """

    __slots__ = ("_load_lock", "_snapshot", "_state")

    def __init__(self, overrides: Mapping[str, Price] | None = None) -> None:
        self._load_lock = threading.Lock()
        self._snapshot: Any = None
        self._state = _State(dict(overrides or {}))

    def configure(self, overrides: Mapping[str, Price]) -> None:
        """Take over other overrides."""
        self._state = _State(dict(overrides))

    def __call__(self, provider: str, model: str, usage: Usage, at_us: int) -> Cost:
        known = self._state.known.get((provider, model))
        if known is None:
            known = self._learn(provider, model)
        if type(known) is not _Rates:
            return _UNKNOWN if known is _NOTHING else known(usage, at_us)  # type: ignore[operator]
        asked, answered = usage.input_tokens, usage.output_tokens
        if asked is None and answered is None:
            return _UNKNOWN
        total = asked or 0
        if known.valid_to is not None and total > known.valid_to and known.dearer is not None:
            return known.dearer(usage, at_us)
        read, written = usage.cache_read_tokens or 0, usage.cache_write_tokens or 0
        fresh = total - read - written
        femto = (
            (fresh if fresh > 0 else 0) * known.fresh
            + (answered or 0) * known.output
            + read * known.cache_read
            + written * known.cache_write
        )
        return (femto + _FEMTO_PER_NANO // 2) // _FEMTO_PER_NANO, known.source

    def worst(
        self, provider: str, model: str, input_tokens: int, output_tokens: int, at_us: int
    ) -> int | None:
        """The most that so many tokens can cost (nano US dollars), however much of the input is
        written to a cache or read from one; ``None`` when the price is unknown."""
        known = self._state.known.get((provider, model))
        if known is None:
            known = self._learn(provider, model)
        if type(known) is _Rates and (known.valid_to is None or input_tokens <= known.valid_to):
            dearest = max(known.fresh, known.cache_read, known.cache_write)
            femto = input_tokens * dearest + output_tokens * known.output
            return -(-femto // _FEMTO_PER_NANO)
        plain = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
        written = msgspec.structs.replace(plain, cache_write_tokens=input_tokens)
        read = msgspec.structs.replace(plain, cache_read_tokens=input_tokens)
        costs = [self(provider, model, usage, at_us)[0] for usage in (plain, written, read)]
        return max((cost for cost in costs if cost is not None), default=None)

    @property
    def loaded(self) -> bool:
        """Whether the price list is in memory: if not, the first question takes 250 ms."""
        return self._snapshot is not None

    def warm(self) -> None:
        """Load the price list. Blocks for some 250 ms the first time: run it in a thread."""
        self._prices()

    def _prices(self) -> Any:
        """The list's snapshot."""
        if self._snapshot is None:
            with self._load_lock:
                if self._snapshot is None:
                    # Heavy (a list of some 2,000 models), and not needed to serve a call.
                    from genai_prices import data_snapshot

                    self._snapshot = data_snapshot.get_snapshot()
        return self._snapshot

    def _learn(self, provider: str, model: str) -> "_Rates | _Priced | object":
        state = self._state
        override = _override(state.overrides, provider, model)
        known = override if override is not None else self._listed(provider, model)
        if len(state.known) >= MAX_REMEMBERED:  # model names come from callers
            state.known.clear()
        state.known[provider, model] = known
        return known

    def _listed(self, provider: str, model: str) -> "_Rates | _Priced | object":
        if not model or provider in _UNPRICED:
            return _NOTHING
        found = self._find(provider, model)
        if found is None:
            return _NOTHING
        seller, info = found
        exact = _Exact(seller, info)
        if isinstance(info.prices, list):
            return exact  # it depends on the time
        rates = _rates(info.prices, exact)
        return exact if rates is None else rates

    def _find(self, provider: str, model: str) -> tuple[Any, Any] | None:
        """Seller and model in the list; by the model's maker where the seller is not listed."""
        prices = self._prices()
        name = provider.lower()
        # By id alone: the list would take any name that contains a provider's for that provider.
        sellers = {seller.id for seller in prices.providers}
        candidates = [(_IDS.get(name, name), model)]
        bare = model.lower().rpartition("/")[2]
        candidates += [(maker, bare) for pattern, maker in _MAKERS if pattern.match(bare)]
        for seller, reference in candidates:
            if seller not in sellers:
                continue
            try:
                found: tuple[Any, Any] = prices.find_provider_model(reference, None, seller, None)
            except LookupError:
                continue
            return found
        return None


class _State:
    """Overrides and what was worked out with them: replaced together."""

    __slots__ = ("known", "overrides")

    def __init__(self, overrides: dict[str, Price]) -> None:
        self.overrides = overrides
        self.known: dict[tuple[str, str], Any] = {}


_NOTHING = object()
"""Stands for a model without a known price."""


class _Exact:
    """The list's own calculation, for prices that depend on the time or on the amount."""

    __slots__ = ("_model", "_seller")

    def __init__(self, seller: Any, model: Any) -> None:
        self._seller = seller
        self._model = model

    def __call__(self, usage: Usage, at_us: int) -> Cost:
        from genai_prices import Usage as Tokens

        asked, answered = usage.input_tokens, usage.output_tokens
        if asked is None and answered is None:
            return _UNKNOWN
        read, written = usage.cache_read_tokens or 0, usage.cache_write_tokens or 0
        answered = answered or 0
        counts = Tokens(
            # Some upstreams report more cached tokens than input; the list refuses such counts.
            input_tokens=max(asked or 0, read + written),
            output_tokens=answered,
            cache_read_tokens=read,
            cache_write_tokens=written,
            output_reasoning_tokens=min(usage.reasoning_tokens or 0, answered),
        )
        at = datetime.fromtimestamp(at_us / 1_000_000, UTC)
        try:
            found = self._model.calc_price(counts, self._seller, genai_request_timestamp=at)
        except (ValueError, LookupError, ArithmeticError):
            return _UNKNOWN
        return int((found.total_price * _NANO_PER_USD).to_integral_value()), "listed"


_PROBES = (
    Usage(input_tokens=1_000_003, output_tokens=10_007),
    Usage(
        input_tokens=30_011,
        output_tokens=5003,
        cache_read_tokens=7001,
        cache_write_tokens=3001,
        reasoning_tokens=1009,
    ),
)
_PLAIN = frozenset({"input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok"})


def _rates(price: Any, exact: _Exact) -> _Rates | None:
    """A price as per-token rates; ``None`` where rates would not give what the list gives."""
    fields = {key: value for key, value in vars(price).items() if value is not None}
    bases: dict[str, int] = {}
    starts: list[int] = []
    for key in _PLAIN & fields.keys():
        value = fields[key]
        if not isinstance(value, Decimal):
            starts += [tier.start for tier in value.tiers]
            value = value.base
        femto = value * _NANO_PER_USD  # US dollars per million tokens → femto US dollars per token
        if femto != int(femto):
            return None
        bases[key] = int(femto)
    if "input_mtok" not in bases:
        return None
    fresh = bases["input_mtok"]
    rates = _Rates(
        fresh,
        bases.get("output_mtok", 0),
        bases.get("cache_read_mtok", fresh),
        bases.get("cache_write_mtok", fresh),
        "listed",
        min(starts) if starts else None,
        exact if starts else None,
    )
    return rates if _agrees(rates, exact) else None


def _agrees(rates: _Rates, exact: _Exact) -> bool:
    """Whether the rates give the list's own result for a few amounts within their validity."""
    for probe in _PROBES:
        if rates.valid_to is not None and (probe.input_tokens or 0) > rates.valid_to:
            continue
        asked, read, written = (
            probe.input_tokens or 0,
            probe.cache_read_tokens or 0,
            probe.cache_write_tokens or 0,
        )
        femto = (
            (asked - read - written) * rates.fresh
            + (probe.output_tokens or 0) * rates.output
            + read * rates.cache_read
            + written * rates.cache_write
        )
        listed = exact(probe, 1_700_000_000_000_000)[0]
        if listed is None or abs(listed * _FEMTO_PER_NANO - femto) > _FEMTO_PER_NANO:
            return False
    return True


def _override(overrides: Mapping[str, Price], provider: str, model: str) -> _Rates | None:
    for name in (f"{provider}/{model}", model):
        if name in overrides:
            return _own(overrides[name])
    for pattern, price in overrides.items():
        if fnmatchcase(model, pattern) or fnmatchcase(f"{provider}/{model}", pattern):
            return _own(price)
    return None


def _own(price: Price) -> _Rates:
    def femto(value: float | None, default: float) -> int:
        # Through text: 0.1 in the configuration means exactly 0.1 US dollars.
        return round(Decimal(str(default if value is None else value)) * _NANO_PER_USD)

    return _Rates(
        femto(price.input, 0.0),
        femto(price.output, 0.0),
        femto(price.cache_read, price.input),
        femto(price.cache_write, price.input),
        "override",
    )
