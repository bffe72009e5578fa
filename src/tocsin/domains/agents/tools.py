"""What a tool does, told from its name and, for shells and editors, from its command."""

import re
from functools import lru_cache

from tocsin.core.lexicon import lexicon
from tocsin.core.tool_results import Kind

_SPLIT = re.compile(r"[^A-Za-z]+|(?<=[a-z])(?=[A-Z])")

_READ = lexicon(
    """
    get read list ls dir search find lookup look fetch query view show cat check describe open
    browse grep rg glob retrieve status inspect scroll select head tail stat count examine
    verify validate calculate compute is has poll wait sleep diff tree pwd wc which ps env goto
    visit load recall explain analyze analyse compare summarize summarise
    """
)
_WRITE = lexicon(
    """
    write edit update create delete insert append replace str apply patch set put post send add
    remove rm move mv rename copy cp save upload submit book cancel modify exchange return
    commit push install mkdir touch transfer handoff hand delegate assign publish click type
    fill press take drop use clean heat cool change undo redo format schedule pay refund notify
    reply finish merge
    """
)
_TALK = lexicon(
    "think thought thinking plan reflect note notes reason reasoning todo todowrite memo"
)
_SHELL = lexicon("bash shell sh terminal command commands cmd exec powershell zsh console")
_LISTING = lexicon("ls dir list find glob tree search lookup grep rg")
_READ_COMMANDS = lexicon(
    """
    ls dir cat head tail less more grep egrep fgrep rg ag find fd pwd tree wc stat file which
    whereis env printenv ps df du whoami id uname type diff jq nl sort uniq readlink realpath
    basename dirname ll la locate
    """
)
_GIT_READS = lexicon("status log diff show branch blame ls-files grep remote rev-parse")
_LEAD = re.compile(r"^\s*(?:(?:cd|pushd)\s+[^&;|]+(?:&&|;)\s*|sudo\s+|time\s+|timeout\s+\S+\s+)*")


@lru_cache(maxsize=2048)
def _by_name(name: str) -> tuple[Kind, bool, bool]:
    found = [word.lower() for word in _SPLIT.split(name[:120]) if word]
    shell = not _SHELL.isdisjoint(found)
    for word in found:
        if word in _TALK:
            return "talk", False, shell
        if word in _WRITE:
            return "write", False, shell
        if word in _READ:
            return "read", word in _LISTING, shell
    return "other", False, shell


def kind_of(name: str, command: str) -> tuple[Kind, bool]:
    """What a call does, and whether it lists things. ``command``: what the tool is told to do."""
    kind, listing, shell = _by_name(name)
    if shell:
        return _by_command(command)
    if command and len(command) <= 40 and " " not in command and kind != "read":
        by_command = _by_name(command)
        if by_command[0] != "other":
            return by_command[0], by_command[1]
    return kind, listing


def _by_command(command: str) -> tuple[Kind, bool]:
    rest = command[_LEAD.match(command).end() :]  # type: ignore[union-attr]
    parts = rest.split(None, 3)
    if (
        not parts
        or ">" in command.replace("2>&1", "").replace("2>/dev/null", "")
        or "tee " in command
    ):
        return "other", False
    name = parts[0].rsplit("/", 1)[-1]
    if name in _READ_COMMANDS:
        return "read", name in _LISTING
    if name == "git" and len(parts) > 1 and parts[1] in _GIT_READS:
        return "read", False
    if name == "sed" and len(parts) > 1 and parts[1] == "-n":
        return "read", False
    return "other", False
