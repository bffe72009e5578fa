"""tau-bench trajectories: a JSON list of runs, each with its messages and its reward."""

from collections.abc import Iterator
from typing import Any

from tocsin.core.interaction import Entry
from tocsin.importers.build import clean, to_message
from tocsin.importers.files import BadRecord, Sample, Source
from tocsin.importers.formats.api import Format, Records
from tocsin.importers.formats.chat import Conversation, calls, identity, verdict_of
from tocsin.importers.messages import as_text


def matches(sample: Sample) -> bool:
    """Whether the first record is a run of tau-bench."""
    return {"traj", "task_id"} <= sample.keys


def read(source: Source) -> Records:
    """Every call of every run; the run's reward stands on its last call."""
    for record in source.objects():
        if isinstance(record, BadRecord):
            yield record
            continue
        line, value = record
        fault = _fault(value)
        if fault:
            yield source.bad(line, fault)
        else:
            yield from _calls(source, value)


def _fault(value: dict[str, Any]) -> str:
    messages = value.get("traj")
    if not isinstance(messages, list):
        return '"traj" is no list of messages'
    roles = [m.get("role") if isinstance(m, dict) else None for m in messages]
    for number, role in enumerate(roles):
        if not isinstance(role, str) or not role:
            return f"traj[{number}] is no message: it needs a role"
    return "" if "assistant" in roles else "has no assistant message, so it holds no finished call"


def _calls(source: Source, value: dict[str, Any]) -> Iterator[Entry]:
    messages = tuple(to_message(item) for item in value["traj"])
    task, trial = as_text(value.get("task_id")), as_text(value.get("trial"))
    attributes = {"tau_bench.task": clean(task)}
    if trial:
        attributes["tau_bench.trial"] = clean(trial)
    told = Conversation(
        messages=messages,
        about=("tau-bench", task, trial, identity(messages)),
        end_user=_user(value.get("info")),
        attributes=attributes,
        verdict=verdict_of({"reward": value.get("reward")}),
    )
    return calls(source, told)


def _user(info: Any) -> str | None:
    task = info.get("task") if isinstance(info, dict) else None
    user = task.get("user_id") if isinstance(task, dict) else None
    return clean(user) if isinstance(user, str) else None


FORMAT = Format(name="tau-bench", title="tau-bench trajectories", matches=matches, read=read)
