"""Charts: every figure is on them with its unit, and the same figures give the same bytes."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.bench import Budget, Claim, Direction, Measurement, StandIn, Status, Text, Trial
from tidemill.bench.compare import Comparison, Timing
from tidemill.bench.drawing import ACCENT, BAD, GOOD, INK, PALETTE
from tidemill.bench.environment import Environment
from tidemill.bench.plots import Axis, Series, bars, claim_chart, history_chart, lines, png, svg
from tidemill.bench.records import Record
from tidemill.bench.wording import figure, wrapped
from tidemill.errors import ConfigError, InputError

PAPERS = {"white": "#ffffff", "near-black": "#14171a"}
TRIAL = Trial(name="race", measure=lambda _: (), summary=Text("", ""))


def claim(name: str, target: float, direction: Direction = Direction.AT_LEAST) -> Claim:
    return Claim(
        id=name,
        quote="",
        statement=Text(f"Statement of {name}, long enough to need two lines", f"断言 {name}"),
        unit="Mk-mers/s",
        direction=direction,
        target=target,
        trial=TRIAL,
    )


def measured(name: str, low: float, value: float, high: float, *kinds: Status) -> Measurement:
    stand_ins = tuple(StandIn("GPU", kind, "") for kind in kinds)
    return Measurement(claim=name, low=low, value=value, high=high, repeats=7, stand_ins=stand_ins)


CLAIMS = [claim("fast", 150), claim("small", 10, Direction.AT_MOST), claim("far", 3), claim("e", 1)]
FIGURES = {
    "fast": measured("fast", 175, 182, 203),
    "small": measured("small", 11, 12, 14, Status.EMULATED),
    "far": measured("far", 2, 3, 4, Status.MODELLED),
}
COMPARISON = Comparison(
    (
        Timing("Super Bloom", 1e7, (0.05, 0.06, 0.05, 0.07, 0.05)),
        Timing("rbloom <1.5>", 1e7, (0.5, 0.6, 0.5, 0.7, 0.5)),
    )
).to_json()
MACHINE = Environment(cpu="AMD", cpu_flags=(), cores=2, memory_bytes=2**34, kernel="Linux 6")


def record(number: int, machine: str = "0123456789ab") -> Record:
    return Record(
        measurement=measured("fast", 170 + number, 180 + number, 190 + number),
        system="toy",
        trial="race",
        budget=Budget.FULL,
        outcome="ok",
        started=datetime(2026, 6, 23, tzinfo=UTC) + timedelta(days=number),
        seconds=1.0,
        environment=MACHINE,
        machine_id=machine,
        code=f"{number:07x}fffff",
        command="",
        config={},
        disturbed="",
    )


SERIES = [
    Series("a", [1, 10, 100], [1e-5, 1e-3, 0.1], [5e-6, 5e-4, 0.05], [2e-5, 2e-3, 0.2]),
    Series("b", [1, 10, 100], [2e-5, 2e-3, 0.2]),
]
CHARTS: dict[str, dict[str, Any]] = {
    "claims": claim_chart(CLAIMS, FIGURES),
    "claims in Chinese": claim_chart(CLAIMS, FIGURES, "zh-CN"),
    "bars": bars(COMPARISON, title="Inserting", unit="Mk-mers/s", work_unit=1e6),
    "lines": lines(SERIES, title="Rates", x=Axis("time", "s"), y=Axis("rate", "1/s", zero=True)),
    "log lines": lines(
        SERIES,
        title="False positives",
        x=Axis("memory", "bit per k-mer", log=True),
        y=Axis("false-positive rate", "fraction", log=True),
    ),
    "history": history_chart(CLAIMS[0], [record(n) for n in reversed(range(5))]),
    "history of two machines": history_chart(CLAIMS[0], [record(1), record(0, "ba9876543210")]),
    "empty history": history_chart(CLAIMS[0], []),
}
every_chart = pytest.mark.parametrize("name", CHARTS)


def texts(picture: str) -> str:
    return " ".join("".join(node.itertext()) for node in ElementTree.fromstring(picture).iter())


@cache
def drawn(name: str) -> str:
    return svg(CHARTS[name])


def test_charts_draw_the_same_bytes_in_any_order() -> None:
    first = {name: drawn(name) for name in CHARTS}
    again = {name: svg(json.loads(json.dumps(CHARTS[name]))) for name in reversed(CHARTS)}
    assert again == first


def test_threads_of_a_server_draw_the_same_bytes_at_once() -> None:
    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(svg, [CHARTS["bars"]] * 8 + [CHARTS["claims"]] * 4))
    assert pictures == [drawn("bars")] * 8 + [drawn("claims")] * 4


def test_another_process_draws_the_same_bytes() -> None:
    code = "import json, sys; from tidemill.bench.plots import svg; "
    code += "sys.stdout.buffer.write(svg(json.load(sys.stdin)).encode())"
    other = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(CHARTS["log lines"]).encode(),
        capture_output=True,
        check=True,
    )
    assert other.stdout.decode() == drawn("log lines")


@every_chart
def test_a_chart_is_well_formed_named_and_without_links(name: str) -> None:
    picture = drawn(name)
    root = ElementTree.fromstring(picture)
    assert root.get("role") == "img"
    assert root.get("aria-label") == CHARTS[name]["description"]
    assert "http" not in picture.replace("http://www.w3.org/", "")
    assert "NaN" not in picture
    assert "undefined" not in picture


@every_chart
def test_a_chart_shows_on_any_paper(name: str) -> None:
    """No background of its own, and all ink follows the page or reads on white and black."""
    picture = drawn(name)
    root = ElementTree.fromstring(picture)
    assert root.get("color") == INK
    colours = {
        value.lower()
        for node in root.iter()
        for key in ("fill", "stroke")
        if (value := node.get(key)) is not None
    }
    known = {"currentcolor", "none", "transparent", ACCENT, BAD, GOOD, *PALETTE}
    assert colours <= known


@every_chart
def test_ids_of_two_charts_in_one_page_do_not_meet(name: str) -> None:
    def ids(picture: str) -> set[str]:
        return {
            value
            for n in ElementTree.fromstring(picture).iter()
            if (value := n.get("id")) is not None
        }

    others = set().union(*(ids(drawn(other)) for other in CHARTS if other != name))
    assert not ids(drawn(name)) & others


def test_a_claim_chart_tells_figure_interval_target_verdict_and_status_of_each_claim() -> None:
    shown = texts(drawn("claims"))
    for text in (
        "182 Mk-mers/s [175, 203] · holds · measured   (target ≥ 150 Mk-mers/s)",
        "12 Mk-mers/s [11, 14] · does not hold · emulated   (target ≤ 10 Mk-mers/s)",
        "3 Mk-mers/s [2, 4] · unclear · modelled   (target ≥ 3 Mk-mers/s)",
        "not run here yet   (target ≥ 1 Mk-mers/s)",
    ):
        assert " ".join(text.split()) in " ".join(shown.split())


def test_a_claim_chart_speaks_chinese() -> None:
    shown = texts(drawn("claims in Chinese"))
    for text in (
        "断言 fast",
        "成立",
        "不成立",
        "不确定",
        "实测",
        "仿真硬件",
        "模型推算",
        "尚未在本机运行",
    ):
        assert text in shown


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3).map(sorted),
    st.floats(-1e6, 1e6),
    st.sampled_from(Direction),
)
def test_a_claim_row_has_room_for_interval_and_target(
    interval: list[float], target: float, direction: Direction
) -> None:
    low, value, high = interval
    chart = claim_chart([claim("c", target, direction)], {"c": measured("c", low, value, high)})
    [row] = chart["vconcat"]
    [shown] = row["data"]["values"]
    assert shown["left"] <= min(low, target) <= max(high, target) <= shown["right"]
    assert shown["left"] < shown["right"]
    good = (shown["good_from"], shown["good_to"])
    ends = (target, shown["right"]) if direction is Direction.AT_LEAST else (shown["left"], target)
    assert good == ends


def test_bars_tell_rates_and_how_many_times_faster_the_subject_is() -> None:
    shown = texts(drawn("bars"))
    assert "10 × [10, 10] rbloom <1.5>" in shown or "10 × rbloom <1.5>" in shown
    assert "200" in shown
    assert "Mk-mers/s" in shown
    values = CHARTS["bars"]["data"]["values"]
    assert [row["kind"] for row in values] == ["subject", "baseline"]
    assert all(row["low"] <= row["rate"] <= row["high"] for row in values)


def test_axes_carry_their_units() -> None:
    shown = texts(drawn("log lines"))
    assert "memory (bit per k-mer)" in shown
    assert "false-positive rate (fraction)" in shown
    assert "10⁻⁴" in shown


@settings(max_examples=30)
@given(st.floats(1e-12, 1e12), st.floats(1e-12, 1e12))
def test_a_log_axis_always_has_marks_to_read_it_by(one: float, other: float) -> None:
    ends = sorted((one, other))
    chart = lines([Series("a", [0, 1], ends)], title="t", x=Axis("x"), y=Axis("y", log=True))
    ticks = chart["layer"][-1]["encoding"]["y"]["axis"]["values"]
    assert 2 <= len(ticks) <= 30
    assert all(ends[0] <= tick <= ends[1] for tick in ticks)


def test_a_log_axis_refuses_what_has_no_logarithm() -> None:
    with pytest.raises(ConfigError, match="over positive values only"):
        lines([Series("a", [1], [0])], title="t", x=Axis("x"), y=Axis("y", log=True))


def test_series_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        lines([Series("a", [1, 2], [0])], title="t", x=Axis("x"), y=Axis("y"))


def test_many_series_never_share_colour_and_dashes() -> None:
    many = [Series(str(n), [0, 1], [n, n + 1]) for n in range(16)]
    encoding = lines(many, title="t", x=Axis("x"), y=Axis("y"))["layer"][-1]["encoding"]
    looks = zip(
        encoding["color"]["scale"]["range"],
        map(tuple, encoding["strokeDash"]["scale"]["range"]),
        strict=True,
    )
    assert len(set(looks)) == 16


def test_history_runs_from_old_to_new_with_a_legend_only_for_several_machines() -> None:
    when = [row["when"] for row in CHARTS["history"]["data"]["values"]]
    assert [text.split("|")[2] for text in when] == [f"2026-06-{day}" for day in range(23, 28)]
    assert "machine" not in texts(drawn("history"))
    assert "machine" in texts(drawn("history of two machines"))


def test_a_commit_with_changes_is_marked_in_history() -> None:
    dirty = replace(record(0), code="abcdef0123+dirty.99")
    [row] = history_chart(CLAIMS[0], [dirty])["data"]["values"]
    assert row["when"] == "0|abcdef0+|2026-06-23"


@pytest.mark.parametrize(
    "part",
    [
        {"data": {"url": "https://example.org/x.csv"}, "mark": "bar"},
        {"data": {"url": "file:///etc/hostname"}, "mark": "bar"},
        {"data": {"values": [{}]}, "mark": {"type": "image", "url": "x.png"}},
    ],
)
@pytest.mark.parametrize("wrap", [lambda part: part, lambda part: {"layer": [part]}])
def test_a_chart_that_reads_from_elsewhere_is_refused(part: dict[str, Any], wrap: Any) -> None:
    with pytest.raises(InputError, match="only data inside the specification is drawn"):
        svg(wrap(part))


def test_a_field_called_url_is_data_like_any_other() -> None:
    encoding = {"x": {"field": "url", "type": "nominal"}}
    values = [{"url": "arxiv.org"}]
    assert "arxiv.org" in svg({"data": {"values": values}, "mark": "bar", "encoding": encoding})


def test_what_is_no_chart_is_refused() -> None:
    with pytest.raises(InputError, match="cannot draw it"):
        svg({"mark": "no such mark", "data": {"values": [1]}})


def test_a_png_is_a_png_of_the_size_asked_for() -> None:
    small, large = (png(CHARTS["bars"], scale=scale) for scale in (1.0, 2.0))
    assert small.startswith(b"\x89PNG")
    widths = [int.from_bytes(picture[16:20], "big") for picture in (small, large)]
    assert widths[1] == pytest.approx(2 * widths[0], abs=2)


def linear(colour: str) -> np.ndarray:
    channels = np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """Of WCAG 2."""
    lumens = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (lumens[1] + 0.05) / (lumens[0] + 0.05)


@pytest.mark.parametrize("paper", PAPERS.values(), ids=PAPERS)
def test_colours_read_on_light_and_dark_paper(paper: str) -> None:
    assert contrast(INK, paper) > 4
    assert all(contrast(colour, paper) > 3 for colour in (*PALETTE, GOOD, BAD))


SIGHTS = {
    "full": np.eye(3),
    # Machado, Oliveira and Fernandes 2009, severity 1
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


def lab(rgb: np.ndarray) -> np.ndarray:
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(np.array(matrix) @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIGHTS)
def test_colours_can_be_told_apart_by_everybody(sight: str) -> None:
    seen = [lab(np.array(SIGHTS[sight]) @ linear(colour)) for colour in PALETTE]
    for one, other in itertools.combinations(seen, 2):
        assert np.linalg.norm(one - other) > 15


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (1, "1"), (9.126, "9.13"), (182.4, "182"), (1234567, "1\u202f234\u202f567"),
        (12345, "12\u202f345"), (0.00371, "0.00371"), (3.7e-5, "3.7 × 10⁻⁵"), (1e-5, "10⁻⁵"),
        (-2.5, "−2.5"), (100, "100"), (0.5, "0.5"), (1e9, "1\u202f000\u202f000\u202f000"),
        (9.9999e-5, "10⁻⁴"), (999_999.9, "1\u202f000\u202f000"), (1e15, "10¹⁵"),
        (0.00099999, "0.001"), (-0.0, "0"),
    ],
)  # fmt: skip
def test_figures_read_well(value: float, text: str) -> None:
    assert figure(value) == text


@given(st.text(), st.integers(8, 60))
def test_wrapping_loses_nothing_but_space(text: str, columns: int) -> None:
    assert "".join("".join(wrapped(text, columns)).split()) == "".join(text.split())


def test_chinese_is_broken_between_characters_and_english_between_words() -> None:
    assert wrapped("插入超出缓存的 Bloom 过滤器", 10) == ["插入超出缓", "存的 Bloom", "过滤器"]
