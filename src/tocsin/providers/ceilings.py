"""The most tokens that a model can write in one answer, and read, as its maker documents it.

A call that names no maximum may cost as much as the ceiling. What is not here is not known.
Sources, read in 2025 and 2026: platform.openai.com/docs/models (a page for each model),
platform.claude.com/docs/en/about-claude/models/overview, ai.google.dev/gemini-api/docs/models,
docs.x.ai/docs/models, docs.mistral.ai/getting-started/models, api-docs.deepseek.com/quick_start.
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
    (r"gpt-5(\.\d+)?-pro", Ceiling(272_000, 400_000)),
    (r"gpt-5\.[45]", Ceiling(128_000, 1_050_000)),
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
    (r"claude-(opus|sonnet|fable)-5|claude-(opus|sonnet)-4-[678]", Ceiling(128_000, 1_000_000)),
    (r"claude-(sonnet-4|haiku-4|3-7-sonnet|opus-4-5)", Ceiling(64_000, 1_000_000)),
    (r"claude-opus-4", Ceiling(32_000, 200_000)),
    (r"claude-3-5", Ceiling(8_192, 200_000)),
    (r"claude-3", Ceiling(4_096, 200_000)),
    # Google
    (r"gemini-(2\.5|3)", Ceiling(65_536, 1_048_576)),
    (r"gemini-(1\.5|2\.0)", Ceiling(8_192, 2_097_152)),
    # xAI, Mistral, DeepSeek: their context is all that they document, or more than they write.
    (r"deepseek-reasoner", Ceiling(65_536, 131_072)),
    (r"deepseek-chat", Ceiling(8_192, 131_072)),
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
