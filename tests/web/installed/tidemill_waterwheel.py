"""A system of a package of its own, quick and obedient: what the site's tests run.

It turns a wheel and reports each turn. With ``gate`` set it turns half of its turns, then waits
until that file exists, so that a test decides how long a run lasts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from tidemill.bench import (
    Budget,
    Claim,
    Context,
    Direction,
    Measurement,
    Paper,
    Report,
    StandIn,
    Status,
    System,
    Table,
    Text,
    Trial,
    plots,
)
from tidemill.bench.claim import Json
from tidemill.errors import ConfigError

TURNS_HELP = "How often the wheel turns, 1-100000."


@dataclass(frozen=True, slots=True)
class WheelConfig:
    """How the wheel turns."""

    turns: int = field(
        default=12, metadata={"help": TURNS_HELP, "help_zh": "水车转多少圈，1-100000。"}
    )
    seconds_per_turn: float = field(default=0.01, metadata={"help": "Time of one turn, 0-1 s."})
    direction: str = field(
        default="forwards",
        metadata={"help": "Which way it turns.", "choices": ("forwards", "backwards")},
    )
    squeaks: bool = field(default=False, metadata={"help": "Whether it says so in the log."})
    river: str = field(
        default="tub",
        metadata={"help": "A shipped river or a file.", "web_choices": ("tub", "brook")},
    )
    gate: str = field(default="", metadata={"help": "A file to wait for at half way."})

    def __post_init__(self) -> None:
        if not 1 <= self.turns <= 100_000:
            raise ConfigError.of("turns", self.turns, "in [1, 100000]", TURNS_HELP)
        if not 0 <= self.seconds_per_turn <= 1:
            raise ConfigError.of("seconds_per_turn", self.seconds_per_turn, "in [0, 1]")


def run(context: Context) -> Report:
    """Turn the wheel."""
    config: WheelConfig = context.config
    context.progress.stage("turning")
    for turn in range(1, config.turns + 1):
        time.sleep(config.seconds_per_turn)  # the turn itself
        while config.gate and turn > config.turns // 2 and not Path(config.gate).exists():
            context.progress.advance(turn - 1, config.turns, "turns")
            time.sleep(0.02)
        context.progress.advance(turn, config.turns, "turns")
        context.progress.metric("water", 5 + 3 * math.sin(turn / 3), "l/s")
        if config.squeaks:
            context.progress.log(f"squeak {turn} <b>&</b>")
    chart = plots.lines(
        [plots.Series("water", [1, 2, 3], [5.0, 6.5, 6.0])],
        title="Water lifted",
        x=plots.Axis("turn"),
        y=plots.Axis("flow", "l/s"),
    )
    return Report(
        headline=Text(
            f"The wheel turned {config.turns} times, {config.direction}.",
            f"水车转了 {config.turns} 圈。",
        ),
        facts={"turns": config.turns, "direction": config.direction},
        timings={"turning_s": config.turns * config.seconds_per_turn},
        tables=(
            Table(
                title="Buckets", columns=("bucket", "litres"), rows=(("first", 4.5), ("last", 5))
            ),
        ),
        charts={"water": chart},
    )


COMPARED: dict[str, Json] = {
    "sides": [
        {"name": "wheel", "rate": [6.0, 5.9, 6.2], "unit": "l/s"},
        {"name": "bucket", "rate": [2.6, 2.5, 2.7], "ratio": [2.31, 2.12, 2.5], "unit": "l/s"},
    ]
}


def _measure(context: Context) -> Iterator[Measurement]:
    context.progress.stage("measuring")
    repeats = 5 if context.budget is Budget.QUICK else 9
    for repeat in range(repeats):
        context.progress.advance(repeat + 1, repeats, "repeats")
    yield Measurement(
        claim="lift",
        value=2.31,
        low=2.12,
        high=2.5,
        repeats=repeats,
        subject="wheel, 6 l/s",
        baseline="bucket, 2.6 l/s",
        detail={"comparison": COMPARED},
    )
    yield Measurement(claim="loss", value=3.0, low=3.0, high=3.0, repeats=1)
    stand_in = StandIn("river", Status.EMULATED, "a tub, filled at 6 l/s")
    yield Measurement(
        claim="noise", value=41.0, low=38.0, high=44.0, repeats=repeats, stand_ins=(stand_in,)
    )


TURNING = Trial(
    name="turning", measure=_measure, summary=Text("Turns and weighs.", "转动并称量。"), quick_s=30
)
ABSTRACT = (
    "We present a wheel that lifts water. It lifts up to 2.2x more than a bucket, loses less than "
    "2% on the way \\(10.4\\times\\) over, and stays below 40 dB in any river "
    "<script>alert(1)</script>."
)

SYSTEM = System(
    name="waterwheel",
    paper=Paper("2606.00001", "A Wheel That Lifts Water", date(2026, 6, 24), ABSTRACT),
    summary=Text("A wheel that lifts water, in seconds.", "一架水车，几秒钟就能转起来。"),
    config=WheelConfig,
    run=run,
    claims=(
        Claim(
            id="lift",
            quote="It lifts up to 2.2x more than a bucket",
            statement=Text("Water lifted per second, over a bucket.", "每秒提水量，与水桶相比。"),
            unit="x",
            direction=Direction.AT_LEAST,
            target=1.8,
            paper_value=Text("up to 2.2x", "至多 2.2 倍"),
            trial=TURNING,
        ),
        Claim(
            id="loss",
            quote="loses less than 2% on the way",
            statement=Text("Share of the water spilled.", "洒掉的水所占比例。"),
            unit="%",
            direction=Direction.AT_MOST,
            target=2.0,
            paper_value="< 2%",
            trial=TURNING,
        ),
        Claim(
            id="noise",
            quote="stays below 40 dB in any river",
            statement=Text("Noise beside the wheel.", "水车旁的噪声。"),
            unit="dB",
            direction=Direction.AT_MOST,
            target=40.0,
            trial=TURNING,
        ),
    ),
)
