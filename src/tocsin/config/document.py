"""Writes ``docs/configuration.md`` from the settings themselves.

``python -m tocsin.config.document FILE`` writes the page; without FILE it prints it. A test holds
the page in the repository equal to what this makes.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tocsin.config.describe import allowed, default, schema_of
from tocsin.config.load import ENVIRONMENT, dotted
from tocsin.config.model import Config

_HEAD = """\
# Configuration

Every setting of Tocsin, with its default. None is needed: without a file Tocsin listens on
`127.0.0.1:4600`, keeps its data in `.tocsin`, and sends calls to OpenAI and Anthropic, with the
keys in `OPENAI_API_KEY` and `ANTHROPIC_API_KEY` or, where these are not set, with the key that your
app sends.

<!-- Made from src/tocsin/config/model.py by `make docs`; change it there. -->

## Where settings come from

1. The file named by `--config FILE`, else by the variable `TOCSIN_CONFIG`, else `tocsin.toml` in
   the current folder.
2. Environment variables, which win over the file (table below).
3. The defaults on this page.

`tocsin check` reads it all and names file, line, setting and fix for everything that is wrong.
`kill -HUP` on a running Tocsin reads the file again: a good file takes effect without a restart and
without dropping a call, a bad one is refused and the old settings stay. A changed `[server]`,
`[auth]`, `[store]` or `[otlp]` table waits for the next start, and Tocsin says so.

Secrets never stand in the file. A setting whose name ends in `_env` holds the *name* of an
environment variable.

```toml
[server]
port = 4600

[store]
keep_days = 90
max_gib = false            # no ceiling

[upstreams.openai]
kind = "openai"
api_key_env = "OPENAI_API_KEY"

[upstreams.house]          # anything that speaks the OpenAI API: vLLM, Ollama, Azure, ...
kind = "openai"
base_url = "http://127.0.0.1:8000/v1"
models = ["llama-*", "qwen-*"]

[features.support-chat]
targets = [
  { upstream = "openai", tier = 0 },
  { upstream = "house", tier = 1, model = "llama-3.3-70b" },  # only when OpenAI fails
]

[prices."llama-3.3-70b"]   # US dollars per million tokens
input = 0.2
output = 0.2
```

A fallback to the next tier happens only while no byte of an answer has been sent to the caller:
after the first chunk of a stream nothing can be taken back. Every attempt is recorded and paid for.
"""

_VARIABLES = """\
## Environment variables

| Variable | Stands for |
|---|---|
"""

_OTHER_VARIABLES = (
    ("TOCSIN_CONFIG", "the configuration file, when `--config` is not given"),
    ("TOCSIN_SECRET", "the secret that keys and sign-ins are hashed with; default: a file in "
     "`server.data_dir`, made at the first start"),
    ("OPENAI_API_KEY, ANTHROPIC_API_KEY", "keys for the two upstreams that exist when none is "
     "configured"),
    ("NO_COLOR", "prints without colour when set"),
)  # fmt: skip


def document() -> str:
    """The whole page as Markdown."""
    schema = schema_of(Config)
    parts = [_HEAD, _variables()]
    for name, section in schema["properties"].items():
        parts.extend(_section((name,), section))
    return "\n".join(parts)


def _variables() -> str:
    rows = [f"| `{name}` | `{dotted(path)}` |" for name, path in ENVIRONMENT.items()]
    for names, meaning in _OTHER_VARIABLES:
        quoted = ", ".join(f"`{name}`" for name in names.split(", "))
        rows.append(f"| {quoted} | {meaning} |")
    return _VARIABLES + "\n".join(rows) + "\n"


def _section(path: tuple[str, ...], schema: Mapping[str, Any]) -> Iterator[str]:
    """A heading and a table for one section, and for the lists of tables inside it."""
    inner = schema.get("additionalProperties")
    if isinstance(inner, dict):
        yield from _section((*path, "NAME"), inner)
        return
    fence = ("[[", "]]") if schema.get("type") == "array" else ("[", "]")
    section = schema["items"] if schema.get("type") == "array" else schema
    yield f"## `{fence[0]}{'.'.join(path)}{fence[1]}`\n"
    yield section["description"].replace("``", "`") + "\n"
    yield "| Setting | Default | Allowed | Meaning |\n|---|---|---|---|"
    for name, setting in section["properties"].items():
        given = default(setting) or ("" if name in section.get("required", ()) else "none")
        yield (
            f"| `{name}` | {given or '**required**'} | {allowed(setting)} "
            f"| {setting['description']} |"
        )
    yield ""
    for name, setting in section["properties"].items():
        if setting.get("type") == "array" and "properties" in setting["items"]:
            yield from _section((*path, name), setting)


def main() -> None:
    """Write the page to the file named on the command line, or print it."""
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(document(), encoding="utf-8")
    else:
        sys.stdout.write(document())


if __name__ == "__main__":
    main()
