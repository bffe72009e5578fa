"""Every setting, command and extension point is documented, and the pages agree with the code."""

import re
from pathlib import Path

import pytest
import typer

from tocsin.cli.commands import app
from tocsin.cli.document import document as command_page
from tocsin.config.describe import schema_of
from tocsin.config.document import document as settings_page
from tocsin.config.model import Config
from tocsin.core.domain import Domain

ROOT = Path(__file__).parents[2]


def test_the_settings_page_is_what_the_settings_say() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == settings_page(), "run `make docs`"


def test_the_command_page_is_what_the_commands_say() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    assert page == command_page(), "run `make docs`"


def test_every_setting_says_what_it_means() -> None:
    def silent(schema: dict[str, object], path: str) -> list[str]:
        found = []
        properties = schema.get("properties", {})
        assert isinstance(properties, dict)
        for name, setting in properties.items():
            inner = setting.get("additionalProperties") or setting.get("items") or setting
            if isinstance(inner, dict) and "properties" in inner:
                found += silent(inner, f"{path}{name}.")
            elif not setting.get("description"):
                found.append(f"{path}{name}")
        return found

    assert silent(dict(schema_of(Config)), "") == []


def test_every_command_and_option_says_what_it_does_and_gives_an_example() -> None:
    wrong = []
    for command in commands():
        if not command.help:
            wrong.append(f"{command.name}: no help")
        if "Example" not in (command.epilog or ""):
            wrong.append(f"{command.name}: no example")
        for parameter in command.params:
            if not getattr(parameter, "help", None) and parameter.name not in ("limit", "help"):
                wrong.append(f"{command.name} {parameter.name}: no help")
    assert wrong == []


def commands() -> list[typer.core.TyperCommand]:
    found = []
    for command in typer.main.get_command(app).commands.values():  # type: ignore[attr-defined]
        found += list(getattr(command, "commands", {}).values()) or [command]
    return found


@pytest.mark.parametrize("point", ["Policy", "Evaluator", "Detector", "Panel", "Command"])
def test_every_way_to_extend_tocsin_is_documented(point: str) -> None:
    assert f"`{point}`" in (ROOT / "CONTRIBUTING.md").read_text()


def test_every_field_of_a_domain_is_a_documented_extension_point() -> None:
    fields = set(Domain.__struct_fields__) - {"name", "summary"}
    assert fields == {"policies", "evaluators", "detectors", "panels", "commands", "kinds"}


def test_every_file_that_a_document_names_exists() -> None:
    missing = []
    for page in pages():
        for name in re.findall(
            r"`((?:src|tests|docs|bench|requirements)/[\w./\-]+)`", page.read_text()
        ):
            if "NAME" not in name and not (ROOT / name).exists():
                missing.append(f"{page.name}: {name}")
    assert missing == []


def test_every_link_between_documents_leads_somewhere() -> None:
    broken = []
    for page in pages():
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []


def test_every_page_and_decision_is_in_its_index() -> None:
    lost = [
        str(page.relative_to(ROOT))
        for page in (ROOT / "docs").rglob("*.md")
        if page.name != "README.md"
        and f"({page.name})" not in (page.parent / "README.md").read_text()
    ]
    assert lost == []


def pages() -> list[Path]:
    return [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def test_the_glossary_explains_every_noun_of_the_core() -> None:
    glossary = (ROOT / "docs" / "glossary.md").read_text()
    nouns = ("Feature", "Call", "Attempt", "Interaction", "Run", "Outcome", "Policy", "Provider",
             "Upstream", "Decision", "Identity", "Principal", "Domain", "Evaluator", "Detector",
             "Panel", "Score", "Alert", "Message", "Node", "Journal", "Segment")  # fmt: skip
    assert [noun for noun in nouns if f"**{noun}**" not in glossary] == []


def test_every_package_has_its_sentence_in_the_architecture() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    packages = [path.parent.name for path in (ROOT / "src" / "tocsin").glob("*/__init__.py")]
    assert [name for name in packages if f"`{name}/`" not in text] == []
