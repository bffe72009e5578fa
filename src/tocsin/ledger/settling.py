"""What an attempt counts once it is over."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

import msgspec

from tocsin.core.call import Call
from tocsin.core.interaction import Attempt, Interaction, Usage
from tocsin.core.messages import Hash, Message
from tocsin.ledger.bounds import WRITING
from tocsin.ledger.diary import ESTIMATED, PLAIN, UNCERTAIN, Manner
from tocsin.ledger.pools import NONE, Four
from tocsin.providers.pricing import Pricer
from tocsin.providers.routing import BEGAN_WITH_ERROR
from tocsin.providers.tokens import PER_MESSAGE, text_of_message

ONE_CALL: Four = (0, 0, 1, 0)
_CUT = frozenset({"cancelled", "timeout", "error", "denied"})
_REMEMBERED = 50_000

Count = Callable[[str], int]
Unreported = Literal["reserved", "estimated"]


class Settled(msgspec.Struct, frozen=True):
    """What an attempt took."""

    amounts: Four
    manner: Manner = PLAIN


NOTHING_TAKEN = Settled(NONE)


def of_failed(attempt: Attempt | None, reserved: Four, unreported: Unreported) -> Settled | None:
    """An attempt that gave no answer; ``None`` when it has one, or is to be estimated.

    Turned away with an error, it was not billed; otherwise nobody knows.
    """
    if attempt is not None:
        if (attempt.status or 0) >= 400 or attempt.error == BEGAN_WITH_ERROR:
            return Settled(ONE_CALL)
        if attempt.status is not None:
            return None
    if attempt is not None and unreported == "estimated":
        return None
    return Settled(reserved, UNCERTAIN)


def is_cut(interaction: Interaction) -> bool:
    """Whether an answer broke off before its end."""
    return interaction.outcome in _CUT


def of_reported(interaction: Interaction, attempt: Attempt, pricer: Pricer) -> Settled | None:
    """By the usage that the provider stated for the whole answer; ``None`` if it did not."""
    usage = interaction.usage
    whole = not is_cut(interaction) or interaction.finish_reason is not None
    if usage.source != "reported" or not whole:
        return None
    return Settled(_amounts(interaction, attempt, usage, pricer), PLAIN)


def without_usage(
    call: Call, interaction: Interaction, reserved: Four, unreported: Unreported
) -> Settled | None:
    """An answer without usage: ``None`` when it is to be estimated from its text."""
    if is_cut(interaction):
        return Settled(reserved, UNCERTAIN) if unreported == "reserved" else None
    if call.operation in WRITING or call.operation == "embeddings":
        return None
    # A route that is not known: its body is all that there is to go by.
    return Settled((reserved[0], reserved[1], 1, interaction.tool_calls), ESTIMATED)


class Estimator:
    """Estimates usage from texts, as records have it; long histories only where they are new.

    ``estimate`` may run in any thread, one at a time.
    """

    def __init__(self, count: Count, pricer: Pricer) -> None:
        self._count = count
        self._pricer = pricer
        self._known: OrderedDict[Hash, int] = OrderedDict()

    def estimate(
        self, call: Call, interaction: Interaction, attempt: Attempt, output: Message | None
    ) -> Settled:
        """What the attempt took, about."""
        asked, answered = self.asked(call), 0
        if output is not None:
            answered = self._count(text_of_message(output.raw))
        reported = interaction.usage
        usage = Usage(
            # Of a stream that was cut, what its provider had reported so far is the least.
            input_tokens=max(asked, reported.input_tokens or 0) if is_cut(interaction) else asked,
            output_tokens=max(answered, reported.output_tokens or 0),
            source="estimated",
        )
        return Settled(_amounts(interaction, attempt, usage, self._pricer), ESTIMATED)

    def unanswered(self, call: Call, attempt: Attempt) -> Settled:
        """What an attempt took that was sent and of which nothing came back: its request."""
        asked = self.asked(call)
        usage = Usage(input_tokens=asked, output_tokens=0, source="estimated")
        cost = self._pricer(attempt.provider, attempt.model, usage, call.started_at)[0]
        return Settled((cost or 0, asked, 1, 0), ESTIMATED)

    def asked(self, call: Call) -> int:
        """Tokens of the request, about."""
        if not call.messages:
            return self._count(call.body.decode("utf-8", "replace"))
        total, known = 0, 0
        for index in range(len(call.nodes) - 1, -1, -1):
            before = self._known.get(call.nodes[index].hash)
            if before is not None:
                total, known = before, index + 1
                break
        for message in call.messages[known:]:
            total += self._count(text_of_message(message.raw)) + PER_MESSAGE
        self._known[call.nodes[-1].hash] = total
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return total + self._count(call.params.decode("utf-8", "replace"))


def _amounts(interaction: Interaction, attempt: Attempt, usage: Usage, pricer: Pricer) -> Four:
    tokens = (usage.input_tokens or 0) + (usage.output_tokens or 0)
    cost = None
    for model in (interaction.response_model, attempt.model):
        if model and cost is None:
            cost = pricer(attempt.provider, model, usage, interaction.started_at)[0]
    return (cost or 0, tokens, 1, interaction.tool_calls)
