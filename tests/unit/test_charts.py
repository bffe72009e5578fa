"""Charts are pure: data in, SVG out."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from tocsin.dashboard import charts, scales

HOUR = 3_600_000_000
START = 1_773_273_600_000_000  # 2026-03-12 00:00 UTC


def figure(axis: scales.Axis, scale: scales.Scale, **more: object) -> charts.Figure:
    return charts.Figure(
        id="c", title="Calls <b>", summary="12 & more", axis=axis, scale=scale, **more
    )  # type: ignore[arg-type]


def parsed(markup: Markup) -> ElementTree.Element:
    """The markup as XML: what is not well-formed or not escaped fails here."""
    return ElementTree.fromstring(str(markup))


def day(buckets: int = 24) -> scales.Axis:
    return scales.time_axis(START, START + 24 * HOUR, 24 * HOUR // buckets)


def bars(*layers: tuple[str, tuple[float, ...]]) -> Markup:
    top = max(sum(values) for values in zip(*(v for _, v in layers), strict=True))
    made = [charts.Layer(name=n, values=v, css=f"s{i}") for i, (n, v) in enumerate(layers, 1)]
    return charts.stacked_bars(figure(day(4), scales.counts(top)), made)


def test_counts_start_at_zero_and_the_tallest_stack_fits_below_the_top_tick() -> None:
    scale = scales.counts(148)
    assert scale.ticks[0].label == "0"
    assert scale.top == 150
    assert [tick.label for tick in scale.ticks] == ["0", "50", "100", "150"]


@given(st.floats(min_value=1e-3, max_value=1e15))
def test_a_scale_is_round_and_has_few_ticks(top: float) -> None:
    for make in (scales.nanos, scales.durations, scales.counts):
        scale = make(top)
        assert scale.top >= top * 0.999999
        assert 2 <= len(scale.ticks) <= 6


@given(st.integers(min_value=60_000_000, max_value=5 * 365 * 24 * HOUR))
def test_a_time_axis_has_at_most_eight_ticks_in_order(span: int) -> None:
    axis = scales.time_axis(START, START + span, max(span // 60, 1))
    places = [tick.pos for tick in axis.ticks]
    assert len(places) <= 8
    assert places == sorted(places)
    assert all(0 <= place <= 1 for place in places)


def test_a_time_axis_begins_and_ends_on_whole_steps_and_marks_the_open_one() -> None:
    axis = scales.time_axis(START + HOUR // 4, START + 3 * HOUR + 1, HOUR)
    assert (axis.start, axis.end, axis.steps) == (START, START + 4 * HOUR, 4)
    assert axis.so_far(3) == ", so far"
    assert axis.so_far(2) == ""
    assert scales.time_axis(START, START + 4 * HOUR, HOUR).so_far(3) == ""


def test_midnight_reads_as_a_date() -> None:
    labels = [tick.label for tick in day().ticks]
    assert labels[0] == "12 Mar"
    assert "06:00" in labels


def test_bars_are_stacked_from_the_bottom() -> None:
    tree = parsed(bars(("well", (2, 0, 0, 0)), ("badly", (2, 0, 0, 1))))
    paths = [p for p in tree.iter("path") if p.get("class") in ("s1", "s2")]
    well, badly = (re.findall(r"M([\d.]+) ([\d.]+)h", p.get("d", "")) for p in paths)
    # Height 112 for a top of 4: two calls are 56 high, the bad ones stand on them.
    assert well == [("0.08", "56")]
    assert badly[0] == ("0.08", "0")


def test_what_is_there_is_drawn_however_small() -> None:
    tree = parsed(bars(("a", (1_000_000, 0, 0, 0)), ("b", (0, 1, 0, 0))))
    path = next(p for p in tree.iter("path") if p.get("class") == "s2")
    assert float(re.findall(r"v([\d.]+)", path.get("d", ""))[0]) >= 0.75


def test_titles_and_values_are_escaped() -> None:
    evil = '"><script>alert(1)</script>'
    made = charts.stacked_bars(
        figure(day(1), scales.counts(1), points=(evil,), note=evil, href=evil, answer=evil),
        [charts.Layer(name=evil, values=(1,), css="s1")],
    )
    assert "<script>" not in made
    tree = parsed(made)
    assert tree.get("data-href") == evil
    assert evil in (tree.get("data-points") or "").encode().decode("unicode_escape")


def test_a_chart_is_named_and_described() -> None:
    tree = parsed(bars(("well", (1, 2, 3, 4))))
    svg = next(e for e in tree.iter("svg") if e.get("role") == "img")
    named = (svg.get("aria-labelledby") or "").split()
    found = {e.get("id"): e.text for e in tree.iter() if e.get("id")}
    assert [found[name] for name in named] == ["Calls <b>", "12 & more"]


def test_no_style_attribute_is_ever_written() -> None:
    """A strict Content-Security-Policy drops inline styles."""
    drawn = [
        bars(("a", (1, 2, 3, 4))),
        charts.sparkline([1, 2], "x", [0, 1]),
        charts.share_bar([("a", 1, "ok")], "x"),
        charts.span_bar(0.1, 0.2, "s1", 0.15, (0.05, "12 s")),
    ]
    assert not any("style" in str(markup) for markup in drawn)


def test_gaps_stay_gaps_in_a_line() -> None:
    band = charts.Band(low=(1, 2, None, 3), high=(2, 3, None, 4), weights=(50, 50, 0, 50))
    tree = parsed(charts.line_with_band(figure(day(4), scales.counts(4)), band))
    lines = [p.get("d", "") for p in tree.iter("path") if "line" in (p.get("class") or "").split()]
    assert len(lines) == 1  # the first two; the lone fourth is a dot
    assert any("dot" in (p.get("class") or "") for p in tree.iter("path"))


def test_too_few_calls_for_a_p95_are_drawn_dashed() -> None:
    band = charts.Band(low=(1, 1, 1, 1), high=(2, 2, 2, 2), weights=(50, 50, 3, 50))
    tree = parsed(charts.line_with_band(figure(day(4), scales.counts(2)), band))
    css = [(p.get("class") or "").split() for p in tree.iter("path")]
    assert any("line" in c and "thin" in c for c in css)
    assert any("line" in c and "thin" not in c for c in css)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 60)), min_size=1, max_size=60))
def test_every_measured_step_of_a_band_is_drawn_once_or_joined(
    steps: list[tuple[bool, int]],
) -> None:
    values = tuple(1.0 if known else None for known, _ in steps)
    band = charts.Band(low=values, high=values, weights=tuple(n for _, n in steps))
    covered: set[int] = set()
    for start, end, _ in charts._pieces(band):
        assert end > start
        covered |= set(range(start, end))
    assert covered == {i for i, value in enumerate(values) if value is not None}


def test_labels_at_the_right_edge_never_overlap() -> None:
    layers = [charts.Layer(name=f"model-{i}", values=(0, 0, 0, 1e-9), css="s1") for i in range(6)]
    made = charts.stacked_bars(figure(day(4), scales.counts(100), height=168), layers)
    heights = [
        float(t.get("y") or 0)
        for t in parsed(made).iter("text")
        if "long" in (t.get("class") or "")
    ]
    assert len(heights) == 6
    gaps = [b - a for a, b in pairwise(heights)]
    assert min(gaps) >= 13.9


def test_long_names_keep_both_ends() -> None:
    made = bars(("vendor/some-very-long-model-name-6-preview", (1, 1, 1, 1)))
    assert "vendor/some-…e-6-preview" in made


def test_a_run_of_very_many_calls_is_drawn_in_at_most_500_steps() -> None:
    axis = scales.step_axis(32_843)
    assert axis.steps <= 500
    assert axis.ticks[0].label == "1"


def test_a_share_bar_shows_a_tiny_part_and_fills_its_width() -> None:
    tree = parsed(charts.share_bar([("complete", 100_000, "ok"), ("error", 1, "act")], "x"))
    widths = [float((r.get("width") or "").rstrip("%")) for r in tree.iter("rect")]
    assert sum(widths) == pytest.approx(100, abs=0.1)
    assert widths[1] > 1


def test_nothing_to_share_draws_nothing() -> None:
    assert charts.share_bar([], "x") == ""
