"""The report of a replay counts what happened, and says so where it cannot know."""

import json
import re
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest

from tocsin.core.interaction import Blob, Entry, Interaction, Usage
from tocsin.core.messages import Message, chain, content_hash, parse_message
from tocsin.importers.files import BadRecord
from tocsin.importers.report import Report, as_html, as_json, as_text
from tocsin.importers.report_format import duration, money, share, size, spend
from tocsin.importers.results import failed_results, title_of

SECOND = 1_000_000
HOSTILE = "<script>alert(1)</script>\"'&\x1b[31m"


def said(role: str, content: Any = None, **more: Any) -> Message:
    return parse_message(msgspec.json.encode({"role": role, "content": content, **more}))


def asks(call_id: str, name: str, arguments: str) -> Message:
    function = {"name": name, "arguments": arguments}
    return said("assistant", tool_calls=[{"id": call_id, "type": "function", "function": function}])


def record(
    history: tuple[Message, ...], output: Message | None, *, new: int | None = None, **changes: Any
) -> Entry:
    nodes = chain(history if output is None else (*history, output))
    fields: dict[str, Any] = {
        "id": f"call_{changes.get('started_at', 0)}",
        "source": "import",
        "dialect": "openai",
        "operation": "chat",
        "path": "",
        "started_at": SECOND,
        "duration_us": SECOND // 2,
        "outcome": "complete",
        "feature": "f",
        "run_id": "run_1",
        "run_source": "trace",
        "request_model": "gpt-4o",
        "input_messages": len(history),
        "new_messages": len(history) if new is None else new,
        "input_bytes": sum(len(message.raw) for message in history),
        **changes,
    }
    return Entry(interaction=Interaction(**fields), input=history, nodes=nodes, output=output)


START = (said("system", "x" * 400), said("user", "Renew my\n  book, please"))
TURN = (asks("c1", "renew", '{"book": 12}'), said("tool", "Error: closed", tool_call_id="c1"))
AGAIN = (asks("c2", "renew", '{"book":12}'), said("tool", "renewed", tool_call_id="c2"))


def tokens(given: int, told: int, **more: Any) -> Usage:
    return Usage(input_tokens=given, output_tokens=told, source="reported", **more)


def told() -> list[Entry]:
    """One run of three calls with two identical tool calls, and another of one call."""
    one, two = (*START, *TURN), (*START, *TURN, *AGAIN)
    cost: dict[str, Any] = {"cost_nano_usd": 2_000_000, "cost_source": "listed"}
    won = {"success": "true", "reward": "1"}
    return [
        record(START, TURN[0], usage=tokens(100, 10), **cost),
        record(one, AGAIN[0], new=1, started_at=2 * SECOND, usage=tokens(200, 10), **cost),
        record(
            two,
            said("assistant", "Done"),
            new=1,
            started_at=3 * SECOND,
            usage=tokens(300, 5, cache_read_tokens=250),
            attributes=won,
        ),
        record(
            START,
            None,
            run_id="run_2",
            started_at=60 * SECOND,
            outcome="error",
            request_model="claude",
            attributes={"success": "false", "reward": "0"},
        ),
    ]


def result(records: list[Any]) -> Any:
    report = Report(["a.jsonl"])
    for one in records:
        report.add(one)
    return report.result()


def test_runs_calls_tokens_and_outcomes_are_counted() -> None:
    found = result(told())
    assert (found.runs, found.calls, found.tool_calls) == (2, 4, 2)
    assert (found.input_tokens, found.output_tokens, found.cached_tokens) == (600, 25, 250)
    assert found.uncounted == 1
    assert found.outcomes == (("complete", 3), ("error", 1))
    assert (found.judged, found.succeeded, found.mean_reward) == (2, 1, 0.5)
    assert found.duration_us == 59 * SECOND + SECOND // 2


def test_an_unknown_price_is_never_zero() -> None:
    found = result(told())
    assert (found.cost_nano_usd, found.unpriced) == (4_000_000, 2)
    gpt, claude = found.models
    assert (gpt.name, gpt.unpriced, claude.name, claude.unpriced) == ("gpt-4o", 1, "claude", 1)
    assert "$0.0040 + 2 calls unknown" in as_text(found)
    assert spend(0, 4, 4) == "unknown"


def test_estimated_tokens_are_said_to_be_estimates() -> None:
    guess = Usage(input_tokens=10, output_tokens=2, source="estimated")
    found = result([*told(), record(START, None, usage=guess)])
    assert found.estimated == 1
    assert "estimated for 1 call; unknown for 1 call" in as_text(found)
    assert "estimated for 1 call" in as_html(found)


def test_tools_are_counted_once_with_the_failures_that_results_show() -> None:
    (tool,) = result(told()).tools
    assert (tool.name, tool.calls, tool.runs) == ("renew", 2, 1)
    assert (tool.results, tool.failed, tool.failure_share) == (2, 1, 0.5)


def test_spans_of_tools_are_not_counted_on_top_of_the_calls_that_asked_for_them() -> None:
    given = b'{"book":12}'
    spans = [
        msgspec.structs.replace(
            record(
                (),
                None,
                operation="execute_tool",
                request_model="",
                request_body=content_hash(given),
                outcome=outcome,
                attributes={"gen_ai.tool.name": "renew"},
            ),
            blobs=(Blob(content_hash(given), given),),
        )
        for outcome in ("error", "complete")
    ]
    (tool,) = result([*told(), *spans]).tools
    assert (tool.calls, tool.results, tool.failed) == (2, 2, 1)
    alone = result(spans)
    assert (alone.tools[0].calls, alone.tools[0].failed, alone.repeats) == (2, 1, 1)
    assert alone.calls == 0


def test_identical_tool_calls_of_one_run_are_found_whatever_their_spacing() -> None:
    found = result(told())
    assert found.repeats == 1
    (call,) = found.repeated_calls
    assert (call.tool, call.count, call.run_id) == ("renew", 2, "run_1")


def test_content_sent_again_is_told_apart_from_what_is_new() -> None:
    found = result(told()).content
    start = sum(len(message.raw) for message in START)
    one = start + sum(len(message.raw) for message in TURN)
    two = one + sum(len(message.raw) for message in AGAIN)
    assert found.sent == start + one + two + start
    assert found.distinct == start + len(TURN[1].raw) + len(AGAIN[1].raw)
    assert found.share == pytest.approx(found.again / found.sent)


def test_inputs_grow_along_a_run_in_tokens_or_else_in_bytes() -> None:
    found = result(told()[:3]).growth
    assert found.unit == "tokens"
    assert [(step.step, step.median) for step in found.steps] == [(1, 100), (2, 200), (3, 300)]
    assert (found.biggest[0].first_input, found.biggest[0].largest_input) == (100, 300)
    bare = [
        msgspec.structs.replace(
            entry, interaction=msgspec.structs.replace(entry.interaction, usage=Usage())
        )
        for entry in told()
    ]
    found = result(bare)
    assert found.growth.unit == "bytes"
    assert found.growth.steps[0].runs == 2
    assert "unknown: the file tells none" in as_text(found)


def test_the_longest_and_the_dearest_runs_come_first() -> None:
    found = result(told())
    assert [run.id for run in found.longest] == ["run_1", "run_2"]
    assert found.dearest[0].id == "run_1"
    assert found.longest[0].title == "Renew my book, please"
    assert found.longest[0].duration_us == 2 * SECOND + SECOND // 2
    assert (found.longest[0].outcome, found.longest[1].outcome) == ("complete", "error")


def test_unknown_times_are_not_made_up() -> None:
    found = result([record(START, None, attributes={"time": "unknown"})])
    assert (found.started_at, found.duration_us, found.untimed) == (None, None, 1)
    assert found.longest[0].duration_us is None
    assert "The file does not tell when." in as_html(found)


def test_bad_records_are_counted_and_the_first_are_named() -> None:
    found = result([BadRecord("f", n, f"reason {n}") for n in range(1, 101)])
    assert found.bad == 100
    assert found.bad_lines[0].line == 1
    assert "100 records could not be read" in as_text(found)
    assert "reason 1" in as_html(found)


def test_an_empty_report_renders() -> None:
    found = result([])
    assert "Runs" in as_text(found)
    assert "</html>" in as_html(found)
    assert json.loads(as_json(found))["runs"] == 0


def test_the_json_has_what_follows_from_the_counts() -> None:
    found = json.loads(as_json(result(told())))
    assert found["tools"][0]["failure_share"] == 0.5
    assert found["content"]["share"] == pytest.approx(
        found["content"]["again"] / found["content"]["sent"]
    )
    assert found["duration_us"] == 59_500_000


def test_text_keeps_to_its_width_and_shows_no_control_characters() -> None:
    entries = [record((said("user", HOSTILE * 20),), asks("c", HOSTILE, HOSTILE))]
    text = as_text(result([*told(), *entries, BadRecord("f", 1, HOSTILE)]), width=80)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "\x1b" not in text
    assert "\x1b[" in as_text(result(told()), color=True)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_self_contained_and_escapes_what_comes_from_a_file() -> None:
    hostile = record(
        (said("user", HOSTILE),),
        asks("c", HOSTILE, HOSTILE),
        run_id=HOSTILE,
        request_model=HOSTILE,
    )
    page = as_html(result([*told(), hostile, hostile, BadRecord(HOSTILE, 1, HOSTILE)]))
    parser = _Page()
    parser.feed(page)
    assert parser.open == []
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in parser.tags}
    assert not [name for _, attrs in parser.tags for name in attrs if name.startswith("on")]
    assert "&lt;script&gt;" in page
    assert "\x1b" not in page
    assert "http:" not in page
    assert "https:" not in page


def test_the_pages_policy_allows_its_own_style_and_nothing_else() -> None:
    import base64
    import hashlib

    page = as_html(result(told()))
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in page
    assert 'style="' not in page


@pytest.mark.parametrize(
    ("message", "failed"),
    [
        (said("tool", "Error: no", tool_call_id="a"), True),
        (said("tool", "Traceback (most recent call last):\n x", tool_call_id="a"), True),
        (said("tool", '{"error": "no"}', tool_call_id="a"), True),
        (said("tool", '{"success": false}', tool_call_id="a"), True),
        (said("tool", '{"status": "error"}', tool_call_id="a"), True),
        (said("tool", '{"error": null, "rows": []}', tool_call_id="a"), False),
        (said("tool", "errors: 0", tool_call_id="a"), False),
        (said("tool", "", tool_call_id="a"), False),
        (
            said("user", [{"type": "tool_result", "tool_use_id": "a", "is_error": True}]),
            True,
        ),
        (
            said("user", [{"type": "tool_result", "tool_use_id": "a", "content": "fine"}]),
            False,
        ),
    ],
)
def test_a_failed_result_says_so(message: Message, failed: bool) -> None:
    assert failed_results(message) == (frozenset({"a"}) if failed else frozenset())


def test_a_title_is_the_first_thing_a_user_said() -> None:
    parts = said("user", [{"type": "text", "text": "Look"}, {"type": "image_url"}])
    assert title_of((said("system", "no"), parts)) == "Look"
    assert title_of((said("tool", "no", tool_call_id="x"),)) == ""
    assert len(title_of((said("user", "long " * 100),))) == 160


@pytest.mark.parametrize(
    ("shown", "value"),
    [
        ("<$0.0001", money(10)),
        ("$0.0042", money(4_200_000)),
        ("$1,240", money(1_240_000_000_000)),
        ("$0.00", money(0)),
        ("999 B", size(999)),
        ("1.0 kB", size(1000)),
        ("29.4 MB", size(29_400_000)),
        ("2.5 GB", size(2_500_000_000)),
        ("<0.1%", share(0.0001)),
        ("7.1%", share(0.0714)),
        ("96%", share(0.961)),
        ("420 ms", duration(420_000)),
        ("1 min 5 s", duration(65_000_000)),
        ("3 d 2 h", duration(74 * 3600 * SECOND)),
    ],
)
def test_numbers_read_as_people_write_them(shown: str, value: str) -> None:
    assert value == shown
