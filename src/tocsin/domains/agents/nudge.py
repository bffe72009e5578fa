"""What a nudge says: what repeats, how often, and what would help. Plain words, at most 80.

Arguments are the model's own words and come back to it in a message of ours, so they are quoted as
JSON text and cut short. What tools answered is never repeated: that is where a page or a file could
speak to the model.
"""

import re
from collections.abc import Mapping

import msgspec

from tocsin.core.supervision import Evidence, Finding

MAX_WORDS = 80
_QUOTED = 100
"""Characters of arguments that are quoted."""
_NAME = 64
_COUNT = re.compile(r"^(\d{1,6}) |called (\d{1,6}) times")
"""How the engine's summaries say how often; the evidence shows only some of the steps."""

_HELP: Mapping[str, str] = {
    "identical": "Calling it again will bring the same. Use what you have, try different arguments "
    "or another tool, or say what is missing and finish.",
    "near_duplicate": "Small changes of the arguments bring nothing new. Use what you have, try "
    "another way, or say what is missing and finish.",
    "same_failure": "Trying again will not mend it. Read the error, change what it names, use "
    "another way, or say what does not work and finish.",
    "alternation": "Going back and forth changes nothing. Decide with what is known, or say what "
    "blocks the decision and finish.",
    "nothing_new": "What comes back is already known. Answer from it, or look somewhere else.",
    "monologue": "Act now: call a tool or give the answer.",
    "no_progress": "Nothing new has come back for a while. Answer from what is known, or change "
    "the approach.",
    "growing_context": "Summarise what matters, drop the rest, and finish the task.",
    "rising_cost": "Finish with what is known; ask only for what is still missing.",
    "no_end": "The task has taken far more steps than usual. Finish with what is known, or say "
    "what is missing.",
}
_ELSE = "Change the approach, or say what is missing and finish."


def nudge(finding: Finding) -> str:
    """The message for a finding."""
    text = f"Notice from the supervisor of this run: {_what(finding)} "
    return _cut(text + _HELP.get(finding.detector, _ELSE))


def _what(finding: Finding) -> str:
    """The fact, with the tool, its arguments and the number of times."""
    steps = [step for step in finding.evidence if step.tool]
    if finding.detector in ("identical", "near_duplicate", "same_failure", "nothing_new") and steps:
        last = steps[-1]
        alike = sum(step.tool == last.tool for step in steps)
        found = _COUNT.search(finding.summary)
        alike = max(alike, int(found[1] or found[2])) if found else alike
        since = next(step.call for step in steps if step.tool == last.tool)
        failed = finding.detector == "same_failure"
        said = "failed in the same way" if failed else "brought nothing new"
        return (
            f"the tool {_name(last.tool)} was called {alike} times since call {since}, last with "
            f"{_quoted(last)}, and {said}."
        )
    if finding.detector == "alternation" and len(steps) >= 2:
        return f"the calls alternate between {_name(steps[-2].tool)} and {_name(steps[-1].tool)}."
    if finding.detector == "monologue":
        return f"the last answers repeat one another, up to call {finding.call}, without any act."
    return f"this is call {finding.call}, and the run makes no progress."


def _name(tool: str) -> str:
    return msgspec.json.encode(tool[:_NAME]).decode()


def _quoted(step: Evidence) -> str:
    """Arguments as JSON text: nothing in them stands for itself."""
    text = " ".join(step.arguments.split())
    short = text if len(text) <= _QUOTED else text[: _QUOTED - 1] + "…"
    return "no arguments" if not short else "the arguments " + msgspec.json.encode(short).decode()


def _cut(text: str) -> str:
    words = text.split(" ")
    return text if len(words) <= MAX_WORDS else " ".join(words[: MAX_WORDS - 1]) + " …"
