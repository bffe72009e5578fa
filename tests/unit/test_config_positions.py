"""Every key of a TOML text is found on the line where it stands."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.config.positions import positions


def paths_of(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every path that ``tomllib`` found."""
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    found = [path] if path else []
    for key, inner in items:
        found += paths_of(inner, (*path, key))
    return found


SAMPLES = {
    "tables": '[a]\nx = 1\n\n[b.c]\ny = "z"\n',
    "comments and blank lines": "# one\n\n  # two\n[a] # three\nx = 1 # four\n",
    "dotted keys": "a.b.c = 1\na.d = 2\n",
    "quoted keys": '["a.b"]\n"x y" = 1\n\'z\' = 2\n',
    "arrays of tables": "[[a]]\nx = 1\n[[a]]\nx = 2\n[a.b]\ny = 3\n[[a.c]]\nz = 4\n",
    "inline tables": 'a = {x = 1, y = {z = "}"}}\nb = [{x = 1}, {x = "]"}]\n',
    "arrays over lines": 'a = [\n  1, # one, ]\n  "two]",\n\n  [3, 4],\n]\nb = 5\n',
    "multi-line strings": 'a = """\n[b]\nx = 1 \\""" \n"""\nc = \'\'\'\n"""\n[d]\'\'\'\ne = 1\n',
    "a multi-line string that ends in quotes": 'a = """x"""""\nb = 1\n',
    "dates and numbers": "a = 1979-05-27 07:32:00\nb = -1_000.5e3\nc = inf\n",
    "windows line ends": "[a]\r\nx = 1\r\ny = 2\r\n",
    "no line end at the end": "a = 1\nb = true",
}


@pytest.mark.parametrize("text", SAMPLES.values(), ids=SAMPLES)
def test_every_key_that_tomllib_finds_has_a_line(text: str) -> None:
    lines = positions(text)
    assert set(paths_of(tomllib.loads(text))) <= set(lines)


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        ("[a]\nx = 1\n", ("a", "x"), 2),
        ("[a]\n\n# c\ny = 1\n", ("a", "y"), 4),
        (SAMPLES["arrays of tables"], ("a", 1, "x"), 4),
        (SAMPLES["arrays of tables"], ("a", 1, "c", 0, "z"), 8),
        (SAMPLES["arrays over lines"], ("a", 1), 3),
        (SAMPLES["arrays over lines"], ("b",), 7),
        (SAMPLES["multi-line strings"], ("e",), 8),
        (SAMPLES["inline tables"], ("b", 1, "x"), 2),
        (SAMPLES["windows line ends"], ("a", "y"), 3),
    ],
)
def test_a_key_stands_on_its_line(text: str, path: tuple[str | int, ...], line: int) -> None:
    assert positions(text)[path] == line


VALUES = st.sampled_from(["1", '"a # b"', "'c = d'", "[1, 2]", "{k = 1}", '"""\nm\n"""', "[\n]"])


@given(st.lists(VALUES, max_size=8))
def test_whatever_comes_before_a_key_its_line_is_right(values: list[str]) -> None:
    text = "".join(f"k{i} = {value}\n" for i, value in enumerate(values)) + "last = 1\n"
    assert positions(text)[("last",)] == text.count("\n")


def test_the_documented_example_has_a_line_for_every_setting() -> None:
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    example = page.split("```toml\n")[1].split("```")[0]
    assert set(paths_of(tomllib.loads(example))) <= set(positions(example))
