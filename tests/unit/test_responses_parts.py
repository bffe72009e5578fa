"""Parts of the managed front door that need no I/O: where calls go, what goes along, names."""

from typing import Any

import pytest

from tocsin.config.model import Config
from tocsin.core.errors import BadRequest, Unavailable
from tocsin.providers.scripted import ScriptedProvider
from tocsin.responses.asking import forwarded, headers_for, needs_caller, place_of
from tocsin.responses.deps import Place
from tocsin.responses.history import ItemIds, response_of


class Speaks(ScriptedProvider):
    """A provider of one dialect."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.dialects = frozenset({"anthropic" if kind == "anthropic" else "openai"})  # type: ignore[assignment]


UPSTREAMS: dict[str, Any] = {
    "chat": {"models": ["gpt-*"], "api_key_env": "K"},
    "direct": {"api": "responses", "models": ["o-*"]},
    "claude": {"kind": "anthropic", "models": ["claude-*"], "api_key_env": "K"},
}


def where(feature: str, model: str, **features: Any) -> Place:
    config = Config.model_validate({"upstreams": UPSTREAMS, "features": features})
    providers = {name: Speaks(up.kind) for name, up in config.upstreams.items()}
    return place_of(config, providers, feature, model)


def targets(*names: str) -> dict[str, Any]:
    return {"targets": [{"upstream": name, "tier": tier} for tier, name in enumerate(names)]}


@pytest.mark.parametrize(
    ("model", "api", "own"),
    [("gpt-4o", "chat", True), ("o-3", "responses", False), ("claude-x", "messages", True)],
)
def test_a_model_goes_to_the_first_upstream_that_serves_it(model: str, api: str, own: bool) -> None:
    place = where("any", model)
    assert (place.api, place.own_credential) == (api, own)


def test_a_feature_is_spoken_to_as_its_first_choice_is() -> None:
    assert where("f", "m", f=targets("claude", "chat")).api == "messages"
    assert where("f", "m", f=targets("direct", "claude")).api == "responses"
    # Not every choice has a responses API: all of them have the other.
    assert where("f", "m", f=targets("direct", "chat")).api == "chat"
    assert not where("f", "m", f=targets("chat", "direct")).own_credential
    named = {"targets": [{"upstream": "chat", "model": "gpt-x"}]}
    assert where("f", "m", f=named).model == "gpt-x"


def test_a_model_that_nobody_serves_is_not_found() -> None:
    with pytest.raises(BadRequest) as caught:
        where("any", "llama")
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")
    with pytest.raises(Unavailable):
        place_of(Config.model_validate({}), {}, "any", "m")


def test_a_callers_headers_go_along_as_far_as_they_concern_the_call() -> None:
    sent = (
        (b"authorization", b"Bearer sk-1"),
        (b"accept-encoding", b"gzip"),
        (b"last-event-id", b"4"),
        (b"tocsin-run", b"old"),
        (b"tocsin-feature", b"other"),
        (b"tocsin-cohort", b"a"),
        (b"x-trace", b"t"),
    )
    about: dict[str, Any] = {
        "feature": "f",
        "run_id": "run_1",
        "conversation_id": None,
        "end_user": "ann",
    }
    made = dict(headers_for(sent, path="/v1/chat/completions", **about))
    assert made == {
        b"authorization": b"Bearer sk-1",
        b"content-type": b"application/json",
        b"tocsin-cohort": b"a",
        b"tocsin-feature": b"f",
        b"tocsin-run": b"run_1",
        b"tocsin-user": b"ann",
        b"x-trace": b"t",
    }
    other = dict(headers_for(sent, path="/v1/messages", **about))
    assert other[b"x-api-key"] == b"sk-1"
    assert b"authorization" not in other


@pytest.mark.parametrize(
    ("name", "value", "needed"),
    [
        (b"authorization", b"Bearer sk-1", True),
        (b"authorization", b"Bearer tk-0123456789", False),
        (b"x-api-key", b"sk-ant", True),
        (b"accept", b"*/*", False),
    ],
)
def test_a_key_of_tocsins_own_is_nothing_that_an_upstream_needs(
    name: bytes, value: bytes, needed: bool
) -> None:
    assert needs_caller(((name, value),)) is needed


def test_an_error_of_any_upstream_is_one_that_the_client_reads() -> None:
    ours = b'{"error":{"message":"no","type":"invalid_request_error","param":null,"code":"c"}}'
    theirs = b'{"type":"error","error":{"type":"overloaded_error","message":"busy"}}'
    headers = ((b"content-length", b"9"), (b"retry-after", b"2"))
    assert forwarded(400, headers, ours)[2] == ours
    status, kept, body = forwarded(529, headers, theirs)
    assert (status, dict(kept)[b"retry-after"]) == (529, b"2")
    assert b"content-length" not in dict(kept)
    assert body == (
        b'{"error":{"message":"busy","type":"overloaded_error","param":null,'
        b'"code":"overloaded_error"}}'
    )
    assert b'"message":"<html>"' in forwarded(502, (), b"<html>")[2]


def test_an_items_name_tells_whose_it_is() -> None:
    ids = ItemIds("resp_0123456789ab")
    again = ItemIds("resp_0123456789ab", restarts=0)
    names = [ids("msg"), ids("fc"), again("msg"), again("msg")]
    assert len(set(names)) == 4
    assert {response_of(name) for name in names} == {"resp_0123456789ab"}
    assert response_of("msg_1") is None
