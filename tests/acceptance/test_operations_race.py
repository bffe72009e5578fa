"""kill -9 in work that charges: the small form of ``bench/operations_kill.py``."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import openai
import pytest

from responses_world import words
from support.process import Tocsin
from tocsin.providers.scripted_server import ScriptedServer
from tocsin.store import Filter

CONFIG = '[upstreams.main]\nbase_url = "{url}"\napi_key_env = "UPSTREAM_KEY"\n'
RACE = Path(__file__).parents[2] / "bench" / "operations_kill.py"


@pytest.mark.slow
def test_the_real_server_killed_at_random_instants_charges_once_and_loses_nothing(
    tmp_path: Path,
) -> None:
    report = tmp_path / "report.json"
    folder = tmp_path / "run"
    folder.mkdir()
    words = ["--kills", "12", "--up", "0.4", "--deaths", "0.1"]
    done = subprocess.run(
        [sys.executable, str(RACE), *words, "--json", str(report), "--folder", str(folder)],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    row = json.loads(report.read_text())["rows"][0]
    kinds = {kind["kind"]: kind for kind in row["kinds"]}
    assert row["wrong"] == []
    assert row["bank_died"] > 0
    assert kinds["shop"]["outcomes"]["unknown"] > 0, "kills met charges under way"
    assert set(kinds["shop_that_asks"]["outcomes"]) == {"complete"}
    assert kinds["response"]["outcomes"]["complete"] > 0
    assert sum(kind["taken_over"] for kind in kinds.values()) > 3


async def test_a_call_that_was_killed_is_on_record_for_its_operation(tmp_path: Path) -> None:
    async with ScriptedServer(lambda _: words(400, gap_s=0.02)) as server:
        config = CONFIG.format(url=server.url)
        with Tocsin(tmp_path, config, env={"UPSTREAM_KEY": "sk-upstream"}) as tocsin:
            await tocsin.ready()
            client = openai.OpenAI(base_url=f"{tocsin.url}/v1", api_key="none", max_retries=0)
            made = await asyncio.to_thread(
                client.responses.create, model="m", input="Hi", background=True
            )
            await server.until(lambda: len(server.seen) == 1)
            tocsin.kill()
            tocsin.start()
            await tocsin.ready()
            seen = await asyncio.to_thread(client.responses.retrieve, made.id)
            while seen.status in ("queued", "in_progress"):
                await asyncio.sleep(0.05)
                seen = await asyncio.to_thread(client.responses.retrieve, made.id)
    store = tocsin.store()
    (row,) = store.interactions(Filter()).rows
    operation = store.operations.operation(made.id)
    store.close()
    assert operation is not None
    assert (operation.outcome, operation.calls, operation.unpriced) == ("unknown", 1, 1)
    assert (row.outcome, row.run_id) == ("unknown", operation.run_id)
    assert row.attributes == {"operation": made.id}
