"""What the headers of a request make of its record."""

from tocsin.core.call import Call, Principal
from tocsin.runtime.intake import take_in


def taken(*headers: tuple[bytes, bytes]) -> Call:
    body = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}], "user": "from-body"}'
    call, refused = take_in(
        "gateway", "POST", "/v1/chat/completions", b"", headers, Principal(), body, 1
    )
    assert refused is None
    return call


def test_a_call_without_headers_of_ours_says_nothing_of_release_or_cohort() -> None:
    call = taken((b"content-type", b"application/json"))
    assert (call.feature, call.end_user, call.release) == ("default", "from-body", None)
    assert call.draft.facts is None


def test_release_cohort_and_prompt_are_kept_for_the_slices() -> None:
    call = taken(
        (b"tocsin-release", b"2026-11-02"),
        (b"tocsin-cohort", b"free"),
        (b"tocsin-prompt", b"v7"),
        (b"tocsin-user", b"ann"),
    )
    assert (call.release, call.end_user) == ("2026-11-02", "ann")
    assert call.draft.facts == {"cohort": "free", "prompt": "v7"}


def test_a_header_is_cut_to_what_a_record_holds_and_an_empty_one_says_nothing() -> None:
    call = taken((b"tocsin-release", b"r" * 500), (b"tocsin-cohort", b""))
    assert call.release == "r" * 120
    assert call.draft.facts is None
