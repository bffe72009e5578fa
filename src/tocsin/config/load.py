"""From a file and the environment to a ``Config``, or to every reason why not at once."""

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from pydantic import ValidationError

from tocsin.config import checks
from tocsin.config.defaults import default_upstreams
from tocsin.config.limits import Finding
from tocsin.config.model import Config
from tocsin.config.objectives import objective_problems, objective_warnings
from tocsin.config.positions import Path as Setting
from tocsin.config.positions import positions
from tocsin.core.errors import ConfigError
from tocsin.core.signals import Signal

FILE_NAME = "tocsin.toml"

Signals = Callable[[Config], Mapping[str, Signal]]
"""The signals that there are under a configuration, by name."""

ENVIRONMENT: Mapping[str, tuple[str, str]] = {
    "TOCSIN_HOST": ("server", "host"),
    "TOCSIN_PORT": ("server", "port"),
    "TOCSIN_DATA_DIR": ("server", "data_dir"),
    "TOCSIN_STORE_URL": ("store", "url"),
}
"""Environment variables that win over the file, and the setting that each stands for."""

# What these settings hold may be a secret that was put in the wrong place: never shown.
_SECRET = re.compile(r"api_?key|secret|token|password|url|header", re.IGNORECASE)


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing wrong, and where. ``line`` is ``None`` for what no line of the file says."""

    file: str
    line: int | None
    setting: str
    message: str

    def __str__(self) -> str:
        """``file:line: setting: message``, as editors and people read it."""
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return ": ".join(part for part in (place, self.setting, self.message) if part)


class InvalidConfig(ConfigError):
    """A configuration with at least one problem; the message lists them all, one a line."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class _Source:
    """The settings as written, and where each came from."""

    def __init__(self, path: Path | None, env: Mapping[str, str]) -> None:
        self.file = str(path) if path is not None else "environment"
        self.data: dict[str, Any] = {}
        self.lines: Mapping[Setting, int] = {}
        self.variables: dict[Setting, str] = {}
        if path is not None:
            text = _read(path)
            self.data = _parse(path, text)
            self.lines = positions(text)
        self._apply(env)

    def _apply(self, env: Mapping[str, str]) -> None:
        for variable, (section, name) in ENVIRONMENT.items():
            value = env.get(variable)
            table = self.data.setdefault(section, {}) if value else None
            if isinstance(table, dict):
                number = value is not None and name == "port" and value.strip().isdecimal()
                table[name] = int(value or 0) if number else value
                self.variables[(section, name)] = variable

    def problem(self, path: Setting, message: str) -> Problem:
        """A problem at a setting, with the nearest place that is known."""
        if path in self.variables:
            return Problem(
                file="environment", line=None, setting=self.variables[path], message=message
            )
        line = next(
            (self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), None
        )
        return Problem(file=self.file, line=line, setting=dotted(path), message=message)


def find(env: Mapping[str, str], folder: Path) -> Path | None:
    """The file to use when none is named: ``TOCSIN_CONFIG``, else ``tocsin.toml`` in ``folder``."""
    if env.get("TOCSIN_CONFIG"):
        return Path(env["TOCSIN_CONFIG"])
    path = folder / FILE_NAME
    return path if path.is_file() else None


def load(path: Path | None, env: Mapping[str, str], signals: Signals | None = None) -> Config:
    """Read, check and complete the settings; without a file every setting has its default.

    With ``signals``, objectives are held against the signals that there are, too.

    Relative paths in the file start at its folder. Where no upstream is configured, OpenAI and
    Anthropic are. Raises ``InvalidConfig`` with every problem found.
    """
    source = _Source(path, env)
    if path is not None:
        _anchor(source, path.absolute().parent)
    config, found = _validate(source)
    if config is not None:
        known = signals(config) if signals is not None and config.objectives else None
        every = (*checks.problems(config), *objective_problems(config, known))
        found += [source.problem(f.path, f.message) for f in every]
    if found or config is None:
        raise InvalidConfig(sorted(found, key=lambda p: (p.line is None, p.line or 0)))
    if not config.upstreams:
        config = config.model_copy(update={"upstreams": default_upstreams(env)})
    return config


def warnings(config: Config, env: Mapping[str, str]) -> list[str]:
    """What is allowed and yet suspicious, one sentence each, beginning with the setting."""
    every = (*checks.warnings(config, env), *objective_warnings(config))
    return [f"{dotted(f.path)}: {f.message}" for f in every]


def located(path: Path | None, env: Mapping[str, str], found: Iterable[Finding]) -> list[Problem]:
    """Findings as problems, each with the line of the file that it is about."""
    source = _Source(path, env)
    return [source.problem(f.path, f.message) for f in found]


def dotted(path: Setting) -> str:
    """A setting's name as people write it: ``features.chat.targets[0].upstream``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = re.fullmatch(r"[A-Za-z0-9_\-]+", part)
            text += ("." if text else "") + (part if bare else f'"{part}"')
    return text


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no such file; name another with --config, or leave --config out to "
            "run with the defaults"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r" \(at line (\d+), column (\d+)\)", str(error))
        if place is None:
            problem = Problem(file=str(path), line=None, setting="", message=f"not TOML: {error}")
        else:
            words = str(error).replace(place[0], "")
            problem = Problem(
                file=str(path),
                line=int(place[1]),
                setting="",
                message=f"not TOML: {words} at column {place[2]} (text needs quotes)",
            )
        raise InvalidConfig([problem]) from None


def _anchor(source: _Source, folder: Path) -> None:
    """Make the paths that the file names independent of where Tocsin is started."""
    server = source.data.setdefault("server", {})
    if isinstance(server, dict) and ("server", "data_dir") not in source.variables:
        value = server.get("data_dir", Config().server.data_dir)
        if isinstance(value, str):
            server["data_dir"] = str(folder / Path(value).expanduser())
    upstreams = source.data.get("upstreams")
    for upstream in upstreams.values() if isinstance(upstreams, dict) else ():
        value = upstream.get("path") if isinstance(upstream, dict) else None
        if value and isinstance(value, str):
            upstream["path"] = str(folder / Path(value).expanduser())
    suites = source.data.get("sentinels")
    for name, suite in suites.items() if isinstance(suites, dict) else ():
        value = suite.get("file") or f"sentinels/{name}.jsonl" if isinstance(suite, dict) else None
        if isinstance(value, str):
            suite["file"] = str(folder / Path(value).expanduser())


def _validate(source: _Source) -> tuple[Config | None, list[Problem]]:
    """The configuration, if need be without the settings that are wrong, and those problems."""
    data = _frozen(source.data)
    try:
        return Config.model_validate(data, strict=True), []
    except ValidationError as error:
        wrong: dict[Setting, str] = {}
        for detail in error.errors(include_url=False):
            path = _data_path(source.data, detail["loc"], missing=detail["type"] == "missing")
            if path not in wrong:
                own = detail["type"] == "value_error"  # a validator of ours has said it in words
                wrong[path] = (
                    str(detail["ctx"]["error"])
                    if own
                    else _explain(source.data, path, detail["type"])
                )
    for path in wrong:
        _prune(source.data, path)
    try:
        config = Config.model_validate(_frozen(source.data), strict=True)
    except ValidationError:
        config = None
    return config, [source.problem(path, message) for path, message in wrong.items()]


def _frozen(value: Any) -> Any:
    """Lists as tuples: strict validation takes a tuple setting from nothing else."""
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _data_path(data: Any, loc: tuple[str | int, ...], *, missing: bool) -> Setting:
    """The part of a pydantic location that the file has; the rest names branches of a union."""
    path: Setting = ()
    for part in loc:
        inside = part in data if isinstance(data, dict) else part in range(_length(data))
        if not inside:
            return (*path, loc[-1]) if missing else path
        data = data[part]
        path = (*path, part)
    return path


def _length(data: Any) -> int:
    return len(data) if isinstance(data, list) else 0


def _explain(data: Any, path: Setting, kind: str) -> str:
    """What was found, what is allowed, and the nearest name."""
    # Only a wrong file needs the schema: building it is kept off the start path.
    from tocsin.config.describe import allowed, schema_at, schema_of

    schema = schema_of(Config)
    if kind == "extra_forbidden":
        siblings = list((schema_at(schema, path[:-1]) or {}).get("properties", {}))
        what = "table" if isinstance(_at(data, path), dict) else "setting"
        names = ", ".join(f"`{name}`" for name in siblings)
        hint = checks.nearest(str(path[-1]), siblings) or f"; possible here: {names}"
        return f"there is no such {what}{hint}"
    rule = allowed(schema_at(schema, path) or {})
    if kind == "missing":
        return f"must be set; allowed: {rule}"
    return (
        f"found {_shown(path, _at(data, path))}; allowed: {rule}{_suggestion(data, path, schema)}"
    )


def _suggestion(data: Any, path: Setting, schema: Mapping[str, Any]) -> str:
    """The nearest of a closed set of words."""
    from tocsin.config.describe import schema_at  # as in ``_explain``

    found = schema_at(schema, path) or {}
    branches = found.get("anyOf", [found])
    words = [str(w) for b in branches for w in (*b.get("enum", ()), b.get("const", ""))]
    return checks.nearest(str(_at(data, path)), [word for word in words if word])


def _shown(path: Setting, value: Any) -> str:
    """A value as the file has it, cut short; never one that may be a secret."""
    from tocsin.config.describe import toml  # as in ``_explain``

    if any(isinstance(part, str) and _SECRET.search(part) for part in path[-1:]):
        plain = isinstance(value, bool | int | float)
        return f"`{toml(value)}`" if plain else "a value (not shown here)"
    if isinstance(value, dict):
        return "a table"
    text = toml(value)
    return f"`{text if len(text) <= 60 else text[:59] + '…'}`"


def _at(data: Any, path: Setting) -> Any:
    for part in path:
        data = data[part]
    return data


def _prune(data: Any, path: Setting) -> None:
    """Take a wrong setting out of its table, so that the others can be looked at."""
    parent = _at(data, path[:-1])
    if isinstance(parent, dict):
        parent.pop(path[-1], None)
