"""What calls cost."""

import socket
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.config.model import Price
from tocsin.core.interaction import Usage
from tocsin.providers.pricing import Pricer
from tocsin.providers.tokens import EXACT_CHARACTERS, TokenCounter

NOW = 1_760_000_000_000_000
PRICER = Pricer()
COUNT = TokenCounter()


def usage(input_tokens: int | None = 1000, output_tokens: int | None = 100, **more: Any) -> Usage:
    return Usage(input_tokens=input_tokens, output_tokens=output_tokens, source="reported", **more)


def listed(provider: str, model: str, counted: Usage) -> int:
    """The price list's own calculation."""
    from genai_prices import Usage as Tokens
    from genai_prices import calc_price

    counts = Tokens(
        input_tokens=counted.input_tokens,
        output_tokens=counted.output_tokens,
        cache_read_tokens=counted.cache_read_tokens,
        cache_write_tokens=counted.cache_write_tokens,
        output_reasoning_tokens=counted.reasoning_tokens,
    )
    from datetime import UTC, datetime

    at = datetime.fromtimestamp(NOW / 1e6, UTC)
    found = calc_price(counts, model, provider_id=provider, genai_request_timestamp=at)
    return round(found.total_price * 1_000_000_000)


def test_a_known_model_costs_what_it_says() -> None:
    # 1,000 tokens at 2.50 and 100 at 10.00 US dollars a million.
    assert PRICER("openai", "gpt-4o", usage(), NOW) == (3_500_000, "listed")


def test_cached_tokens_cost_less_than_fresh_ones() -> None:
    cached = PRICER("openai", "gpt-4o", usage(cache_read_tokens=800), NOW)[0]
    assert cached == 3_500_000 - 800 * 1_250


@given(
    name=st.sampled_from(
        [
            ("openai", "gpt-4o-mini-2024-07-18"),
            ("openai", "o3-mini"),
            ("anthropic", "claude-sonnet-4-5"),
            ("google", "gemini-2.5-pro"),
            ("deepseek", "deepseek-chat"),
            ("perplexity", "sonar-deep-research"),
        ]
    ),
    fresh=st.integers(0, 400_000),
    output=st.integers(0, 50_000),
    read=st.integers(0, 100_000),
    reasoning=st.integers(0, 1000),
)
def test_every_cost_agrees_with_the_lists_own_calculation_to_a_nano_dollar(
    name: tuple[str, str], fresh: int, output: int, read: int, reasoning: int
) -> None:
    counted = usage(
        fresh + read,
        output,
        cache_read_tokens=read,
        reasoning_tokens=min(reasoning, output),
        cache_write_tokens=0,
    )
    cost = PRICER(*name, counted, NOW)[0]
    assert cost is not None
    assert abs(cost - listed(*name, counted)) <= 1


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "no-such-model"),
        ("openai_compatible", "llama-3.1-70b"),
        ("openai_compatible", "gpt-oss-20b"),
        ("", "mistral-7b"),
        ("local", "gpt-4o"),
        ("replay", "gpt-4o"),
        ("scripted", ""),
    ],
)
def test_an_unknown_price_is_none_and_never_zero(provider: str, model: str) -> None:
    assert PRICER(provider, model, usage(), NOW) == (None, "unknown")


def test_without_any_count_there_is_no_cost() -> None:
    for model in ("gpt-4o", "deepseek-chat"):
        assert PRICER("openai", model, usage(None, None), NOW) == (None, "unknown")
    assert PRICER("openai", "text-embedding-3-small", usage(1000, None), NOW)[0] == 20_000


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai_compatible", "gpt-4o"),
        ("openai_compatible", "openai/gpt-4o"),
        ("azure.ai.openai", "gpt-4o"),
        ("scripted", "gpt-4o"),
    ],
)
def test_a_makers_model_is_priced_wherever_it_was_called(provider: str, model: str) -> None:
    assert PRICER(provider, model, usage(), NOW) == (3_500_000, "listed")


def test_overrides_win_and_are_exact() -> None:
    pricer = Pricer(
        {
            "gpt-4o": Price(input=0.1, output=0.3),
            "local/*": Price(input=0, output=0),
            "house-*": Price(input=1, output=2, cache_read=0.5, cache_write=3),
        }
    )
    assert pricer("openai", "gpt-4o", usage(), NOW) == (130_000, "override")
    assert pricer("local", "smollm2", usage(), NOW) == (0, "override")
    cached = usage(cache_read_tokens=100, cache_write_tokens=10)
    assert pricer("x", "house-7b", cached, NOW)[0] == 890 * 1000 + 50_000 + 30_000 + 200_000


def test_new_overrides_apply_at_once() -> None:
    pricer = Pricer({"m": Price(input=1, output=1)})
    assert pricer("x", "m", usage(), NOW)[0] == 1_100_000
    pricer.configure({"m": Price(input=2, output=2)})
    assert pricer("x", "m", usage(), NOW)[0] == 2_200_000
    pricer.configure({})
    assert pricer("x", "m", usage(), NOW) == (None, "unknown")


def test_counts_that_contradict_each_other_still_give_a_cost() -> None:
    odd = usage(10, 1, cache_read_tokens=500, reasoning_tokens=50)
    for provider, model in (("openai", "gpt-4o"), ("deepseek", "deepseek-chat")):
        cost = PRICER(provider, model, odd, NOW)[0]
        assert cost is not None
        assert cost > 0


def test_pricing_touches_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    pricer = Pricer()
    pricer.warm()
    assert pricer("anthropic", "claude-sonnet-4-5", usage(), NOW)[1] == "listed"
    assert not [t for t in threading.enumerate() if "price" in t.name.lower()]


def test_many_threads_price_alike() -> None:
    pricer = Pricer()
    found: list[Any] = []

    def work() -> None:
        for number in range(200):
            pricer("openai", f"gpt-4o-{number % 7}", usage(), NOW)
            found.append(pricer("openai", "gpt-4o", usage(), NOW))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [(3_500_000, "listed")] * (6 * 200)


def test_names_that_callers_make_up_do_not_fill_the_memory() -> None:
    pricer = Pricer({"m": Price(input=1, output=1)})
    for number in range(10_000):
        pricer("local", f"m{number}", usage(), NOW)
    assert len(pricer._state.known) <= 4096


def test_tokens_are_counted_and_special_ones_are_text() -> None:
    assert COUNT("hello world") == 2
    assert COUNT("") == 0
    assert COUNT("<|endoftext|>") > 1


def test_a_very_long_text_is_estimated_from_samples() -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 4000
    assert len(text) > 5 * EXACT_CHARACTERS
    assert abs(COUNT(text) - 40_000) < 2_000
