"""How a call ended, as a closed set of words.

``Outcome`` is never inferred from the HTTP status alone: a 200 that stopped at the token limit is
``truncated``, a 200 whose stream broke off is ``error``, and a call whose process was killed is
``unknown`` because nobody can say what the upstream did.
"""

from typing import Literal, get_args

Outcome = Literal[
    "complete",
    "truncated",
    "refused",
    "invalid",
    "unverified",
    "denied",
    "timeout",
    "cancelled",
    "unknown",
    "error",
]

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

_BY_FINISH_REASON: dict[str, Outcome] = {
    "stop": "complete",
    "tool_calls": "complete",
    "function_call": "complete",
    "end_turn": "complete",
    "stop_sequence": "complete",
    "tool_use": "complete",
    "pause_turn": "complete",
    "length": "truncated",
    "max_tokens": "truncated",
    "model_context_window_exceeded": "truncated",
    "content_filter": "refused",
    "refusal": "refused",
}


def outcome_of(finish_reason: str | None) -> Outcome:
    """The outcome that an upstream's own finish reason states.

    OpenAI ``finish_reason`` and Anthropic ``stop_reason`` words; anything else is ``unknown``.
    """
    return _BY_FINISH_REASON.get(finish_reason or "", "unknown")
