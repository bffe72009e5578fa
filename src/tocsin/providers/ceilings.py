"""The most tokens that a model can write in one answer, and read: what was known in autumn 2026.

A call that names no maximum may cost as much as the ceiling, so where a figure was in doubt the
larger one stands here. This table is kept by hand. The figures of Claude 4.5 and 5 and of Gemini 2
and 3 were compared with their makers' pages, those of GPT-5.4 and DeepSeek V4 with what resellers
state; the rest is common knowledge and was compared with nothing. For a model that is not here
``ledger.max_output_tokens`` counts; before either, the maximum that a call names.
"""

import re
from functools import lru_cache

import msgspec


class Ceiling(msgspec.Struct, frozen=True):
    """Tokens: at most ``output`` in one answer, ``context`` in all."""

    output: int
    context: int


# The first pattern that matches a model's bare name (no vendor before a slash) counts.
_CEILINGS: tuple[tuple[str, Ceiling], ...] = (
    # OpenAI
    (r"gpt-5(\.\d+)?-chat|chatgpt-", Ceiling(16_384, 128_000)),
    (r"gpt-5(\.\d+)?-pro", Ceiling(272_000, 1_050_000)),
    (r"gpt-5\.([4-9]|\d\d)", Ceiling(128_000, 1_050_000)),
    (r"gpt-5", Ceiling(128_000, 400_000)),
    (r"gpt-4\.1", Ceiling(32_768, 1_047_576)),
    (r"gpt-4\.5", Ceiling(16_384, 128_000)),
    (r"gpt-4o-2024-05-13", Ceiling(4_096, 128_000)),
    (r"gpt-4o", Ceiling(16_384, 128_000)),
    (r"gpt-4-turbo|gpt-4-(0125|1106)", Ceiling(4_096, 128_000)),
    (r"gpt-4", Ceiling(8_192, 8_192)),
    (r"gpt-3\.5-turbo", Ceiling(4_096, 16_385)),
    (r"o1-mini", Ceiling(65_536, 128_000)),
    (r"o1-preview", Ceiling(32_768, 128_000)),
    (r"o[1-4]", Ceiling(100_000, 200_000)),
    (r"gpt-oss", Ceiling(131_072, 131_072)),
    # Anthropic
    (r"claude-(opus|sonnet|haiku|fable)-5", Ceiling(128_000, 1_000_000)),
    (r"claude-(opus|sonnet)-4[-.][678]", Ceiling(128_000, 1_000_000)),
    (r"claude-(sonnet-4|haiku-4|3[-.]7-sonnet|opus-4[-.]5)", Ceiling(64_000, 1_000_000)),
    (r"claude-opus-4", Ceiling(32_000, 200_000)),
    (r"claude-3[-.]5", Ceiling(8_192, 200_000)),
    (r"claude-3", Ceiling(4_096, 200_000)),
    # Google
    (r"gemini-(2\.[05]|3)", Ceiling(65_536, 1_048_576)),
    (r"gemini-1\.5", Ceiling(8_192, 2_097_152)),
    # DeepSeek: its older names stand for V4 now.
    (r"deepseek-(v4|flash|chat|reasoner)", Ceiling(384_000, 1_048_576)),
)
_PATTERNS = tuple((re.compile(pattern), ceiling) for pattern, ceiling in _CEILINGS)
_PREFIX = re.compile(r"(?:[a-z]{2,6}\.)?(?:anthropic|openai|google|deepseek)[./]")


@lru_cache(maxsize=4096)
def ceiling_of(model: str) -> Ceiling | None:
    """The ceilings of a model by its name; ``None`` where they are not known."""
    bare = _PREFIX.sub("", model.lower().rpartition("/")[2])
    bare = bare.removeprefix("ft:")
    for pattern, ceiling in _PATTERNS:
        if pattern.match(bare):
            return ceiling
    return None
