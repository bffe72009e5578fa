"""What an attempt can use at most, before it is sent.

Input: byte-level tokenizers make at least one byte of text into a token, so a request has no more
tokens than bytes; JSON's own framing covers what a chat template adds to a message. Images and
files cost tokens that their bytes do not tell (a short link may name a large picture), so each
counts as ``image_tokens``. A history that the provider keeps counts as what it was last known to
have, else as the model's whole context.
"""

import re
from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from tocsin.config.model import LedgerSettings
from tocsin.core.call import Call
from tocsin.core.interaction import Interaction, Operation
from tocsin.core.ledger import Amounts
from tocsin.core.messages import Hash, Message, Node
from tocsin.providers.ceilings import ceiling_of
from tocsin.providers.pricing import Pricer

MOST_TOKENS = 1_000_000_000
"""Larger numbers in a request are taken for this: sums of them still fit 64 bits."""
UNKNOWN_CONTEXT = 1_000_000
_PER_MESSAGE = 8
_TOOL_PROMPT = 1000
"""What providers put before the model where a request brings tools; Anthropic documents 313 to 804
tokens, by model and tool choice."""
_REMEMBERED = 50_000
_SHORT, _NEAR = 256, 4

FREE: frozenset[Operation] = frozenset({"count_tokens", "models"})
"""Operations that providers do not bill."""
WRITING: frozenset[Operation] = frozenset({"chat", "text_completion", "generate_content"})
_READING = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})

_MEDIA = re.compile(
    rb'"(?:image|image_url|input_image|file|input_file|document|input_audio|audio|video|video_url'
    rb'|computer_screenshot)"\s*[:,}]'
)
_ENCODED = re.compile(
    rb'"(?:data|url|image_url|file_data|file_url)"\s*:\s*'
    rb'("(?:data:[^",]{0,200},)?[A-Za-z0-9+/\\_\-]{256,}={0,2}")'
)
_HASHLESS = (b'"redacted_thinking"', b'"citations"', b'"annotations"', b'"caller"')
"""What a message's hash leaves out and may have encoded bytes."""


class _Fields(msgspec.Struct):
    n: int | None = None
    best_of: int | None = None


_fields = msgspec.json.Decoder(_Fields).decode


def is_billed(call: Call) -> bool:
    """Whether a provider may bill the call at all."""
    if call.operation in FREE:
        return False
    return call.operation != "other" or call.method not in _READING


class Bounds:
    """Worst cases. Remembers what media known histories have, so that a call costs what is new."""

    def __init__(self, settings: LedgerSettings, pricer: Pricer) -> None:
        self.settings = settings
        self._pricer = pricer
        self._media: OrderedDict[Hash, int] = OrderedDict()
        """By history, and by message: apps may send only the newest part of a history, which
        is another history at each call."""
        self._messages: dict[Hash, int] = {}
        self._kept: OrderedDict[str, int] = OrderedDict()

    def configure(self, settings: LedgerSettings) -> None:
        """Take over other settings."""
        if settings.image_tokens != self.settings.image_tokens:
            self._media.clear()
            self._messages.clear()
        self.settings = settings

    def worst(self, call: Call, provider: str, model: str) -> tuple[Amounts, bool]:
        """The worst case of one attempt, and whether its price is known. Tool calls: 1 if the
        request brings tools (more are known only when the answer asks for them)."""
        tools = _has_tools(call)
        tokens = self.input_tokens(call, model) + (_TOOL_PROMPT if tools else 0)
        output = 0
        # A path that is not known may write as much as its model can.
        if call.operation in WRITING or (call.operation == "other" and model):
            output = min(self._output(call, model) * _choices(call), MOST_TOKENS)
        cost = self._pricer.worst(provider, model, tokens, output, call.started_at)
        amounts = Amounts(cost or 0, tokens + output, 1, 1 if tools else 0)
        return amounts, cost is not None

    def input_tokens(self, call: Call, model: str) -> int:
        """No request of this body has more input tokens."""
        tokens = len(call.body) + (self._history(call) if call.messages else self._more(call.body))
        reference = call.draft.response_ref or call.draft.conversation_ref
        if reference:
            tokens += self._kept.get(reference) or self._context(model)
        return min(tokens, MOST_TOKENS)

    def learn(self, call: Call, interaction: Interaction) -> None:
        """Remember how much the provider keeps of an answered call."""
        usage = interaction.usage
        if usage.source != "reported" or usage.input_tokens is None:
            return
        total = usage.input_tokens + (usage.output_tokens or 0)
        for name in (interaction.response_id, call.draft.conversation_ref):
            if name:
                _remember(self._kept, name, total)

    def _output(self, call: Call, model: str) -> int:
        if call.max_output_tokens is not None:
            return min(call.max_output_tokens, MOST_TOKENS)
        ceiling = ceiling_of(model)
        return ceiling.output if ceiling is not None else self.settings.max_output_tokens

    @staticmethod
    def _context(model: str) -> int:
        ceiling = ceiling_of(model)
        return ceiling.context if ceiling is not None else UNKNOWN_CONTEXT

    def _history(self, call: Call) -> int:
        """Tokens of all messages beyond their bytes: those of a history that is known, and of the
        messages that came since."""
        nodes, messages = call.nodes, call.messages
        total, known = self._known(nodes)
        if known < len(messages):
            total += self._each(messages[known:] if known else messages)
            _remember(self._media, nodes[-1].hash, total)
        return total

    def _known(self, nodes: Sequence[Node]) -> tuple[int, int]:
        """Tokens of the longest history that is known, and how many messages it has.

        A short one is looked for near its end alone: what its messages have is soon added up.
        """
        media = self._media
        first = -1 if len(nodes) > _SHORT else max(-1, len(nodes) - 1 - _NEAR)
        for index in range(len(nodes) - 1, first, -1):
            size = media.get(nodes[index].hash)
            if size is not None:
                return size, index + 1
        return 0, 0

    def _each(self, messages: Sequence[Message]) -> int:
        seen = self._messages
        for message in reversed(messages):
            # The new ones are at the end.
            if message.hash in seen:
                break
            self._learn_message(message)
        try:
            return sum([seen[message.hash] for message in messages])
        except KeyError:
            return sum([self._learn_message(message) for message in messages])

    def _learn_message(self, message: Message) -> int:
        seen = self._messages
        tokens = seen.get(message.hash)
        if tokens is None:
            if len(seen) >= _REMEMBERED:
                seen.clear()
            tokens = seen[message.hash] = _PER_MESSAGE + self._more(message.raw)
        return tokens

    def _more(self, raw: bytes) -> int:
        """Tokens beyond the bytes; negative where a picture is encoded in place, which is counted
        once, as a picture and not as text."""
        media = len(_MEDIA.findall(raw))
        if not media:
            return 0
        encoded = 0
        if not any(name in raw for name in _HASHLESS):
            # Otherwise a message of the same hash might not have these bytes.
            encoded = sum(match.end(1) - match.start(1) for match in _ENCODED.finditer(raw))
        return media * self.settings.image_tokens - encoded


def _remember(
    kept: OrderedDict[bytes, int] | OrderedDict[str, int], key: object, value: int
) -> None:
    kept[key] = value  # type: ignore[index]  # a dict of either kind of key
    if len(kept) > _REMEMBERED:
        kept.popitem(last=False)


def _has_tools(call: Call) -> bool:
    params = call.params
    return b'"tools"' in params or b'"functions"' in params


def _choices(call: Call) -> int:
    """How many answers are generated: ``n`` or ``best_of``, for each prompt."""
    params = call.params
    count = 1
    if b'"n"' in params or b'"best_of"' in params:
        try:
            fields = _fields(params)
        except (msgspec.DecodeError, UnicodeDecodeError):
            fields = _Fields()
        count = max(fields.n or 1, fields.best_of or 1)
    if call.operation == "text_completion" and call.messages:
        count *= max(1, call.messages[0].raw.count(b'"type":"text"'))
    return max(1, min(count, 100_000))
