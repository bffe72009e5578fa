"""What came of a call: the class of a tool's result, told from its text."""

import re
from typing import Any, Literal

import msgspec

from tocsin.core.lexicon import any_in, lexicon

Kind = Literal["read", "write", "talk", "other"]
"""What a tool does: looks, changes something, is a notepad, or cannot be told."""

_decode = msgspec.json.Decoder().decode

_ERROR = re.compile(
    r"\W*(?:errors?\b(?! ?(?:rate|bars?|margin|free|handling|log))|\w+_error>|err:"
    r"|failed\b|failure\b|fatal\b|exception\b|traceback\b"
    r"|could ?n[o']t\b|can ?not\b"
    r"|can't\b|unable to\b|invalid\b|unknown (?:command|tool|option|function|action)|no such\b"
    r"|permission denied|access denied|unauthori[sz]ed|forbidden|bad request|timed? ?out\b|usage:"
    r"|i(?:'m| am) (?:sorry|unable)|(?:http\S* )?(?:status )?(?:code:? )?[45]\d\d\b"
    r"(?! ?(?:results|items|rows|records)))",
    re.IGNORECASE,
)
_ERROR_NAME = re.compile(
    r"\b[A-Z]\w*(?:Error|Exception)\b|exit(?:ed)?(?: with)?(?: code| status)?[:= ]+[1-9]"
)
_EXIT_OK = re.compile(r"exit(?:ed)?(?: with)?(?: code| status)?[:= ]+0\b")
_FRAME = re.compile(r"^\s+(?:at|from|in|File) \S.*(?::\d+|line \d+)", re.MULTILINE)
"""A line of a stack trace, in most languages."""
_TRANSIENT = re.compile(r"time[d-]? ?out|unavailable|temporar|overload|connection|busy|later")
"""Failures after which the same call is worth sending again."""
_ERROR_NAMES = ("Error", "Exception", "exit")
_ERROR_INSIDE = (
    "command not found", "no such file or directory", "is not recognized as", "permission denied",
    "returned non-zero", "not found", "does not exist", "doesn't exist",
)  # fmt: skip
_EMPTY = re.compile(
    r"\W*(?:no\b(?: \w+){0,3} (?:results?|matches|match|data|files?|records?|rows?|items?|entries"
    r"|documents?|hits?|output)\b.{0,60}|none|null|nil|0 (?:results?|matches|rows?|hits?)\b.{0,40}"
    r"|nothing(?: \w+)?(?: happens| found| happened)?|empty|n/a|not found|"
    r"(?:your (?:command|search)|the (?:command|search)) (?:ran|returned|did)"
    r" .{0,40}(?:output|nothing|no .{0,20}))\W*",
    re.IGNORECASE | re.DOTALL,
)
_RATE = (
    "429", "rate limit", "rate-limit", "rate_limit", "ratelimit", "too many requests",
    "quota exceeded", "throttl", "retry after", "retry-after", "retry_after", "overloaded",
    "resource exhausted", "resource_exhausted", "slow down",
)  # fmt: skip
_RATE_HINTS = ("limit", "retry", "429", "too many", "quota", "throttl", "load", "exhaust", "slow")
_PENDING = re.compile(
    r"\b(?:pending|queued|running|in[ _-]?progress|processing|not (?:yet )?ready|waiting|scheduled"
    r"|building|starting|provisioning|incomplete|unchanged|no change)\b",
    re.IGNORECASE,
)
_PENDING_HINTS = (
    "pending", "queued", "running", "progress", "processing", "ready", "waiting", "scheduled",
    "building", "starting", "provisioning", "incomplete", "unchanged", "no change",
)  # fmt: skip
"""What a text that ``_PENDING`` finds has in it: far quicker to look for."""
_DONE = lexicon(
    """
    ok okay done success successful successfully succeeded true updated created written wrote
    saved applied edited deleted sent replaced changed inserted modified removed added moved
    renamed set executed queued accepted completed complete finished confirmed transferred
    delivered acknowledged submitted installed copied committed pushed posted recorded stored
    logged clicked opened
    """
)
_CUT = re.compile(r"\[[^\]]*\]?|\([^)]*\)|\"[^\"]*\"|'[^']*'|`[^`]*`|<[^>]*>|\S*[\d/\\_.]\S+")
_WORDS = re.compile(r"[a-z]+(?:'[a-z]+)?")
_FALSE: tuple[Any, ...] = (False, None, 0, "", "false", "none", [], {})

_SHORT = 240
"""Characters up to which a result can be an acknowledgement or a status."""
_LONG = 600
"""Characters from which a text that only mentions an error is something that was read."""


class Outcome(msgspec.Struct, frozen=True):
    """``name`` is ``ok``, ``done`` (an acknowledgement), ``empty``, ``pending``, ``rate_limit``,
    ``unknown`` or ``error:...`` with the words that such failures share."""

    name: str

    @property
    def failed(self) -> bool:
        return self.name.startswith("error")

    @property
    def transient(self) -> bool:
        """Whether such a failure may pass by itself."""
        return self.failed and _TRANSIENT.search(self.name) is not None

    @property
    def shown(self) -> str:
        return "ok" if self.name == "done" else self.name


UNKNOWN = Outcome("unknown")
EMPTY = Outcome("empty")
_OK, _ACK, _NOTHING = Outcome("ok"), Outcome("done"), EMPTY
_LIMITED, _PENDED = Outcome("rate_limit"), Outcome("pending")


def outcome_of(text: str, kind: Kind, *, error: bool = False) -> Outcome:
    """The class of a tool's result. ``error``: the message itself says that it is one."""
    short = len(text) <= _LONG
    head = text[:_LONG] if short else text[:_SHORT]
    stripped = head.strip()
    if not stripped or stripped in ("[]", "{}", '""'):
        return _NOTHING if kind == "read" or stripped or error else _ACK
    structured = _structured(stripped, text)
    if structured is not None:
        message, failed = structured
        if failed:
            return _LIMITED if any_in(message.lower(), _RATE) else failure_of(message)
    low = head.lower()
    failed = error or _ERROR.match(head) is not None
    if (
        short
        and (failed or len(text) <= _SHORT)
        and any_in(low, _RATE_HINTS)
        and any_in(low, _RATE)
    ):
        return _LIMITED
    if short and _EMPTY.fullmatch(stripped) is not None:
        return _NOTHING
    if failed or (short and _fails_inside(head, low)):
        return failure_of(text)
    if len(text) <= _SHORT:
        if kind != "read":
            found = set(_WORDS.findall(low))
            if len(found) <= 24 and not found.isdisjoint(_DONE):
                return _ACK
        if any_in(low, _PENDING_HINTS) and _PENDING.search(head) is not None:
            return _PENDED
    return _OK


def _fails_inside(head: str, low: str) -> bool:
    if "exit" in low and _EXIT_OK.search(low) is not None:
        return False
    if any_in(low, _ERROR_INSIDE) or ("\n" in head and len(_FRAME.findall(head)) > 1):
        return True
    return any_in(head, _ERROR_NAMES) and _ERROR_NAME.search(head) is not None


def _structured(head: str, text: str) -> tuple[str, bool] | None:
    """The message of a JSON object that says that it is an error, and whether it does."""
    if head[0] != "{" or len(text) > 20_000 or not any_in(head[:_SHORT], _TELLING):
        return None
    try:
        value = _decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    return (_message(value), True) if _says_failed(value) else None


def _says_failed(value: dict[str, Any]) -> bool:
    if value.get("error", value.get("errors")) not in _FALSE:
        return True
    if any(value.get(key) is False for key in ("success", "ok", "succeeded")):
        return True
    if any(value.get(key) is True for key in ("isError", "is_error", "failed")):
        return True
    for key in ("status", "code", "statusCode", "status_code"):
        status = value.get(key)
        if isinstance(status, str) and status.lower() in _BAD_STATUS:
            return True
        if isinstance(status, int) and 400 <= status < 600:
            return True
    exits = (value.get(key) for key in ("exit_code", "exitCode", "returncode", "return_code"))
    return any(isinstance(code, int) and code != 0 for code in exits)


_TELLING = (
    '"error', '"status', '"success', '"ok"', '"code"', '"isError"', '"is_error"', '"failed"',
    '"succeeded"', '"exit', '"return',
)  # fmt: skip
_SAYS = ("error", "errors", "message", "detail", "stderr", "content", "output")
"""Fields that say what failed."""
_BAD_STATUS = frozenset({"error", "failed", "failure", "fail", "rejected", "denied", "timeout"})


def _message(value: Any) -> str:
    for _ in range(3):
        if not isinstance(value, dict):
            break
        inner = next((value[k] for k in _SAYS if value.get(k)), None)
        if inner is None or inner is True:
            return str(value.get("status", "")) + " " + str(value.get("code", ""))
        value = inner
    return str(value)


def failure_of(text: str) -> Outcome:
    """Failures that read alike without names, numbers, paths and quotes are the same failure."""
    line = text[:_LONG]
    if "Traceback (most recent" in line:
        line = text.rstrip()[-_LONG:].rsplit("\n", 1)[-1]
    found = _WORDS.findall(_CUT.sub(" ", line).lower())
    return Outcome("error:" + " ".join(found[:5]))


def is_verdict(text: str) -> bool:
    """Whether a result is a bare yes, no, status or number: its news is what it was asked of."""
    if len(text) > 60:
        return False
    found = text.split()
    # Where words are not spaced, two characters make about one.
    size = len(found) if text.isascii() else len(found) + len(_UNSPACED.findall(text)) // 2
    return size <= 6 and not any("/" in w or "_" in w or _NAME.search(w) for w in found)


_NAME = re.compile(r"[^\W\d]\.[^\W\d]")
_UNSPACED = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]")
