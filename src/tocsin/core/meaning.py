"""What an answer means, apart from its HTTP status: an ``Outcome`` and the checks that said so."""

from typing import Literal

import msgspec

from tocsin.core.outcome import Outcome

Verdict = Literal["pass", "fail", "unsure"]
"""``unsure``: the check could not be made, which is neither of the others."""
Said = Literal["wire", "validator", "heuristic"]
"""Who says so: the upstream's own words on the wire, a rule that is exact, a measured guess."""


class Check(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that was looked at in an answer. ``detail`` is at most 500 characters."""

    name: str
    """``finish``, ``schema``, ``tool_arguments``, ``refusal``, ``length``, ``language``, ``cites``,
    ``pattern``, or the name of a check of the configuration."""
    verdict: Verdict
    said: Said = "validator"
    detail: str = ""
    """Why, for people: where in the answer, what was expected. Empty where it passed."""


class Meaning(msgspec.Struct, frozen=True, kw_only=True):
    """An answer's semantic status, and why."""

    outcome: Outcome
    checks: tuple[Check, ...] = ()


__all__ = ["Check", "Meaning", "Said", "Verdict"]
