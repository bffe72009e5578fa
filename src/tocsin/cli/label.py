"""``tocsin label``: people say which answers were right, one after another or by id."""

import getpass
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from tocsin.cli import output
from tocsin.cli.context import moment, one_of, opened, settings
from tocsin.cli.guard import OK
from tocsin.core.clock import SystemClock
from tocsin.core.errors import InputError
from tocsin.core.ids import new_id
from tocsin.core.interaction import Entry, Interaction
from tocsin.core.score import Feedback, Score
from tocsin.core.signals import JUDGED_AXES, OWN_FEATURES
from tocsin.dashboard import fmt
from tocsin.providers.tokens import readable_text
from tocsin.store.api import Filter, Store

Origin = Literal["random", "judged", "disagreements", "alert"]
_POOL = 2_000
_SHOWN_REQUEST, _SHOWN_ANSWER = 1_500, 4_000
_COMMENT = 2_000
_KEYS = "[y] right  [n] wrong  [s] skip  [c] comment  [m] more of it  [q] quit: "


def by_id(
    config: Path | None, call: str, *, right: bool, wrong: bool, comment: str, json: bool
) -> int:
    """Label one call. Raises ``NotFound`` without it, ``InputError`` without a verdict."""
    if right and wrong:
        raise InputError("--right and --wrong contradict each other; give one")
    if not right and not wrong and not comment:
        raise InputError(
            "say --right or --wrong (or --comment WORDS alone), or leave the call out to go "
            "through a sample"
        )
    with opened(settings(config).config) as store:
        row = _feedback(call, 1.0 if right else 0.0 if wrong else None, comment)
        store.add_feedback(row)
    if json:
        output.print_json(row)
    else:
        output.say(f"{call}: {'right' if right else 'wrong' if wrong else 'comment kept'}.")
    return OK


def export(config: Path | None, file: Path, *, feature: str | None, since: str | None) -> int:
    """Write every labelled call as a line of JSON."""
    after = moment(since, SystemClock().now_us(), "--since") or 0
    if file.exists():
        raise InputError(f"{file} is there already; name another file or move it away")
    written = 0
    with opened(settings(config).config) as store, file.open("wb") as to:
        for line in _labelled(store, feature, after):
            to.write(msgspec.json.encode(line) + b"\n")
            written += 1
    output.say(f"{fmt.plural(written, 'labelled call')} written to {file}.")
    return OK


def _labelled(store: Store, feature: str | None, after: int) -> Iterator[dict[str, Any]]:
    last: dict[str, Feedback] = {}
    number = 0
    while rows := store.feedback_after(number, limit=500):
        number = rows[-1][0]
        for _, row in rows:
            if row.kind == "label" and row.at >= after:
                last[row.interaction_id] = row
    for call, row in last.items():
        entry = store.entry(call)
        if entry is None or (feature and entry.interaction.feature != feature):
            continue
        yield {
            "call": call,
            "feature": entry.interaction.feature,
            "model": entry.interaction.response_model or entry.interaction.request_model,
            "right": bool(row.value),
            "comment": row.comment,
            "by": row.by,
            "at": row.at,
            "messages": [msgspec.Raw(message.raw) for message in entry.input],
            "answer": msgspec.Raw(entry.output.raw) if entry.output is not None else None,
        }


def review(
    config: Path | None,
    *,
    feature: str | None,
    origin: str,
    count: int,
    since: str | None,
    seed: int | None,
    json: bool,
) -> int:
    """Go through a sample: show request and answer, ask for the verdict, keep it."""
    chosen_from = cast(Origin, one_of("--from", origin, Origin))
    now = SystemClock().now_us()
    after = moment(since, now, "--since")
    with opened(settings(config).config) as store:
        calls = _sample(store, feature, chosen_from, after, count, random.Random(seed))  # noqa: S311 - a sample, no secret
        if json:
            entries = [entry for call in calls if (entry := store.entry(call)) is not None]
            output.print_json({"calls": [_as_json(store, entry) for entry in entries]})
            return OK
        if not calls:
            output.say(_nothing(chosen_from))
            return OK
        if not sys.stdin.isatty():
            raise InputError(
                "labelling a sample needs a terminal; use `tocsin label CALL --right` or --wrong, "
                "with calls from `tocsin label --json`"
            )
        if chosen_from in ("disagreements", "alert"):
            output.say(
                "These calls were picked for what is said of them: their labels tell what is "
                "wrong, not how often. For a judge's agreement label --from judged.",
                output.LOOK,
            )
        labelled = _go_through(store, calls, input)
    output.say(f"{fmt.plural(labelled, 'label')} kept.")
    return OK


def _nothing(origin: Origin) -> str:
    if origin == "disagreements":
        return "No unlabelled call has verdicts that contradict each other."
    if origin == "judged":
        return "No unlabelled call has been judged; see [judges] in the settings."
    if origin == "alert":
        return "No alert that fires names an unlabelled call."
    return "There is no unlabelled answer in that time."


# -- which calls --


def _sample(
    store: Store,
    feature: str | None,
    origin: Origin,
    after: int | None,
    count: int,
    rng: random.Random,
) -> list[str]:
    if origin == "alert":
        return _of_alerts(store, feature)[:count]
    if origin == "random":
        found = _recorded(store, feature, after)
        rng.shuffle(found)
        return list(islice((call for call in found if not _labelled_by_hand(store, call)), count))
    found = [
        one.interaction.id
        for name in ([feature] if feature else _features(store))
        for one in store.scored(name, since=after, limit=_POOL)
        if _FITS[origin](one.scores)
        and _answered(one.interaction)
        and not any(score.name == "labelled_right" for score in one.scores)
    ]
    rng.shuffle(found)
    return found[:count]


def _recorded(store: Store, feature: str | None, after: int | None) -> list[str]:
    """The newest answered calls, scored or not."""
    found: list[str] = []
    cursor = None
    while len(found) < _POOL:
        page = store.interactions(Filter(feature=feature, since=after), limit=200, cursor=cursor)
        found += [call.id for call in page.rows if _answered(call)]
        cursor = page.next
        if cursor is None or not page.rows:
            break
    return found


def _labelled_by_hand(store: Store, call: str) -> bool:
    return any(row.kind == "label" for row in store.feedback(call))


def _features(store: Store) -> list[str]:
    names = [name for name, _ in store.facets(Filter()).get("feature", [])]
    return [name for name in names if not name.startswith(OWN_FEATURES)]


def _answered(call: Interaction) -> bool:
    own = call.feature.startswith(OWN_FEATURES)
    return call.output_node is not None and not call.tool_calls and not own


def _disagree(scores: Sequence[Score]) -> bool:
    """Whether a judge says one thing and another judge, or an axis, another."""
    said = {s.name: s.value >= 0.5 for s in scores if s.value is not None}
    judges = {value for name, value in said.items() if name.startswith("judge_")}
    axes = {value for name, value in said.items() if name in JUDGED_AXES}
    return len(judges) == 2 or bool(judges and axes and judges != axes)


def _is_judged(scores: Sequence[Score]) -> bool:
    return any(s.name.startswith("judge_") and s.value is not None for s in scores)


_FITS: dict[Origin, Callable[[Sequence[Score]], bool]] = {
    "judged": _is_judged,
    "disagreements": _disagree,
}


def _of_alerts(store: Store, feature: str | None) -> list[str]:
    found: dict[str, None] = {}
    for row in store.alerts(firing=True):
        alert = row.alert
        if feature and alert.feature != feature:
            continue
        after = alert.change.examples_after if alert.change is not None else ()
        found.update(dict.fromkeys((*after, *alert.evidence)))
    return [
        call
        for call in found
        if (one := store.interaction(call)) is not None
        and _answered(one)
        and not _labelled_by_hand(store, call)
    ]


# -- showing and asking --


def _go_through(store: Store, calls: Sequence[str], ask: Callable[[str], str]) -> int:
    labelled = 0
    for number, call in enumerate(calls, 1):
        entry = store.entry(call)
        if entry is None:
            continue
        _show(store, entry, f"{number} of {len(calls)}")
        said = _verdict(store, entry, ask)
        if said == "quit":
            break
        labelled += said == "labelled"
    return labelled


def _verdict(store: Store, entry: Entry, ask: Callable[[str], str]) -> str:
    comment = ""
    while True:
        try:
            key = ask(_KEYS).strip().lower()[:1]
        except EOFError:
            return "quit"
        if key in ("y", "n"):
            store.add_feedback(_feedback(entry.interaction.id, float(key == "y"), comment))
            return "labelled"
        if key == "c":
            comment = ask("Comment: ").strip()[:_COMMENT]
        elif key == "m":
            _show(store, entry, "whole", whole=True)
        elif key in ("s", "q"):
            if comment:
                store.add_feedback(_feedback(entry.interaction.id, None, comment))
            return "quit" if key == "q" else "skipped"


def _show(store: Store, entry: Entry, head: str, *, whole: bool = False) -> None:
    call = entry.interaction
    when = output.clock_time(call.started_at)
    output.say(f"\n{head} · {fmt.one_line(call.feature, 64)} · {call.id} · {when}", "bold")
    request, answer = _request(entry), readable_text(entry.output.raw if entry.output else b"")
    most = (10**7, 10**7) if whole else (_SHOWN_REQUEST, _SHOWN_ANSWER)
    output.say("Request", "cyan")
    output.say(_indented(request if len(request) <= most[0] else f"[...] {request[-most[0] :]}"))
    output.say("Answer", "green")
    output.say(_indented(answer if len(answer) <= most[1] else f"{answer[: most[1]]} [...]"))
    for score in store.scores(call.id):
        if score.explanation and score.value is not None:
            output.say(f"  {score.name}: {fmt.visible(score.explanation)}", output.QUIET)


def _indented(text: str) -> str:
    return "\n".join(f"    {fmt.visible(line)}" for line in text.splitlines())


def _request(entry: Entry) -> str:
    """The last turn: from the user's last words on, tools' results included."""
    last = max((i for i, m in enumerate(entry.input) if m.role == "user"), default=0)
    return "\n\n".join(f"[{m.role}] {readable_text(m.raw)}" for m in entry.input[last:])


def _as_json(store: Store, entry: Entry) -> dict[str, Any]:
    call = entry.interaction
    return {
        "call": call.id,
        "feature": call.feature,
        "started_at": call.started_at,
        "request": _request(entry),
        "answer": readable_text(entry.output.raw) if entry.output is not None else "",
        "scores": [
            {"name": s.name, "value": s.value, "explanation": s.explanation}
            for s in store.scores(call.id)
        ],
    }


def _feedback(call: str, value: float | None, comment: str) -> Feedback:
    now = SystemClock().now_us()
    return Feedback(
        id=new_id("req", now).replace("req_", "fb_"),
        interaction_id=call,
        kind="comment" if value is None else "label",
        value=value,
        comment=comment[:_COMMENT],
        by=_person(),
        at=now,
    )


def _person() -> str:
    try:
        return getpass.getuser()[:64]
    except (OSError, KeyError):
        return "terminal"


__all__ = ["by_id", "export", "review"]
