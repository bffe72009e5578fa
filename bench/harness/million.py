"""A million made-up interactions: the same facts for every store, made from a seed.

Runs of about five calls each, six features, six models, outcomes and latencies as a busy product
has them, spread evenly over seven days. Each call sends its whole history, as agents do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass

from harness.spans import Prose

WEEK_US = 7 * 86_400 * 1_000_000
FEATURES = ("support", "search", "summarise", "triage", "coder", "extract")
MODELS = (  # name, provider, nano US dollars per input and per output token
    ("gpt-4o-mini", "openai", 150, 600),
    ("gpt-4o", "openai", 2_500, 10_000),
    ("claude-sonnet-4", "anthropic", 3_000, 15_000),
    ("claude-haiku-4", "anthropic", 800, 4_000),
    ("gemini-2.5-flash", "google", 300, 2_500),
    ("llama-3.3-70b", "groq", 590, 790),
)
OUTCOMES = ("complete", "error", "truncated", "refused", "timeout")
WEIGHTS = (955, 20, 12, 8, 5)


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One call, whatever it is stored in. Times in microseconds, money in nano US dollars."""

    number: int
    run: int
    step: int
    started_at: int
    duration_us: int
    first_chunk_us: int
    outcome: str
    feature: str
    model: str
    provider: str
    release: str
    end_user: str
    input_tokens: int
    output_tokens: int
    cost_nano_usd: int
    history: tuple[bytes, ...]
    """Messages as JSON, oldest first; the last one is new."""
    answer: bytes

    def request(self) -> str:
        """The chat completions body."""
        return f'{{"model":"{self.model}","messages":[{b",".join(self.history).decode()}]}}'


class Facts:
    """``count`` facts that end now, in the order in which the calls were made."""

    def __init__(self, count: int, now_us: int, seed: int = 11) -> None:
        self.count, self.began = count, now_us - WEEK_US
        self.prose = Prose(seed)
        self.random = self.prose.random
        self.systems = [
            self._message("system", f"You are assistant {i}. {self.prose.words(80)}")
            for i in range(20)
        ]

    @staticmethod
    def _message(role: str, text: str) -> bytes:
        return json.dumps({"role": role, "content": text}, separators=(",", ":")).encode()

    def __iter__(self) -> Iterator[Fact]:
        number, run = 0, 0
        while number < self.count:
            run += 1
            for fact in self._run(run, number):
                if number == self.count:
                    return
                yield fact
                number += 1

    def _run(self, run: int, number: int) -> Iterator[Fact]:
        """All calls of one run: each repeats the last one's messages and its answer."""
        r = self.random
        feature = r.choices(FEATURES, weights=(30, 25, 20, 12, 8, 5))[0]
        model = r.choices(MODELS, weights=(40, 15, 20, 10, 10, 5))[0]
        user, release = f"user-{r.randrange(5000):05d}", f"2026-11-{r.randint(1, 3):02d}"
        history = [r.choice(self.systems)]
        for step in range(r.choice((1, 2, 4, 6, 12))):
            history.append(self._message("user", self.prose.words(r.randint(30, 80))))
            answer = self._message("assistant", self.prose.words(r.randint(20, 60)))
            tokens = sum(map(len, history)) // 4, len(answer) // 4
            duration = int(1000 * math.exp(r.gauss(6.6, 0.7)))
            yield Fact(
                number=number + step,
                run=run,
                step=step,
                started_at=self.began + WEEK_US * (number + step) // self.count,
                duration_us=duration,
                first_chunk_us=int(duration * r.uniform(0.1, 0.4)),
                outcome=r.choices(OUTCOMES, weights=WEIGHTS)[0],
                feature=feature,
                model=model[0],
                provider=model[1],
                release=release,
                end_user=user,
                input_tokens=tokens[0],
                output_tokens=tokens[1],
                cost_nano_usd=tokens[0] * model[2] + tokens[1] * model[3],
                history=tuple(history),
                answer=answer,
            )
            history.append(answer)
