"""Usage and cost of a record, where the upstream did not state them. Runs in the writer thread."""

from collections.abc import Callable

import msgspec

from tocsin.core.interaction import CostSource, Entry, Interaction, Usage
from tocsin.core.messages import Message
from tocsin.providers.tokens import PER_MESSAGE, text_of_message

Price = Callable[[str, str, Usage, int], tuple[int | None, CostSource]]
"""(provider, model, usage, started_at) → nano US dollars and where the price is from."""
Count = Callable[[str], int]
"""Text → tokens, an estimate."""

_BILLED = frozenset({"chat", "text_completion", "generate_content", "embeddings"})


class Enricher:
    """Fills in an entry's usage (as an estimate, marked) and its cost."""

    def __init__(self, price: Price, count: Count) -> None:
        self._price = price
        self._count = count

    def __call__(self, entry: Entry) -> Entry:
        interaction = entry.interaction
        if interaction.operation not in _BILLED or interaction.cost_nano_usd is not None:
            return entry
        usage = interaction.usage
        if usage.source == "unknown" and _was_billed(interaction):
            usage = self._estimate(entry)
        cost, source = None, interaction.cost_source
        if usage.source != "unknown":
            model = interaction.response_model or interaction.request_model
            cost, source = self._price(
                interaction.provider or "", model, usage, interaction.started_at
            )
            if cost is None and interaction.response_model and interaction.request_model:
                cost, source = self._price(
                    interaction.provider or "",
                    interaction.request_model,
                    usage,
                    interaction.started_at,
                )
        if usage is interaction.usage and cost is None:
            return entry
        changed = msgspec.structs.replace(
            interaction, usage=usage, cost_nano_usd=cost, cost_source=source
        )
        return msgspec.structs.replace(entry, interaction=changed)

    def _estimate(self, entry: Entry) -> Usage:
        """Tokens counted from the text itself."""
        asked = sum(self._of(message) + PER_MESSAGE for message in entry.input)
        for blob in entry.blobs:
            if blob.hash in (entry.interaction.request_body, entry.interaction.params):
                asked += self._count(blob.data.decode("utf-8", "replace"))
        answered = self._of(entry.output) if entry.output is not None else 0
        return Usage(input_tokens=asked, output_tokens=answered, source="estimated")

    def _of(self, message: Message) -> int:
        return self._count(text_of_message(message.raw))


def _was_billed(interaction: Interaction) -> bool:
    """Whether a provider has worked on it: it was sent, and not turned away with an error."""
    if interaction.source in ("import", "otlp"):
        return interaction.output_node is not None
    if interaction.outcome in ("denied", "unknown") or not interaction.attempts:
        return False
    last = interaction.attempts[-1]
    return last.status is None or last.status < 400
