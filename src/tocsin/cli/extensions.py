"""Commands of domains beside our own, and completion scripts for shells.

A domain's commands are looked for only when a name is none of ours, so that they cost nothing
until somebody asks for one.
"""

from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from tocsin.core.errors import InputError

_ORDER = (
    *("up", "demo", "login", "replay"),
    *("runs", "show", "tail", "spend", "keys"),
    *("signals", "objectives", "sentinels", "label", "digest", "grafana"),
    *("stop", "pause", "resume", "redirect", "end", "stops", "limits"),
    *("check", "doctor", "verify", "export", "rebuild", "forget", "completion"),
)
_SHELLS = ("bash", "zsh", "fish")


class Commands(TyperGroup):
    """Our commands in the order of their purpose, then those of domains."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order in which ``help`` lists them: starting, looking, caring."""
        return sorted(self.commands, key=_rank)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command by name: ours first, then a domain's; ``None`` when there is none."""
        return super().get_command(ctx, cmd_name) or _domain_command(cmd_name)


def _rank(name: str) -> int:
    return _ORDER.index(name) if name in _ORDER else len(_ORDER)


def _domain_command(name: str) -> Any:
    """A domain's command as one of ours; the words after its name go to it as they are."""
    from tocsin.app import all_domains

    for domain in all_domains():
        for command in domain.commands:
            if command.name == name:
                return _wrapped(command.name, command.help, command.run)
    return None


def _wrapped(name: str, help_text: str, run: Any) -> Any:
    from tocsin.cli.guard import guarded

    def call(context: typer.Context) -> int:
        words: Sequence[str] = context.args
        code: int = run(words)
        return code

    wrapped = typer.Typer(add_completion=False, rich_markup_mode=None)
    everything = {"ignore_unknown_options": True, "allow_extra_args": True}
    wrapped.command(name, help=help_text, context_settings=everything)(guarded(call))
    return typer.main.get_command(wrapped)


def completion_script(shell: str) -> str:
    """The script for a shell. Raises ``InputError`` for one that is not known."""
    if shell not in _SHELLS:
        raise InputError(f"completion: found {shell!r}; allowed: {', '.join(_SHELLS)}")
    from typer import completion

    return str(
        completion.get_completion_script(  # type: ignore[attr-defined]  # imported there, public
            prog_name="tocsin", complete_var="_TOCSIN_COMPLETE", shell=shell
        )
    )
