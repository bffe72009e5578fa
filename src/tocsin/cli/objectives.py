"""``tocsin objectives``: error budgets, how fast they burn, and whether the proxy is proven."""

from collections.abc import Sequence
from pathlib import Path

from tocsin.app import signals_known
from tocsin.cli import output
from tocsin.cli.context import opened, settings
from tocsin.cli.guard import FAILED, OK
from tocsin.config.signals import objectives_of
from tocsin.core.clock import SystemClock
from tocsin.dashboard import fmt, measures
from tocsin.domains.signals.objectives import ObjectiveStanding, standings

_STYLES = {"burning": output.BAD, "spent": output.BAD, "ok": output.GOOD}
_ORDER = ("burning", "spent", "ok", "too few events")


def shown(config: Path | None, *, feature: str | None, json: bool) -> int:
    """Every objective, what burns first; 1 when one burns or is spent."""
    found = settings(config, signals_known).config
    objectives = [o for o in objectives_of(found) if feature in (None, o.feature)]
    if not objectives:
        if json:
            output.print_json({"objectives": []})
        else:
            output.say("No objective is configured. Write one under [objectives.NAME].")
        return OK
    with opened(found) as store:
        told = standings(store, objectives, signals_known(found), SystemClock().now_us())
    told.sort(key=lambda one: (_ORDER.index(one.state), one.left, one.name))
    if json:
        output.print_json({"objectives": told})
    else:
        _print(told)
    return FAILED if any(one.state in ("burning", "spent") for one in told) else OK


def _print(told: Sequence[ObjectiveStanding]) -> None:
    made = output.table(
        ("objective", "feature", "signal", ">target", ">good", "95 % interval", ">calls", ">bad",
         ">budget left", "burn rates", "*state")
    )  # fmt: skip
    for one in told:
        good = one.good
        made.add_row(
            output.cell(one.name),
            output.cell(one.feature),
            _signal(one),
            f"{measures.share(one.target)} / {one.window_days:g}d",
            measures.share(good.value) if good else "",
            f"{measures.share(good.low)} to {measures.share(good.high)}" if good else "",
            fmt.count(one.events),
            fmt.count(one.bad),
            _left(one),
            ", ".join(f"{window} {rate:.3g}" for window, rate in one.burn_rates.items()),
            output.cell(_state(one), _STYLES.get(one.state, "")),
        )
    output.show(made)
    for one in told:
        said = _proof(one)
        if said:
            contradicts = one.proof is not None and one.proof.verdict == "contradicts"
            output.say(said, output.BAD if contradicts else output.QUIET)


def _signal(one: ObjectiveStanding) -> str:
    limits = [
        *((f"at least {one.at_least:g}",) if one.at_least is not None else ()),
        *((f"at most {one.at_most:g}",) if one.at_most is not None else ()),
    ]
    return " ".join([one.signal, *limits])


def _left(one: ObjectiveStanding) -> str:
    if not one.events:
        return "unknown"
    return f"spent x{one.used:.3g}" if one.left < 0 else measures.share(one.left)


def _state(one: ObjectiveStanding) -> str:
    burning = [rule.name for rule in one.rules if rule.burning]
    return f"{one.state}: {', '.join(burning)}" if burning else one.state


def _proof(one: ObjectiveStanding) -> str:
    proof = one.proof
    if proof is None:
        return ""
    graded = proof.graded
    if graded is None:
        said = "nothing graded yet"
    else:
        said = (
            f"says {measures.share(graded.value)} of {graded.n:,} graded calls good "
            f"({measures.share(graded.low)} to {measures.share(graded.high)})"
        )
        if proof.proxy is not None:
            said += f", {one.signal} {measures.share(proof.proxy.value)} of the same"
    verdict = {
        "contradicts": "the proxy lies",
        "agrees": "they agree",
        "underpowered": f"underpowered: about {proof.needed:,} more needed",
    }[proof.verdict]
    return f"{fmt.visible(one.name)}: {proof.signal} {said}: {verdict}."


__all__ = ["shown"]
