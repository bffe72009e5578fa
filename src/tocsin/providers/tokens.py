"""``TokenCounter``: an estimate of tokens, for answers whose upstream reported none."""

import threading
from collections.abc import Callable
from typing import Any

EXACT_CHARACTERS = 20_000
"""Text up to this length is tokenized; beyond, samples of it are, and scaled up."""

_SAMPLES = 4


class TokenCounter:
    """``count(text)`` → tokens of OpenAI's ``o200k`` vocabulary: always an estimate.

    Other models cut text differently (usually within 20 % for English), so a usage that is made
    of it is marked ``estimated``. May be called from any thread. The vocabulary is loaded at the
    first use (some 200 ms), or by ``warm``.
    """

    __slots__ = ("_count", "_lock")

    def __init__(self) -> None:
        self._count: Callable[[str], int] | None = None
        self._lock = threading.Lock()

    def __call__(self, text: str) -> int:
        count = self._count or self._load()
        if len(text) <= EXACT_CHARACTERS:
            return count(text)
        size = EXACT_CHARACTERS // _SAMPLES
        step = (len(text) - size) // (_SAMPLES - 1)
        sampled = sum(count(text[at : at + size]) for at in range(0, step * _SAMPLES, step))
        return round(sampled * len(text) / (size * _SAMPLES))

    def warm(self) -> None:
        """Load the vocabulary. Blocks: run it in a thread."""
        self._load()

    def _load(self) -> Callable[[str], int]:
        with self._lock:
            if self._count is None:
                # Heavy (a vocabulary of 200,000 tokens), and most upstreams report their usage.
                import bpe_openai

                encoder: Any = bpe_openai.get_encoding("o200k_base")

                def count(text: str) -> int:
                    return len(encoder.encode_ordinary(text))

                self._count = count
            return self._count
