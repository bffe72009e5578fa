"""OpenTelemetry traces in: every span about a model, a tool or an agent becomes an interaction.

Dialects: OpenTelemetry GenAI up to 1.36, 1.37 to 1.41 and 0.1.0 of the GenAI conventions' own
repository, OpenInference, OpenLLMetry. ``docs/opentelemetry.md`` has the table of what becomes
what. Spans about anything else (HTTP, databases) are counted and left out; the spans below them
are tied to the nearest span above that is kept, as far as the same request holds it.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from tocsin.core.ids import derived_id
from tocsin.core.interaction import SPAN_OPERATIONS, CostSource, Entry, Operation, Usage
from tocsin.core.messages import chain
from tocsin.importers import otlp_fields as fields
from tocsin.importers.build import Histories, call_entry, step_entry, to_message, to_messages
from tocsin.importers.otlp_messages import said
from tocsin.importers.otlp_wire import (
    MAX_SPANS,
    Export,
    ExportError,
    WireSpan,
    decode_export,
    encode_failure,
    encode_reply,
)

Price = Callable[[str, str, Usage], tuple[int | None, CostSource]]
"""(provider, model, usage) → (nano US dollars or ``None``, where the price comes from)."""

_MAX_HOPS = 256
_STEPS = SPAN_OPERATIONS | {"embeddings"}
"""Operations that have an input and an output, but no conversation."""


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the spans of one request."""

    entries: list[Entry]
    """In the order in which their spans began."""
    skipped: int
    """Spans that are about neither a model nor a tool nor an agent."""
    reasons: dict[str, int]
    """Spans that could not be taken, by reason."""

    @property
    def rejected(self) -> int:
        """How many spans could not be taken."""
        return sum(self.reasons.values())

    @property
    def reason(self) -> str:
        """The reasons in words, for ``partialSuccess``; empty when nothing was rejected."""
        return "; ".join(f"{count} spans: {reason}" for reason, count in self.reasons.items())


class Converter:
    """Spans → entries. Owns the histories of late, which tell what each call adds.

    One for a process or for a file; any thread may use it. ``price`` prices calls that report
    their usage.
    """

    def __init__(self, *, price: Price | None = None, histories: Histories | None = None) -> None:
        self._price = price
        self._histories = histories or Histories()

    def convert(
        self,
        export: Export,
        *,
        feature_default: str = "default",
        key_id: str | None = None,
        allow: Callable[[str], bool] | None = None,
        received_at: int = 0,
    ) -> Batch:
        """The entries of one request. Never raises: what cannot be taken is counted.

        ``allow`` says whether the sender may write to a feature; a span that names another one is
        rejected. ``received_at`` (microseconds since the epoch) stands in for the time of a span
        that has none; such an entry has the attribute ``time: unknown``.
        """
        reasons: Counter[str] = Counter()
        kept: list[tuple[WireSpan, Operation]] = []
        parents: dict[str, str] = {}
        skipped = 0
        for number, span in enumerate(export.spans()):
            if span.fault or number >= MAX_SPANS:
                reasons[span.fault or f"more than {MAX_SPANS} spans in one request"] += 1
                continue
            operation = fields.operation_of(span.attributes)
            if operation is None:
                skipped += 1
                parents[span.trace_id + span.span_id] = span.parent_id
            else:
                kept.append((span, operation))
        kept.sort(key=lambda item: item[0].start_ns)
        entries: list[Entry] = []
        for span, operation in kept:
            feature = fields.feature(span) or feature_default
            if allow is not None and not allow(feature):
                reasons["this key may not write to the feature that the span names"] += 1
                continue
            found: dict[str, Any] = {"feature": feature, "key_id": key_id}
            if parent := _bridged(span, parents):
                found["parent_id"] = derived_id("call", span.trace_id, parent)
            entries.append(self._entry(span, operation, found, received_at))
        return Batch(entries=entries, skipped=skipped, reasons=dict(reasons))

    def _entry(
        self, span: WireSpan, operation: Operation, found: dict[str, Any], received_at: int
    ) -> Entry:
        facts = fields.sort(span)
        found.update(fields.common(span, operation, facts, received_at))
        if operation in _STEPS and not fields.has_messages(span):
            return self._step(span, operation, facts, found)
        return self._call(span, operation, facts, found)

    def _call(
        self, span: WireSpan, operation: Operation, facts: fields.Facts, found: dict[str, Any]
    ) -> Entry:
        """A call of a model, or a step that tells its messages."""
        told = said(span)
        history = to_messages(told.input)
        nodes = chain(history)
        output = to_message(told.output[0]) if told.output else None
        fields.answer(span, operation, facts, told, output, found)
        self._priced(operation, found)
        entry = call_entry(
            found,
            history=history,
            output=output,
            params=fields.params(span, facts),
            known=self._histories.continued(nodes),
            nodes=nodes,
        )
        if output is not None:
            self._histories.ended(entry.nodes[-1].hash, found["run_id"])
        return entry

    def _step(
        self, span: WireSpan, operation: Operation, facts: fields.Facts, found: dict[str, Any]
    ) -> Entry:
        fields.ended(span, facts, found)
        if operation not in SPAN_OPERATIONS:
            found["usage"] = fields.usage_of(facts.fields)
            self._priced(operation, found)
        return step_entry(found, *fields.bodies(span, facts))

    def _priced(self, operation: Operation, found: dict[str, Any]) -> None:
        if self._price is None or operation in SPAN_OPERATIONS:
            return
        usage: Usage = found["usage"]
        model = found.get("response_model") or found["request_model"]
        if model and usage.source != "unknown":
            cost, source = self._price(found.get("provider") or "", model, usage)
            found["cost_nano_usd"], found["cost_source"] = cost, source


def _bridged(span: WireSpan, skipped: dict[str, str]) -> str:
    """The id of the nearest span above that is kept; empty when there is none."""
    parent = span.parent_id
    for _ in range(_MAX_HOPS):
        above = skipped.get(span.trace_id + parent)
        if above is None:
            return parent
        parent = above
    return ""


def entries(export: Export, *, feature_default: str = "default", received_at: int = 0) -> Batch:
    """The entries of one request on its own: ``Converter.convert`` without memory or prices."""
    return Converter().convert(export, feature_default=feature_default, received_at=received_at)


__all__ = [
    "Batch",
    "Converter",
    "Export",
    "ExportError",
    "Price",
    "decode_export",
    "encode_failure",
    "encode_reply",
    "entries",
]
