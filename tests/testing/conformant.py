"""A system that does all it must, `GOOD`, and copies of it that each fall short in one thing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from tidemill.bench import (
    Claim,
    Context,
    Direction,
    Paper,
    Plug,
    Report,
    Requirement,
    System,
    Text,
    Trial,
)
from tidemill.errors import ConfigError

if TYPE_CHECKING:
    import typer

ABSTRACT = (
    "Sorting is what computers do all day. We present Toysort, which sorts what is sorted already "
    "up to 3x faster than what is not, at no cost in memory. On a laptop it orders a thousand "
    "numbers while you read this sentence, and its order is that of the numbers themselves."
)
SEGMENT = Path("/dev/shm") / f"tidemill-conformance-{os.getppid()}"


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of Toysort."""

    numbers: int = field(default=1000, metadata={"help": "How many it sorts."})
    share_sorted: float = field(default=0.5, metadata={"help": "Share that is in order already."})
    seed: int = field(default=0, metadata={"help": "Of the numbers."})

    def __post_init__(self) -> None:
        if not 1 <= self.numbers <= 1_000_000:
            raise ConfigError.of("numbers", self.numbers, "in [1, 1_000_000]")
        if not 0 < self.share_sorted <= 1:
            raise ConfigError.of("share_sorted", self.share_sorted, "in (0, 1]", "a share")


def run(context: Context) -> Report:
    context.progress.stage("draw")
    numbers = random.Random(context.config.seed).sample(range(10**9), context.config.numbers)
    context.progress.stage("sort")
    begin = time.perf_counter()
    numbers.sort()
    context.progress.advance(1, 1, "lists")
    return Report(
        headline=Text(f"Sorted {len(numbers)} numbers.", f"排好了 {len(numbers)} 个数。"),
        facts={"median": numbers[len(numbers) // 2]},
        timings={"sort_s": time.perf_counter() - begin},
        charts={"sorted": {"description": "a bar", "mark": "bar", "data": {"values": [{"x": 1}]}}},
    )


TRIAL = Trial(
    name="race", measure=lambda _: (), summary=Text("Sorts two lists.", "给两个列表排序。")
)
CLAIM = Claim(
    id="faster",
    quote="up to 3x faster",
    statement=Text("Sorted lists sort faster.", "已排序的列表排得更快。"),
    unit="x",
    direction=Direction.AT_LEAST,
    target=1.5,
    trial=TRIAL,
)


def cli() -> typer.Typer:
    import typer

    app = typer.Typer()

    @app.command()
    def order(numbers: int) -> None:
        """Sort that many numbers."""

    return app


GOOD = System(
    name="toysort",
    paper=Paper("2601.00001", "Toysort", date(2026, 1, 2), ABSTRACT),
    summary=Text("Sorts numbers.", "给数排序。"),
    config=Config,
    run=run,
    claims=(CLAIM,),
    requires=(Requirement("a clock", lambda: None),),
    plugs=(Plug("sorter", "toysort", Text("A sorter.", "排序器。"), list),),
    cli=cli,
)


def also(before: Callable[[Context], object]) -> System:
    """A copy of `GOOD` that does one thing more in each run."""

    def both(context: Context) -> Report:
        before(context)
        return run(context)

    return replace(GOOD, run=both)


def reports(**fields: object) -> System:
    """A copy of `GOOD` whose report differs."""
    return replace(GOOD, run=lambda context: replace(run(context), **fields))  # type: ignore[arg-type]


KEPT: list[object] = []
WAIT = [sys.executable, "-c", "import threading; threading.Event().wait()"]


def _swallow(context: Context) -> Report:
    try:
        return run(context)
    except KeyboardInterrupt:
        return run(context)


def _break_when_interrupted(context: Context) -> None:
    if KEPT:
        raise RuntimeError("still broken")
    KEPT.append("broken")
    for name in ("a", "b", "c", "d", "e"):
        context.progress.stage(name)
    KEPT.clear()


def _leave_a_file_when_interrupted(context: Context) -> None:
    path = Path(tempfile.mkstemp()[1])
    for name in ("a", "b", "c", "d", "e"):
        context.progress.stage(name)
    path.unlink()


def _eat(_: Context) -> None:
    memory = bytearray(b"x") * (1100 * 2**20)
    threading.Event().wait(0.3)  # the runner looks at memory ten times a second
    del memory


LEAVES_A_PROCESS = also(lambda _: subprocess.Popen(WAIT))
LEAVES_A_DAEMON = also(
    lambda _: subprocess.run(["sh", "-c", '"$@" >/dev/null 2>&1 &', "sh", *WAIT], check=True)
)
LEAVES_A_THREAD = also(
    lambda _: threading.Thread(target=threading.Event().wait, daemon=True).start()
)
LEAVES_A_FILE_OPEN = also(lambda _: KEPT.append(Path(os.devnull).open()))  # noqa: SIM115
LEAVES_A_SOCKET_OPEN = also(lambda _: KEPT.append(os.pipe()))
LEAVES_SHARED_MEMORY = also(lambda _: SEGMENT.write_text("left"))
LEAVES_A_TEMPORARY_FOLDER = also(lambda _: tempfile.mkdtemp())
LEAVES_A_FILE_WHERE_IT_STANDS = also(lambda _: Path("here.txt").write_text("left"))
EATS_MEMORY = also(_eat)
IS_UNSTABLE = replace(GOOD, run=lambda c: replace(run(c), facts={"now": time.time_ns()}))
DEPENDS_ON_THREADS = replace(GOOD, run=lambda c: replace(run(c), facts={"threads": c.threads}))
TELLS_NO_FACTS = reports(facts={})
TELLS_IN_ENGLISH = reports(headline=Text("Sorted.", "Sorted."))
HAS_A_TIMING_WITHOUT_UNIT = reports(timings={"total": 1.0})
HAS_A_CHART_WITHOUT_WORDS = reports(charts={"c": {"mark": "bar"}})
HAS_A_CHART_THAT_IS_NONE = reports(charts={"c": {"description": "d", "mark": "whale"}})
FAILS = also(lambda _: 1 / 0)
CRASHES = also(lambda _: os._exit(7))
IS_SILENT = replace(
    GOOD, run=lambda _: Report(headline=Text("Done.", "好了。"), facts={"n": 1}, timings={})
)
SWALLOWS_INTERRUPTS = replace(GOOD, run=_swallow)
TAKES_OVER_INTERRUPTS = also(lambda _: signal.signal(signal.SIGINT, lambda *_: sys.exit(1)))
BREAKS_WHEN_INTERRUPTED = also(_break_when_interrupted)
LEAVES_A_FILE_WHEN_INTERRUPTED = also(_leave_a_file_when_interrupted)
LACKS_A_DEVICE = replace(
    GOOD, requires=(Requirement("KVM", lambda: "KVM — no /dev/kvm; load the module."),)
)
