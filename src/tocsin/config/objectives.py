"""What no single setting of an objective can tell: whether the whole can be meant."""

import re
from collections.abc import Iterator, Mapping

from tocsin.config.checks import nearest
from tocsin.config.limits import Finding
from tocsin.config.model import Config, ObjectiveSettings
from tocsin.config.signals import objectives_of
from tocsin.core.ratios import RATIOS
from tocsin.core.signals import Signal

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}\Z")
_SLOWEST_PAGE = 6.0
"""The lower of the two burn rates that page."""


def objective_problems(
    config: Config, signals: Mapping[str, Signal] | None = None
) -> Iterator[Finding]:
    """Everything that makes an objective one that nobody can have meant.

    ``signals`` are those that there are; without them only what the file itself tells is looked at.
    """
    taken: dict[str, str] = {}
    for objective in objectives_of(config):
        name = objective.name
        settings, where = config.objectives[name], ("objectives", name)
        if not _NAME.match(name):
            yield Finding(where, "a name has 1 to 64 letters, digits, `_`, `-` or `.`")
        other = taken.setdefault(objective.score_name(), name)
        if other != name:
            yield Finding(where, f"its sums would be those of `{other}`; choose another name")
        yield from _feature_problems(config, name, settings)
        low, high = settings.at_least, settings.at_most
        if low is not None and high is not None and low > high:
            yield Finding(
                (*where, "at_least"),
                f"{low:g} is above at_most, {high:g}: no call could be good; exchange them",
            )
        if settings.proof and settings.proof == settings.signal:
            yield Finding(
                (*where, "proof"),
                "a signal proves nothing about itself; name a graded one such as "
                "`labelled_right`, or remove it",
            )
        if signals is not None:
            yield from _signal_problems(name, settings, signals)


def _feature_problems(config: Config, name: str, settings: ObjectiveSettings) -> Iterator[Finding]:
    where = ("objectives", name, "feature")
    if not settings.feature:
        yield Finding(where, "is empty; name the feature that it is for")
    elif config.features and settings.feature not in config.features:
        # Features need no table: only what looks like a slip of the pen is taken for one.
        hint = nearest(settings.feature, config.features)
        if hint:
            yield Finding(
                where,
                f"there is no feature `{settings.feature}`{hint} If it is meant, write "
                f"[features.{settings.feature}]",
            )


def _signal_problems(
    name: str, settings: ObjectiveSettings, signals: Mapping[str, Signal]
) -> Iterator[Finding]:
    where = ("objectives", name)
    signal = signals.get(settings.signal)
    if signal is None:
        yield Finding(
            (*where, "signal"),
            f"there is no signal `{settings.signal}`{nearest(settings.signal, signals)}; "
            "`tocsin signals --list` names all",
        )
    elif signal.name in RATIOS:
        yield Finding(
            (*where, "signal"),
            f"`{signal.name}` is made of many tasks: no single one is good or bad by it; take "
            f"`{RATIOS[signal.name][0]}` and set at_most, or `labelled_right`",
        )
    elif settings.at_most is None and settings.at_least is None:
        if signal.kind == "level":
            unit = f", in {signal.unit}" if signal.unit else ""
            limit = "at_least" if signal.better == "up" else "at_most"
            yield Finding(
                (*where, "signal"),
                f"`{signal.name}` is a level: say which values are good; set {limit}{unit}",
            )
        elif signal.better == "neither":
            yield Finding(
                (*where, "signal"),
                f"neither end of `{signal.name}` is the better one; set at_most or at_least, or "
                "choose another signal",
            )
    if settings.proof and settings.proof != settings.signal:
        yield from _proof_problems(name, settings.proof, signals)


def _proof_problems(name: str, proof: str, signals: Mapping[str, Signal]) -> Iterator[Finding]:
    where = ("objectives", name, "proof")
    found = signals.get(proof)
    if found is None:
        yield Finding(
            where,
            f"there is no signal `{proof}`{nearest(proof, signals)}; name a graded one: "
            "`labelled_right`, or `judge_NAME` of a judge in [judges]",
        )
    elif found.kind != "rate" or found.better == "neither":
        yield Finding(
            where,
            f"`{proof}` does not say right or wrong; name one that does, such as `labelled_right`",
        )


def objective_warnings(config: Config) -> Iterator[Finding]:
    """What works, and perhaps not as meant."""
    for name, settings in config.objectives.items():
        most = 1.0 / (1.0 - settings.target)
        if most < _SLOWEST_PAGE:
            yield Finding(
                ("objectives", name, "target"),
                f"allows so much that even when every call is bad, the budget burns {most:.2g} "
                "times too fast: nothing pages below 6, there will only be tickets. Page from "
                "0.834 on",
            )
        if config.features and settings.feature not in config.features:
            yield Finding(
                ("objectives", name, "feature"),
                f"`{settings.feature}` has no table in [features]: it counts calls that name "
                "that feature themselves",
            )


__all__ = ["objective_problems", "objective_warnings"]
