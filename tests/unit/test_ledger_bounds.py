"""What an attempt can use at most, and what limits may be configured."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.config.model import Config, LedgerSettings, Price
from tocsin.core.call import Call, Draft, Principal
from tocsin.core.errors import ConfigError
from tocsin.core.interaction import Usage
from tocsin.core.wire import parse_request
from tocsin.ledger.bounds import Bounds, is_billed
from tocsin.ledger.limits import Matcher, limits_of
from tocsin.providers.ceilings import ceiling_of
from tocsin.providers.pricing import Pricer

AT = 1_790_000_000_000_000


def made(body: dict[str, Any], operation: str = "chat", **fields: Any) -> Call:
    raw = json.dumps(body).encode()
    parsed = parse_request("openai", operation, raw)  # type: ignore[arg-type]
    from tocsin.core.messages import chain

    values: dict[str, Any] = {
        "id": "c",
        "source": "gateway",
        "dialect": "openai",
        "operation": operation,
        "method": "POST",
        "path": "/v1/chat/completions",
        "body": raw,
        "started_at": AT,
        "feature": "f",
        "principal": Principal(key_id="key_1", name="ci"),
        "model": parsed.model,
        "max_output_tokens": parsed.max_output_tokens,
        "messages": parsed.messages,
        "nodes": chain(parsed.messages),
        "params": parsed.params,
        "draft": Draft(response_ref=parsed.response_ref),
    }
    return Call(**{**values, **fields})


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


def bounds(**settings: Any) -> Bounds:
    return Bounds(LedgerSettings(**settings), Pricer({"m": Price(input=1, output=10)}))


@given(text=st.text(max_size=300))
def test_no_text_has_more_tokens_than_its_bound(text: str) -> None:
    assert bounds().input_tokens(made(said(text)), "m") >= len(text.encode("utf-8", "ignore"))


def test_output_is_what_is_asked_for_times_the_choices() -> None:
    one, _ = bounds().worst(made(said("hi", max_tokens=50)), "p", "m")
    three, _ = bounds().worst(made(said("hi", max_tokens=50, n=3)), "p", "m")
    assert three.tokens - one.tokens >= 100
    assert three.nano_usd - one.nano_usd >= 100 * 10_000


def test_without_a_maximum_the_models_ceiling_counts_or_the_setting() -> None:
    limited = bounds(max_output_tokens=700)
    known, _ = limited.worst(made({**said("hi"), "model": "gpt-4o"}), "p", "gpt-4o")
    unknown, priced = limited.worst(made({**said("hi"), "model": "x"}), "local", "x")
    assert known.tokens > 16_384
    assert 700 <= unknown.tokens < 900
    assert not priced


def test_pictures_count_by_number_and_not_by_their_bytes() -> None:
    picture = "data:image/png;base64," + "iVBORw0KGgo" * 20_000
    parts = [
        {"type": "text", "text": "what is this?"},
        {"type": "image_url", "image_url": {"url": picture}},
        {"type": "image_url", "image_url": {"url": "https://example.com/large.png"}},
    ]
    body = {"model": "m", "messages": [{"role": "user", "content": parts}]}
    tokens = bounds(image_tokens=1000).input_tokens(made(body), "m")
    assert 2000 <= tokens < 10_000


def test_a_known_history_is_not_read_again() -> None:
    limits = bounds()
    history = [{"role": "user", "content": f"line {n}"} for n in range(50)]
    first = limits.input_tokens(made({"model": "m", "messages": history}), "m")
    longer = [*history, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "so"}]
    call = made({"model": "m", "messages": longer})
    looked: list[bytes] = []
    original = limits._more
    limits._more = lambda raw: looked.append(raw) or original(raw)  # type: ignore[method-assign,func-returns-value]
    assert limits.input_tokens(call, "m") > first
    assert len(looked) == 2


def test_a_window_over_a_history_costs_what_is_new_in_it() -> None:
    limits = bounds(image_tokens=1000)
    picture = {"type": "image_url", "image_url": {"url": "https://example.com/large.png"}}
    history = [{"role": "user", "content": f"line {n}"} for n in range(60)]
    history[7] = {"role": "user", "content": [picture]}
    looked: list[bytes] = []
    original = limits._more
    limits._more = lambda raw: looked.append(raw) or original(raw)  # type: ignore[method-assign,func-returns-value]
    for first in range(20):
        looked.clear()
        window = {"model": "m", "messages": history[first : first + 40]}
        tokens = limits.input_tokens(made(window), "m")
        assert tokens == bounds(image_tokens=1000).input_tokens(made(window), "m")
        assert (tokens > len(made(window).body) + 1000) == (first <= 7)
        assert len(looked) == (40 if first == 0 else 1)


def test_bytes_that_a_messages_hash_leaves_out_are_never_taken_off() -> None:
    limits = bounds(image_tokens=1000)
    image = {"type": "image", "source": {"type": "base64", "data": "A" * 400}}
    thought = {"type": "redacted_thinking", "data": "B" * 50_000}
    for content in ([thought, image], [image]):
        call = made({"model": "m", "messages": [{"role": "user", "content": content}]})
        assert limits.input_tokens(call, "m") >= 1000


def test_a_history_that_the_provider_keeps_counts() -> None:
    call = made({"model": "gpt-4o", "input": "go on", "previous_response_id": "resp_1"})
    assert bounds().input_tokens(call, "gpt-4o") > 128_000


def test_embeddings_have_no_output_and_counts_are_free() -> None:
    call = made({"model": "m", "input": "hello"}, "embeddings")
    worst, _ = bounds().worst(call, "p", "m")
    assert worst.tokens == len(call.body)
    assert not is_billed(made({"model": "m", "messages": []}, "count_tokens"))
    assert not is_billed(made({}, "other", method="GET"))
    assert is_billed(made({}, "other"))


def test_absurd_maxima_still_fit_a_database() -> None:
    worst, _ = bounds().worst(made(said("hi", max_tokens=10**17, n=10**9)), "p", "m")
    assert worst.nano_usd < 2**60


@pytest.mark.parametrize(
    ("provider", "model", "tokens"),
    [("anthropic", "claude-sonnet-4-5", 300_000), ("google", "gemini-2.5-pro", 300_000)],
)
def test_the_worst_price_covers_tiers_and_writing_to_a_cache(
    provider: str, model: str, tokens: int
) -> None:
    pricer = Pricer()
    worst = pricer.worst(provider, model, tokens, 1000, AT)
    assert worst is not None
    for read, written in ((0, 0), (tokens, 0), (0, tokens), (1000, tokens - 1000)):
        usage = Usage(
            input_tokens=tokens,
            output_tokens=1000,
            cache_read_tokens=read,
            cache_write_tokens=written,
            source="reported",
        )
        cost, _ = pricer(provider, model, usage, AT)
        assert cost is not None
        assert cost <= worst


def test_names_with_a_vendor_have_the_models_ceiling() -> None:
    names = ("claude-sonnet-4-5", "us.anthropic.claude-sonnet-4-5-20250929-v1:0")
    assert {ceiling_of(name) for name in names} == {ceiling_of("anthropic/claude-sonnet-4-5")}
    assert ceiling_of("my-own-model") is None
    assert ceiling_of("anthropic/claude-opus-4.6") == ceiling_of("claude-opus-4-6")


# -- limits --


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        ({}, "limits nothing"),
        ({"usd": 1, "rolling": True}, "only an hour, day or month"),
        ({"usd": 1, "per": "day", "rolling": True, "timezone": "Europe/Berlin"}, "no calendar"),
        ({"usd": 1, "warn_at": [80]}, "no fraction"),
        ({"usd": 1, "match": ["x"]}, "one organisation"),
        ({"usd": 1, "scope": "key", "match": []}, "matches nothing"),
        ({"usd": float("inf")}, "at most"),
    ],
)
def test_a_limit_that_cannot_be_meant_says_so(limit: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        limits_of(Config.model_validate({"limits": {"mine": limit}}))
    assert "limits.mine" in str(caught.value)


def test_a_call_falls_under_the_limits_that_match_it() -> None:
    limits = limits_of(
        Config.model_validate(
            {
                "limits": {
                    "all": {"usd": 1},
                    "mine": {"usd": 1, "scope": "feature", "match": ["f*"]},
                    "other": {"usd": 1, "scope": "feature", "match": ["g"]},
                    "key": {"usd": 1, "scope": "key", "match": ["ci"]},
                    "user": {"usd": 1, "scope": "end_user"},
                }
            }
        )
    )
    found = [(limit.name, value) for limit, value in Matcher(limits).of(made(said("hi")))]
    assert found == [("all", ""), ("mine", "f"), ("key", "key_1"), ("user", "")]
