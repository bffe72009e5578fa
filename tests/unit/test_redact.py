"""Secrets do not survive the one sink, whatever text stands around them."""

import logging
import string
import time
import traceback

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tocsin.core.redact import MARK, Redactor, redact, redact_headers
from tocsin.gateway.logs import RedactFilter

OURS = "tk-" + "Q7z" * 13 + "x"
SECRETS = [
    OURS,
    "sk-proj-abcDEF0123456789abcDEF0123456789",
    "sk-ant-api03-AAAAbbbbCCCCdddd_eeee-ffff",
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_0123456789abcdefghijABCDEFGHIJ012345",
    "AIzaSyA0123456789abcdefghijklmnopqrstuv",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
    "hf_abcdefghijklmnopqrstuvwxyz012345",
]
# Between a secret and its text stands something that no token contains.
borders = st.sampled_from(["", " ", '"', "'", "=", "/", ",", "(", "\n", "{", ":", "&", "?"])
plain = st.text(st.characters(codec="utf-8"), max_size=60)


@given(secret=st.sampled_from(SECRETS), before=plain, after=plain, left=borders, right=borders)
def test_a_secret_of_known_shape_never_survives(
    secret: str, before: str, after: str, left: str, right: str
) -> None:
    # A letter or digit right before it would make it part of another word.
    if not left and before[-1:].isascii() and before[-1:].isalnum():
        left = " "
    shown = redact(f"{before}{left}{secret}{right}{after}")
    assert secret not in shown
    assert secret[8:] not in shown


@given(plain)
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


TRIGGERS = [
    *("token", "api_key", "password", "cookie", "=", ":", '"', "'", "b'", ",", "Bearer", "sk-"),
    *("tk-", "x" * 16, MARK, "://", "@", "?", "key", "&", "\\", "null", "basic", "eyJ"),
    "-----BEGIN PRIVATE KEY-----",
]
words = st.sampled_from([*TRIGGERS, " ", "\n"])


@given(st.lists(words, max_size=14).map("".join))
@example("token=b'b'")
def test_redacting_twice_changes_nothing_more_in_texts_full_of_triggers(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@given(st.text(string.ascii_lowercase + " .,\n", max_size=200))
def test_prose_is_left_as_it_is(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("https://user:hunter22@db.example/x", "hunter22"),
        ("postgresql://tocsin:p@ss:word@127.0.0.1/db", "p@ss:word"),
        ("GET /login?code=Zm9vYmFyYmF6cXV4 HTTP/1.1", "Zm9vYmFyYmF6cXV4"),
        ("https://api.example/v1?key=abcdef123&alt=sse", "abcdef123"),
        ("Authorization: Bearer abc.def-ghi_jkl", "abc.def-ghi_jkl"),
        ("Authorization: Bearer letmein", "letmein"),
        ("authorization: basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ('{"api_key": "no shape at all"}', "no shape at all"),
        ('{"body": "{\\"password\\": \\"letmein\\"}"}', "letmein"),
        ("[(b'x-api-key', b'odd value')]", "odd value"),
        ("{'Authorization': 'opaque-thing'}", "opaque-thing"),
        ("aws_secret_access_key = wJalrXUtnFEMI", "wJalrXUtnFEMI"),
        ("OPENAI_API_KEY=abc123 make demo", "abc123"),
        ("Cookie: tocsin_ab=eyJhIjoxfQ.c2ln", "tocsin_ab=eyJhIjoxfQ.c2ln"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----",
            "MIIE\nabc",
        ),
        ("-----BEGIN PRIVATE KEY-----\nMIIEcut off", "MIIEcut off"),
    ],
)
def test_a_value_that_its_place_gives_away_is_redacted(text: str, secret: str) -> None:
    shown = redact(text)
    assert secret not in shown
    assert MARK in shown


@pytest.mark.parametrize(
    "text",
    [
        '{"usage": {"input_tokens": 1200, "total_tokens": 1300}, "token_count": 4}',
        "max_tokens=256 temperature=0.2",
        "https://api.openai.com/v1/chat/completions?stream=true",
        "upstream openai: 429 after 3 attempts, cooling down 30.0 s",
        "the basic idea of bearer tokens",
        "run_01hzx7m2k9 call_01hzx7m2k8 key_01hzx7",
        "someone@example.com wrote to https://example.com/a",
        '{"api_key": null}',
    ],
)
def test_what_is_no_secret_stays_readable(text: str) -> None:
    assert redact(text) == text


def test_a_value_without_a_shape_is_redacted_once_it_is_told() -> None:
    redactor = Redactor(["correct horse/battery", "abc"])
    shown = redactor.text("upstream said: correct horse/battery (correct%20horse%2Fbattery) abc")
    assert shown == f"upstream said: {MARK} ({MARK}) abc"


def test_bytes_of_any_encoding_are_redacted_and_otherwise_kept() -> None:
    redactor = Redactor(["correct horse"])
    assert redactor.data("é: correct horse \xff".encode()) == f"é: {MARK} \xff".encode()
    clean = b"\xff\x00 nothing here"
    assert redactor.data(clean) is clean


def test_secret_headers_lose_their_values_and_others_their_secrets() -> None:
    headers = (
        (b"authorization", b"whatever"),
        (b"x-forwarded-url", b"https://a:bcdef@c/"),
        (b"accept", b"*/*"),
    )
    assert redact_headers(headers) == (
        (b"authorization", b"[redacted]"),
        (b"x-forwarded-url", b"https://[redacted]@c/"),
        (b"accept", b"*/*"),
    )


@pytest.mark.parametrize(
    "unit",
    [
        "-----BEGIN PRIVATE KEY-----",
        "token ",
        "a://",
        "bearer ",
        "sk-",
        "api_key: ",
        "https://a",
        "?key=",
        'password"',
        "@",
        "secret" + " " * 8,
    ],
)
def test_time_grows_with_the_length_alone(unit: str) -> None:
    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        best = 9.0
        for _ in range(3):
            started = time.process_time()
            redact(text)
            best = min(best, time.process_time() - started)
        return best

    small, large = seconds(20_000), seconds(160_000)
    # Eight times the text: linear is 8, quadratic is 64.
    assert large < 30 * max(small, 0.0005)


def test_a_log_record_is_redacted_with_its_arguments_and_its_traceback() -> None:
    lines: list[str] = []

    class Sink(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler = Sink()
    handler.addFilter(RedactFilter(Redactor(["canary value"])))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    try:
        raise RuntimeError(f"cannot send {OURS} and canary value")
    except RuntimeError:
        logger.exception("failed with %s", {"key": OURS}, stack_info=True)
        assert OURS in traceback.format_exc()
    logger.warning("a format %d that does not fit", "canary value")
    assert OURS not in "".join(lines)
    assert "canary value" not in "".join(lines)
    assert "RuntimeError" in lines[0]
