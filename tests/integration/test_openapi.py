"""The OpenAPI document tells the truth: schemathesis holds the running API against it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import operations_world as works
from adminkit import Site, entry, running
from tocsin.core.operations import Ending, Kind, Work
from tocsin.gateway.admin import OPERATIONS
from tocsin.store.api import BaselineRow
from tocsin.store.operations_api import EndpointRow, Written


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    kinds = (Kind(name="batch", summary="Many at once.", run=batch),)
    with running(tmp_path_factory.mktemp("site"), require_key=True, kinds=kinds) as found:
        now = found.clock.now_us()
        found.store.append([entry(n, started_at=now - n * 1000) for n in range(20)])
        # What the document's examples name is there.
        found.store.append([entry(20, started_at=now, id="call_0199c0ffee00c0ffee00c0ffee00")])
        found.store.accept_baseline(
            BaselineRow(feature="support", signal="correct", since=now, by="ann", at=now)
        )
        seed_work(found)
        yield found


def seed_work(site: Site) -> None:
    """The operations, the effect and the messages that the document's examples name."""
    book, now = site.store.operations, site.clock.now_us()
    name = "0199c0ffee00c0ffee00c0ffee00"
    for one in (f"op_{name}", "op_0199c0ffee01c0ffee01c0ffee01"):
        log = [works.event(number, kind="counted") for number in range(3)]
        book.create(works.operation(one, kind="batch", created_at=now), b"{}", log)
        ended = {"status": "ended", "outcome": "complete", "ended_at": now}
        book.write([Written(operation_id=one, changes=ended, result=b'{"object":"list"}')])
    book.begin_step(works.step(f"step_{name}c0ff", scope="run_1", state="unknown"))
    book.add_deliveries([works.delivery(f"whd_{name}", created_at=now, next_at=now)])
    gone = EndpointRow(url="https://example.com/gone", disabled_at=now, reason="410 Gone")
    book.disable_endpoint(gone)


async def batch(_work: Work) -> Ending:
    return Ending(outcome="complete", result=b'{"object":"list"}')


@pytest.fixture(scope="module")
def document(site: Site) -> Any:
    reply = site.request("GET", "/api/openapi.json", key=site.key("viewer").secret)
    assert reply.status == 200
    return reply.json()


def test_every_operation_is_described_with_its_role(document: Any) -> None:
    assert document["openapi"] == "3.1.0"
    described = {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert set(described) == {(o.method, o.path.replace(":path", "")) for o in OPERATIONS}
    for operation in OPERATIONS:
        found = described[operation.method, operation.path.replace(":path", "")]
        assert operation.role in found["description"]
        assert found["summary"]
        for parameter in found.get("parameters", []):
            assert parameter["description"], (operation.name, parameter["name"])
    names = [o["operationId"] for o in described.values()]
    assert len(names) == len(set(names))


def test_every_reference_leads_somewhere(document: Any) -> None:
    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key == "$ref":
                    yield inner
                else:
                    yield from references(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from references(inner)

    schemas = document["components"]["schemas"]
    found = set(references(document))
    assert found
    for reference in found:
        prefix, _, name = reference.rpartition("/")
        assert prefix == "#/components/schemas"
        assert name in schemas
    unused = set(schemas) - {reference.rpartition("/")[2] for reference in found}
    assert unused == set()


def test_unknown_is_null_in_the_schema_and_always_present(document: Any) -> None:
    interaction = document["components"]["schemas"]["InteractionView"]
    for name in ("cost_nano_usd", "cost_usd", "status", "first_chunk_us"):
        assert name in interaction["required"]
        assert {"type": "null"} in interaction["properties"][name]["anyOf"]


@pytest.mark.slow
def test_schemathesis_finds_nothing_wrong_with_all_checks_on(site: Site, tmp_path: Path) -> None:
    key = site.key("admin").secret
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run"),
            f"http://127.0.0.1:{site.port}/api/openapi.json",
            *("--header", f"Authorization: Bearer {key}"),
            *("--checks", "all", "--phases", "examples,coverage,fuzzing,stateful"),
            *("--max-examples", "25", "--seed", "20261122", "--generation-database", "none"),
            *("--continue-on-failure", "--no-color", "--request-timeout", "20"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-12_000:] + done.stderr[-2_000:]
    assert "No issues found" in done.stdout, done.stdout[-4000:]


def test_every_operation_stands_in_the_manual() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    for operation in OPERATIONS:
        path = operation.path.replace(":path", "")
        assert f"| `{operation.method} {path}` | {operation.role} |" in manual
