"""The options every benchmark script has, under the same names."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

DATA_SETS = (
    "DIR/agents/tau-bench-airline-gpt-4o.json (sierra-research/tau-bench, MIT) and "
    "DIR/load/mooncake-conversation.jsonl (kvcache-ai/Mooncake, Apache-2.0)"
)


def parser(doc: str, peers: Sequence[str], *, data: bool = False) -> argparse.ArgumentParser:
    """A parser with --peers, --json, --markdown, --quick and, if wanted, --data."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--peers",
        type=names(peers),
        default=(),
        metavar=",".join(peers),
        help="also measure these; pip installs them below bench/.work/venvs at first use",
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write settings and raw rows")
    made.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables")
    made.add_argument("--quick", action="store_true", help="a minute's smoke run, not a figure")
    if data:
        made.add_argument("--data", type=Path, metavar="DIR", help=f"real data: {DATA_SETS}")
    return made


def names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """An argparse type: comma-separated names, each one of ``known``."""

    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(x for x in text.split(",") if x)
        for name in chosen:
            if name not in known:
                problem = f"{name!r} is not one of {', '.join(known)}"
                raise argparse.ArgumentTypeError(problem)
        return chosen

    return parse


def integers(text: str) -> tuple[int, ...]:
    """An argparse type: comma-separated whole numbers."""
    return tuple(int(x) for x in text.split(",") if x)


def plain(given: argparse.Namespace) -> dict[str, object]:
    """The options as they stand in a report; the names of folders and files do not belong there."""
    return {k: v for k, v in vars(given).items() if not isinstance(v, Path)}
