"""``Judge``: what an answer means, apart from its HTTP status, before its caller has it.

Only an answer that the wire calls complete can become ``invalid``, ``refused`` or ``unverified``
here. What is exact comes before what is guessed: the wire's own refusal, then a schema or a check
that failed, then a refusal by its wording, then a check that only makes an answer ``unverified``.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from tocsin.config.model import Config
from tocsin.core.call import Call
from tocsin.core.language import Teller
from tocsin.core.meaning import Check, Meaning, Verdict
from tocsin.core.messages import Hash, Message, ToolCall, content_hash
from tocsin.core.outcome import Outcome
from tocsin.core.refusals import refusal_said, refused
from tocsin.core.schemas import (
    LARGEST,
    NOTHING,
    Checker,
    Expectations,
    Expected,
    compiled,
    loaded,
    nearest,
    unreadable,
)
from tocsin.core.wire import text_of
from tocsin.runtime.checks import CheckFunction, FeatureChecks

log = logging.getLogger("tocsin.runtime")

_STEPS = 20_000_000
"""As in ``core.schemas``, but every other call waits meanwhile: some 0.2 s at worst."""
_PARTS = 5_000
_LARGEST_PARAMS = 4 * LARGEST
_MAX_CALLS = 100
"""Tool calls of one answer that are looked at."""
_LONGEST = 500
"""Characters of a detail."""
_TOO_LARGE = "too large to check"

_FINISHED = Check(name="finish", verdict="pass", said="wire")
_NOT_REFUSED = Check(name="refusal", verdict="pass", said="heuristic")
_COMPLETE = Meaning(outcome="complete", checks=(_FINISHED, _NOT_REFUSED))
_ASKED = Meaning(outcome="complete", checks=(_FINISHED,))
"""Where nobody looked at the words."""
_DECLINES = Check(
    name="refusal", verdict="fail", said="heuristic", detail="the answer declines in its words"
)
_DECLINED = Meaning(outcome="refused", checks=(_DECLINES, _FINISHED))
_UNREAD = Expected(json=True)
"""Of a request whose parameters are too large to be read here."""
_RANK = {"fail": 0, "unsure": 1, "pass": 2}


class Judge:
    """Checks answers. Owns compiled schemas of the latest requests and the language model."""

    def __init__(
        self, config: Config | None = None, functions: Mapping[str, CheckFunction] | None = None
    ) -> None:
        self._expectations = Expectations(kept=256, most_parts=_PARTS)
        self._teller = Teller()
        self._features: dict[str, FeatureChecks] = {}
        self._quote = True
        if config is not None:
            self.configure(config, functions or {})

    def configure(self, config: Config, functions: Mapping[str, CheckFunction]) -> None:
        """Take over a configuration. ``functions``: checks that installed packages offer."""
        # Details show words of the answer, but not where no content is kept.
        self._quote = config.store.content == "full"
        self._features = {
            name: FeatureChecks(feature.checks, functions, self._teller, quote=self._quote)
            for name, feature in config.features.items()
            if feature.checks is not None
        }

    def warm(self) -> None:
        """Load what the first checks would wait for: some 0.1 s, once."""
        compiled({"type": "object"})
        if any(checks.tells_language for checks in self._features.values()):
            self._teller.of("Niemand soll warten, bis eine Sprache erkannt wird.")

    def of(
        self,
        call: Call,
        outcome: Outcome,
        *,
        reason: str | None,
        output: Message | None,
        params: Hash | None = None,
        clipped: bool = False,
    ) -> Meaning:
        """The meaning of an answer whose outcome, by the wire's finish ``reason``, is given.

        ``params``: the hash of the call's parameters, where it is known. ``clipped``: the answer
        is larger than what was kept of it. Never raises.
        """
        if outcome != "complete":
            return Meaning(outcome=outcome, checks=_ended(outcome, (reason or "")[:_LONGEST]))
        try:
            return self._of(call, output, params, clipped)
        except Exception:
            log.exception("the answer of call %s could not be checked", call.id)
            unsure = Check(name="checks", verdict="unsure", detail="they could not be made")
            return Meaning(outcome="complete", checks=(unsure, _FINISHED))

    def _of(
        self, call: Call, output: Message | None, params: Hash | None, clipped: bool
    ) -> Meaning:
        raw = output.raw if output is not None else b""
        if b'"refusal"' in raw and refusal_said(raw):
            refusal = Check(name="refusal", verdict="fail", said="wire", detail="refusal field")
            return Meaning(outcome="refused", checks=(refusal, _FINISHED))
        own = self._features.get(call.feature)
        expected = self._expected(call, params)
        calls = output.calls if output is not None else ()
        whole = not clipped and len(raw) <= LARGEST
        if expected is NOTHING and own is None and not calls:
            if not whole:
                return _ASKED
            return _DECLINED if refused(text_of(raw)) else _COMPLETE
        if not whole or expected is _UNREAD:
            return _unchecked(expected, own)
        found = [_FINISHED]
        if calls or expected.forced:
            found += _called(expected, calls, self._quote)
        text = text_of(raw)
        if calls or not (text.strip() or not _other_content(raw)):
            return _meaning(found, [], "complete")
        found += _said(text, expected, self._quote)
        if own is None:
            return _meaning(found, [], "complete")
        return _meaning(found, list(own.of(text, call, output)), own.outcome)

    def _expected(self, call: Call, params: Hash | None) -> Expected:
        said = call.params
        if not (b'"tools"' in said or b'format"' in said or b'"functions"' in said):
            return NOTHING
        if len(said) > _LARGEST_PARAMS:
            return _UNREAD
        return self._expectations.of(params or content_hash(said), lambda: loaded(said))


def headers_of(outcome: Outcome, checks: Iterable[Check]) -> tuple[tuple[bytes, bytes], ...]:
    """What an answer's head says of its meaning: ``tocsin-outcome`` and ``tocsin-checks``."""
    if checks is _COMPLETE.checks:
        return _COMPLETE_HEADERS
    return (b"tocsin-outcome", outcome.encode()), (b"tocsin-checks", summary(checks).encode())


_COMPLETE_HEADERS = (
    (b"tocsin-outcome", b"complete"),
    (b"tocsin-checks", b"finish=pass, refusal=pass"),
)


def summary(checks: Iterable[Check]) -> str:
    """Checks on one line: ``schema=fail, finish=pass``."""
    return ", ".join([f"{_plain(check.name)}={check.verdict}" for check in checks])


def _plain(name: str) -> str:
    if name.isascii() and name.isidentifier():
        return name
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)


def _ended(outcome: Outcome, reason: str) -> tuple[Check, ...]:
    """What the wire itself says of an answer that is not complete."""
    if outcome == "refused":
        return (Check(name="refusal", verdict="fail", said="wire", detail=reason),)
    if outcome == "truncated":
        return (Check(name="finish", verdict="fail", said="wire", detail=reason),)
    detail = reason or "the upstream gave no finish reason"
    return (Check(name="finish", verdict="unsure", said="wire", detail=detail),)


def _said(text: str, expected: Expected, quote: bool) -> Iterator[Check]:
    """Whether an answer in words is the JSON that was asked for; else, whether it declines."""
    if expected.json:
        schema = _schema(expected.answer, text, quote)
        yield schema
        if schema.verdict != "fail":
            return
    yield _DECLINES if refused(text) else _NOT_REFUSED


def _meaning(found: list[Check], of_feature: list[Check], on_failure: Outcome) -> Meaning:
    """``on_failure``: what an answer is that fails one of the feature's own checks."""
    failed = [check.said for check in found if check.verdict == "fail"]
    own_failed = any(check.verdict == "fail" for check in of_feature)
    outcome: Outcome = "complete"
    if "validator" in failed or (own_failed and on_failure == "invalid"):
        outcome = "invalid"
    elif failed:
        outcome = "refused"
    elif own_failed:
        outcome = on_failure
    checks = sorted([*found, *of_feature], key=lambda check: _RANK[check.verdict])
    return Meaning(outcome=outcome, checks=tuple([_short(check) for check in checks]))


def _short(check: Check) -> Check:
    if len(check.detail) <= _LONGEST:
        return check
    return msgspec.structs.replace(check, detail=f"{check.detail[: _LONGEST - 3]}...")


def _unchecked(expected: Expected, own: FeatureChecks | None) -> Meaning:
    """Of an answer that is larger than what is checked."""
    names = (
        *(("schema",) if expected.json else ()),
        *(("tool_arguments",) if expected.tools else ()),
        *(("checks",) if own is not None else ()),
    )
    unsure = tuple(Check(name=name, verdict="unsure", detail=_TOO_LARGE) for name in names)
    return Meaning(outcome="complete", checks=(*unsure, _FINISHED))


def _other_content(raw: bytes) -> bool:
    """Whether an answer without text has content of another kind: a sound, a hosted tool's call."""
    return b'"audio"' in raw or b'"image' in raw or b'_call"' in raw or b'"server_tool' in raw


# -- schemas --


def _schema(checker: Checker, text: str, quote: bool) -> Check:
    value = loaded(text)
    if value is None:
        why = unreadable(text)
        if why:
            return Check(name="schema", verdict="fail", detail=why)
    fits = checker.fits(value, len(text), _STEPS)
    if fits is None:
        return Check(name="schema", verdict="unsure", detail=checker.why or _TOO_LARGE)
    if fits:
        return Check(name="schema", verdict="pass")
    return Check(name="schema", verdict="fail", detail=checker.faults(value, quote=quote))


def _called(expected: Expected, calls: tuple[ToolCall, ...], quote: bool) -> Iterator[Check]:
    """The one check of the tools that an answer calls, or had to call."""
    if not expected.tools:
        if calls:
            yield _tools("unsure", "the request declares no tools")
        return
    names = {call.name for call in calls}
    if expected.forced and expected.forced not in names:
        yield _tools("fail", f"{expected.forced} had to be called and was not")
        return
    unsure = "" if len(calls) <= _MAX_CALLS else f"only the first {_MAX_CALLS} were looked at"
    for call in calls[:_MAX_CALLS]:
        verdict, detail = _call(expected, call, quote)
        if verdict == "fail":
            yield _tools("fail", detail)
            return
        unsure = unsure or (detail if verdict == "unsure" else "")
    yield _tools("unsure", unsure) if unsure else _FITTING


def _call(expected: Expected, call: ToolCall, quote: bool) -> tuple[Verdict, str]:
    """The verdict on one call's arguments, and why."""
    name = call.name[:80]
    checker = expected.tools.get(call.name)
    if checker is None and not quote:
        return "fail", "there is no such tool"
    if checker is None:
        near = nearest(call.name, list(expected.tools))
        return "fail", f"there is no tool {name}" + (f", nearest is {near[:80]}" if near else "")
    if checker.validator is None and not checker.why:
        return "pass", ""
    if len(call.arguments) > LARGEST:
        return "unsure", f"{name}: {_TOO_LARGE}"
    arguments = call.arguments if call.arguments.strip() else "{}"
    value = loaded(arguments)
    if not isinstance(value, dict):
        why = unreadable(arguments).replace("answer", "value") or "they are no JSON object"
        return "fail", f"{name}: the arguments: {why}"
    fits = checker.fits(value, len(arguments), _STEPS)
    if fits is None:
        return "unsure", f"{name}: {checker.why or _TOO_LARGE}"
    return ("pass", "") if fits else ("fail", f"{name}: {checker.faults(value, quote=quote)}")


_FITTING = Check(name="tool_arguments", verdict="pass")


def _tools(verdict: Verdict, detail: str) -> Check:
    return Check(name="tool_arguments", verdict=verdict, detail=detail)
