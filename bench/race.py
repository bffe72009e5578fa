"""Do budgets hold? Many clients on the same few budgets, through disconnects, retries and kill -9.

Clients call every route (chat, completions, responses, Anthropic messages, embeddings, a path that
nobody knows), streamed or not. A quarter of the wild ones leave: at once, before the head, in
mid-answer. Some call again when a connection breaks. The upstream answers, is slow, answers 429 or
500 so that the gateway retries and falls back, closes without an answer or in the middle of one,
and sometimes goes on working for a caller that has left. The gateway is killed (kill -9) at random
instants and started again on its own data, with the traffic going on.

The upstream writes down what each attempt really cost: the input tokens that it reports, and the
output tokens that it had generated when it noticed that nobody listens. Like the large providers it
bills no answer with an error status (``--bill-errors`` bills the work that ends in a 500, too).
From its rows and from what the clients saw, three questions are answered after the race:

OVERSPEND of a budget = what the upstream billed its calls beyond it; nothing is deducted. Each
attempt stays within the worst case that a gateway can know beforehand: input tokens <= bytes of the
body (and 16 for a chat template), output tokens <= max_tokens x n, or <= the model's ceiling, which
the gateway is told. So a gateway that reserves this before it sends never overspends, not by one
nano US dollar.

A FALSE DENIAL is a refusal of a call that every one of its budgets had room for, at every instant
between sending it and reading the refusal:

    budget - counted - held >= worst case of this call

  counted   for each call that was over before this one was sent, per attempt: what was billed, if
            the answer said its usage and the client had it to the end (no gateway may hand over
            the last byte before it knows the cost); 0 for an error status; the worst case for
            everything whose cost nobody told: cut by the client or the upstream, unreported,
            orphaned by a kill. A call that a kill broke off may count one attempt more, which was
            reserved and never seen by the upstream.
  held      for each call in flight at any time in between: its worst case, for each attempt that
            the upstream saw; one more if it broke off, and for a second longer: the gateway may
            have been about to try again and needs a moment to notice that the client is gone.

Both are upper bounds of what a strict ledger can have taken, so a refusal is called false only if
it is. With the sizes in bytes as bounds of the tokens, a gateway that reserves less is judged more
mildly. ``--tolerance`` (US dollars) may be missing from each budget without a refusal being false,
and ``--settle`` (seconds) is how long after its last byte a call may hold what it reserved.

UTILISATION: of the budgets that refused something, how much of them had been counted in the end
(and, in brackets, billed): the rest were too few cents for one more worst case.

Each group of clients (lane) shares one budget of each level, innermost first (Tocsin: run, end
user, key), and takes a new one when nothing is allowed any more, so that one race gives evidence
on many budgets. The four lanes differ: a wild one (all of the above), a calm one (whose cost is
known to the cent), a stubborn one (most first attempts are billed and break), and a strange one
(mostly the unknown path and embeddings). What clients, upstream and killer do follows from
``--seed``; when it happens also depends on the machine.

  python bench/race.py --target tocsin --kills 200              # under ten minutes
  python bench/race.py --target tocsin --processes 2 --kills 20
  python bench/race.py --processes 2 --kills 20 --store postgresql://user@127.0.0.1/empty
  python bench/race.py --target tocsin,litellm --kills 200 --peer-kills 3
  python bench/race.py --target http://127.0.0.1:8080 --header "x-user: {run}" --seconds 20
  python bench/race.py --self-test                              # does it find what is wrong?
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import options
from harness.procs import StartError
from harness.race_books import Judgement, Verdict, intervals, judge, middle, survived, used_up
from harness.race_client import Made
from harness.race_plan import ROUTES
from harness.race_run import Finished, Pace, Race, Upstream
from harness.race_targets import NANO, PEERS, TOYS, Level, Remote, Target, Tocsin, Toy
from harness.tables import Report, Table
from harness.tools import WORK, Missing

LEVELS = (("run", 1.0), ("user", 2.5), ("key", 6.0))
"""Levels and their budgets, in multiples of --budget; not whole ones, so that outer ones end in
the middle of inner ones."""
FINDS = {
    "strict": "",
    "late": "overspend",
    "forgets": "overspend",
    "blind-cut": "overspend",
    "blind-retry": "overspend",
    "blind-route": "overspend",
    "stingy": "denials",
    "twice": "denials",
}
"""What --self-test must find in each toy."""


def usd(nano: float | None, digits: int = 6) -> str:
    """Nano US dollars for a cell."""
    return "-" if nano is None else f"${nano / NANO:,.{digits}f}"


def percent(part: float | None) -> str:
    """A fraction for a cell."""
    return "-" if part is None else f"{100 * part:,.1f} %"


def row_of(target: Target, race: Finished, found: Judgement, pace: Pace) -> dict[str, Any]:
    """Everything that is known of one race, for the tables and for --json."""
    between = intervals(found, race.kills)
    return {
        "target": target.name,
        "version": target.version,
        "configured": target.about,
        "kills": len(race.kills),
        "kills_followed_by_overspend": sum(1 for row in between[1:] if row["overspent_nano"]),
        "kills_followed_by_false_denials": sum(1 for row in between[1:] if row["false_denials"]),
        "seconds": round(race.seconds, 1),
        "start_s": middle(race.starts_s),
        "calls": len(race.calls),
        "outcomes": found.outcomes,
        "attempts": found.attempts,
        "levels": [_level(level, found, race.kills) for level in target.levels],
        "false_denials": len(found.false),
        "false_examples": [dataclasses.asdict(denial) for denial in found.false[:1000]],
        "failures": failures(race.calls),
        "between_kills": between,
        "clients": pace.clients,
    }


def failures(calls: Sequence[Made]) -> list[dict[str, Any]]:
    """Answers that were errors but no refusals, the most frequent first."""
    seen = collections.Counter(
        (call.status, call.said[:120]) for call in calls if call.how == "failed"
    )
    return [
        {"status": status, "said": said, "calls": count}
        for (status, said), count in seen.most_common(10)
    ]


def _level(level: Level, found: Judgement, kills: Sequence[float]) -> dict[str, Any]:
    seen: list[Verdict] = [v for v in found.verdicts.values() if v.account.level == level.name]
    full = used_up(seen)
    over = [v for v in seen if v.over]
    return {
        "level": level.name,
        "budget_nano": level.budget,
        "budgets": len(seen),
        "used_up": len(full),
        "through_kills": sum(survived(v, kills) for v in seen),
        "allowed": sum(v.allowed for v in seen),
        "denied": sum(v.denied for v in seen),
        "billed_nano": sum(v.billed for v in seen),
        "overspent": len(over),
        "overspend_nano": sum(v.over for v in over),
        "overspend_share": sum(v.over for v in over) / (level.budget * max(1, len(seen))),
        "max_over_nano": max((v.over for v in over), default=0),
        "max_over_share": max((v.over for v in over), default=0) / level.budget,
        "counted": middle(v.counted / level.budget for v in full),
        "billed": middle(v.billed / level.budget for v in full),
        "accounts": [
            {"name": v.account.name, "billed": v.billed, "counted": v.counted, "denied": v.denied}
            for v in seen
        ],
    }


def tables(rows: Sequence[dict[str, Any]]) -> list[Table]:
    """Overspend by target and level; false denials and calls by target."""
    money = tuple(
        (
            f"{row['target']} {level['level']}",
            usd(level["budget_nano"], 4),
            f"{level['budgets']} ({level['used_up']})",
            f"{level['through_kills']}",
            f"{level['overspent']}",
            usd(level["overspend_nano"]),
            percent(level["overspend_share"]),
            f"{usd(level['max_over_nano'])} ({percent(level['max_over_share'])})",
            f"{percent(level['counted'])} ({percent(level['billed'])})",
        )
        for row in rows
        for level in row["levels"]
    )
    calls = tuple(
        (
            row["target"],
            str(row["kills"]),
            str(row["kills_followed_by_overspend"]),
            str(row["kills_followed_by_false_denials"]),
            f"{row['calls']:,}",
            f"{row['attempts']:,}",
            *(f"{row['outcomes'].get(how, 0):,}" for how in ("answered", "denied")),
            f"{row['false_denials']}",
            *(f"{row['outcomes'].get(how, 0):,}" for how in ("failed", "left", "lost", "unsent")),
        )
        for row in rows
    )
    return [
        Table(
            title="Budgets: what the upstream billed beyond them",
            columns=(
                "target, level",
                "budget",
                "budgets (used up)",
                "kills lived through",
                "overspent",
                "overspend",
                "of all budgets",
                "worst",
                "counted (billed)",
            ),
            rows=money,
            note="counted (billed): median of the used-up budgets.",
        ),
        Table(
            title="Calls: what was refused, and whether rightly",
            columns=(
                "target",
                "kills",
                "then overspent",
                "then falsely denied",
                "calls",
                "attempts billed or not",
                "answered",
                "denied",
                "falsely",
                "failed",
                "left",
                "lost",
                "unsent",
            ),
            rows=calls,
            note="; ".join(
                f"{row['target']} {row['version']}: {row['configured']}" for row in rows
            ),
        ),
    ]


async def raced(given: argparse.Namespace, name: str, pace: Pace) -> dict[str, Any]:
    """One race of one target."""
    upstream = Upstream(WORK / "run" / "race-upstream", bill_errors=given.bill_errors)
    try:
        await upstream.ready()
        target = target_of(given, name, upstream.port)
        target.routes = tuple(route for route in target.routes if route in given.routes)
        if not target.killable:
            pace = dataclasses.replace(pace, kills=0)
        race = await Race(target, upstream, pace).run()
    finally:
        upstream.proc.stop()
    tolerance = round(given.tolerance * NANO)
    found = judge(
        race.accounts,
        race.calls,
        race.attempts,
        race.kills,
        tolerance=tolerance,
        settle_s=given.settle,
    )
    if given.raw:
        keep(given.raw, race)
    return row_of(target, race, found, pace)


def keep(file: Path, race: Finished) -> None:
    """Write every call and every attempt, for whoever wants to know why."""
    rows = {
        "kills": race.kills,
        "starts_s": race.starts_s,
        "calls": [dataclasses.asdict(call) for call in race.calls],
        "attempts": race.attempts,
    }
    file.write_text(json.dumps(rows))


def target_of(given: argparse.Namespace, name: str, upstream: int) -> Target:
    """The target of that name, or the gateway at that URL."""
    levels = [Level(name=level, budget=round(given.budget * x * NANO)) for level, x in LEVELS]
    if name.startswith("http"):
        return Remote(name, levels[:1], given.header, given.model)
    if name.startswith("toy-"):
        return Toy(name.removeprefix("toy-"), levels, upstream)
    if name == "litellm":
        from harness.race_litellm import LiteLLM

        return LiteLLM([Level(name="key", budget=levels[0].budget)], upstream, install=True)
    return Tocsin(levels, given.processes, upstream, given.store)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--target",
        type=targets,
        default=("tocsin",),
        help=f"tocsin, {', '.join(PEERS)}, toy-KIND or http://127.0.0.1:PORT; several with commas",
    )
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--lanes", type=int, default=4, help="groups that share budgets")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--peer-kills", type=int, default=3, help="of peers, which start slowly")
    parser.add_argument("--seconds", type=float, help="traffic in all; default 1 per kill, >= 8")
    parser.add_argument("--budget", type=float, default=0.008, help="US dollars of the innermost")
    parser.add_argument("--processes", type=int, default=1, help="Tocsin processes on one store")
    parser.add_argument("--store", default="", help="an empty PostgreSQL database's URL for Tocsin")
    parser.add_argument("--tolerance", type=float, default=0.0, help="US dollars, see above")
    parser.add_argument("--settle", type=float, default=0.0, help="seconds, see above")
    parser.add_argument("--bill-errors", action="store_true", help="bill work that ends in a 500")
    parser.add_argument("--routes", type=options.names(tuple(ROUTES)), default=tuple(ROUTES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--header", action="append", default=[], help="for a URL: 'name: value'")
    parser.add_argument("--model", default="race-chat", help="for a URL: its name of the model")
    parser.add_argument("--self-test", action="store_true", help="race the toys, check findings")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write settings and raw rows")
    parser.add_argument("--raw", type=Path, metavar="FILE", help="write every call and attempt")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables")
    return parser.parse_args()


def targets(text: str) -> tuple[str, ...]:
    """An argparse type: the names of targets, with commas between."""
    names = tuple(filter(None, text.split(",")))
    known = {"tocsin", *PEERS, *(f"toy-{kind}" for kind in TOYS)}
    for name in names:
        if name not in known and not name.startswith("http://"):
            raise argparse.ArgumentTypeError(f"{name!r} is no URL and not one of {sorted(known)}")
    return names


def pace_of(given: argparse.Namespace, name: str) -> Pace:
    """How to race that target."""
    kills = given.peer_kills if name in PEERS else given.kills
    return Pace(
        clients=given.clients,
        lanes=min(given.lanes, given.clients),
        kills=kills,
        seconds=given.seconds or max(8.0, float(kills)),
        seed=given.seed,
    )


def checked(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What --self-test finds wrong with the race itself."""
    problems = []
    for row in rows:
        wanted = FINDS[row["target"].removeprefix("toy-")]
        over = sum(level["overspend_nano"] for level in row["levels"])
        denials = row["false_denials"]
        found = "overspend" if over else "denials" if denials else ""
        if found != wanted or (wanted == "overspend" and denials):
            problems.append(f"{row['target']}: {wanted or 'nothing'} expected, {found} found")
    return problems


def main() -> int:
    given = parsed()
    if given.self_test:
        given.target = tuple(f"toy-{kind}" for kind in TOYS)
        given.kills, given.seconds = 3, given.seconds or 4.0
    report = Report(bench="race", settings=options.plain(given))
    for name in given.target:
        try:
            row = asyncio.run(raced(given, name, pace_of(given, name)))
        except (Missing, StartError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 2
        report.rows.append(row)
        report.versions[name] = row["version"]
    for table in tables(report.rows):
        report.show(table)
    report.save(given.json, given.markdown)
    problems = checked(report.rows) if given.self_test else []
    for problem in problems:
        print(problem, file=sys.stderr)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
