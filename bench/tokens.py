"""How good the estimate of tokens is, against OpenAI's o200k vocabulary.

usage: python bench/tokens.py --data DIR [--json FILE]

Needs ``pip install bpe-openai``. DIR holds agents/tau-bench-airline-gpt-4o.json (MIT),
agents/hotpotqa-react.txt (noahshinn/reflexion, MIT) and conversations/locomo-dev.json (CC BY-NC,
measured only); the source files of Tocsin are the sample of code. The estimate's weights were
fitted on the even texts; the odd ones are reported.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import random
import statistics
import sys
from collections.abc import Iterator

from tocsin.providers.tokens import TokenCounter

SMALL = 50
"""Texts of fewer tokens are left out of the single-text errors: one token is 2 % there."""


def texts(data: pathlib.Path) -> Iterator[str]:
    """Messages of agents and people, reasoning traces, JSON, code."""
    for run in json.loads((data / "agents/tau-bench-airline-gpt-4o.json").read_text()):
        for message in run["traj"]:
            if isinstance(message["content"], str):
                yield message["content"]
            for call in message.get("tool_calls") or []:
                yield call["function"]["arguments"]
    episodes = (data / "agents/hotpotqa-react.txt").read_text().split("\n\n")
    yield from [text for text in episodes if len(text) > SMALL][:1500]
    for sample in json.loads((data / "conversations/locomo-dev.json").read_text()):
        for turns in sample["conversation"].values():
            if isinstance(turns, list):
                yield from (turn["text"] for turn in turns)
    code = pathlib.Path(__file__).resolve().parent.parent / "src"
    yield from (path.read_text() for path in sorted(code.rglob("*.py"))[:60])


def errors(pairs: list[tuple[int, int]]) -> dict[str, float]:
    """Relative errors of (true, estimated) pairs."""
    single = sorted(abs(guess - true) / true for true, guess in pairs if true > SMALL)
    total = sum(guess for _, guess in pairs) / sum(true for true, _ in pairs) - 1
    return {
        "texts": len(pairs),
        "total_error": round(total, 4),
        "single_median": round(statistics.median(single), 4),
        "single_p95": round(single[int(len(single) * 0.95)], 4),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    try:
        import bpe_openai
    except ImportError:
        print("bpe-openai is not installed: pip install bpe-openai", file=sys.stderr)
        return 2
    encoder = bpe_openai.get_encoding("o200k_base")
    distinct = sorted({text for text in texts(options.data) if text})
    random.Random(1).shuffle(distinct)
    count = TokenCounter()
    held_out = [(len(encoder.encode_ordinary(t)), count(t), t) for t in distinct[1::2]]
    result = {
        "estimate": errors([(true, guess) for true, guess, _ in held_out]),
        "a_quarter_of_the_bytes": errors(
            [(true, len(text.encode()) // 4) for true, _, text in held_out]
        ),
    }
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
