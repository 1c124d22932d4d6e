"""A system whose trials go wrong in every way there is: ``toy_system:SYSTEM``."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

from tidemill.bench import (
    Claim,
    Context,
    Direction,
    Measurement,
    Paper,
    Report,
    Requirement,
    StandIn,
    Status,
    System,
    Table,
    Text,
    Trial,
)
from tidemill.errors import ConfigError, MissingCapability

PAPER = Paper("2601.00001", "A Toy", date(2026, 1, 2), "A toy counts up to 3x faster than a clock.")


@dataclass(frozen=True, slots=True)
class ToyConfig:
    """Settings of the toy."""

    steps: int = field(default=3, metadata={"help": "how far it counts"})
    gate: str = field(default="", metadata={"help": "a FIFO to read before going on"})
    lacks: bool = field(default=False, metadata={"help": "pretend that a device is missing"})

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 1_000_000:
            raise ConfigError.of("steps", self.steps, "from 1 to 1000000")


def figure(claim: str, value: float = 2.0) -> Measurement:
    return Measurement(
        claim=claim, value=value, low=value * 0.9, high=value * 1.1, repeats=5, subject="toy",
        baseline="clock",
    )  # fmt: skip


def counts(context: Context) -> Iterator[Measurement]:
    context.progress.stage("count")
    for i in range(context.config.steps):
        context.progress.advance(i + 1, context.config.steps, "steps")
        context.progress.metric("count", i, "steps")
    sys.stdout.write("counting is done\n")
    yield figure("counts")


def emulates(_: Context) -> Iterator[Measurement]:
    stand_in = StandIn("a toy device", Status.EMULATED, "a counter in memory")
    yield Measurement(
        claim="emulates", value=1.0, low=1.0, high=1.0, repeats=1, stand_ins=(stand_in,)
    )


def waits(context: Context) -> Iterator[Measurement]:
    """Goes on when somebody opens the gate for writing; without a gate never."""
    context.progress.stage("wait")
    yield figure("waits-first")
    context.progress.log(f"tmp {Path(tempfile.mkdtemp())}")
    context.progress.stage("at the gate")
    if context.config.gate:
        Path(context.config.gate).read_text()
    else:
        threading.Event().wait()
    yield figure("waits")


def fails(_: Context) -> Iterator[Measurement]:
    yield figure("fails")
    sys.stdout.write("about to fail\n")
    raise ValueError("the toy broke")


def segfaults(context: Context) -> Iterator[Measurement]:
    context.progress.stage("fall")
    yield figure("segfaults")
    sys.stdout.write("last words\n")
    ctypes.string_at(0)


def eats_memory(context: Context) -> Iterator[Measurement]:
    context.progress.stage("eat")
    kept: list[bytearray] = []
    while True:
        kept.append(bytearray(b"x") * (8 * 2**20))
    yield figure("eats")  # type: ignore[unreachable]


def eats_in_children(context: Context) -> Iterator[Measurement]:
    """Each child stays under the limit; together they are over it."""
    code = "import threading; x = bytearray(b'x') * (60 * 2**20); threading.Event().wait()"
    for _ in range(4):
        subprocess.Popen([sys.executable, "-c", code])
    threading.Event().wait()
    yield figure("eats-in-children")


def loops(context: Context) -> Iterator[Measurement]:
    context.progress.stage("loop")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        pass
    yield figure("loops")  # type: ignore[unreachable]


def forks(context: Context) -> Iterator[Measurement]:
    """Grandchildren of three kinds: in the group, out of it, and a daemon without the mark."""
    wait = "import signal, threading; signal.signal(15, signal.SIG_IGN); threading.Event().wait()"
    command = [sys.executable, "-c", wait]
    pids = [
        subprocess.Popen(command).pid,
        subprocess.Popen(command, start_new_session=True).pid,
        _daemon(command),
    ]
    context.progress.log("grandchildren " + " ".join(map(str, pids)))
    if context.config.gate:
        Path(context.config.gate).read_text()
    yield figure("forks")


def _daemon(command: list[str]) -> int:
    read, write = os.pipe()
    if os.fork() == 0:
        daemon = subprocess.Popen(command, start_new_session=True, env={})
        os.write(write, str(daemon.pid).encode())
        os._exit(0)
    os.wait()
    os.close(write)
    with os.fdopen(read) as pipe:
        return int(pipe.read())


def garbage(_: Context) -> Iterator[Measurement]:
    for _ in range(200):
        os.write(1, bytes(range(256)) * 64)
        os.write(2, b"\xff\x00 half a line")
    yield figure("garbage")
    os.write(1, b"\nthe end\xff\n")
    raise ValueError("half\ud800 a character \0")


def big(context: Context) -> Iterator[Measurement]:
    for i in range(100_000):
        context.progress.log(f"line {i}")
    yield replace(figure("big"), detail={"series": [0.123456789] * 100_000})


def foreign(_: Context) -> Iterator[Measurement]:
    yield figure("counts")


def nothing(_: Context) -> Iterable[Measurement]:
    return ()


def exits(_: Context) -> Iterator[Measurement]:
    yield figure("exits")
    os._exit(0)


def lacks(_: Context) -> Iterator[Measurement]:
    raise MissingCapability("toy device — is not there; plug it in.")
    yield figure("lacks")  # type: ignore[unreachable]


def run(context: Context) -> Report:
    context.progress.stage("run")
    if context.config.gate:
        Path(context.config.gate).read_text()
    context.progress.advance(1, 1, "runs")
    return Report(
        headline=Text(f"It counted to {context.config.steps}.", f"数到 {context.config.steps}。"),
        facts={"steps": context.config.steps},
        timings={"wall_s": 0.5},
        tables=(Table(title="Steps", columns=("step", "seconds"), rows=((1, 0.25), (2, 0.25))),),
    )


def _claim(
    name: str,
    measure: Callable[[Context], Iterable[Measurement]],
    *,
    ids: tuple[str, ...] = (),
    target: float = 1.5,
    quick_s: float | None = 20.0,
    memory_mib: int = 512,
) -> tuple[Claim, ...]:
    trial = Trial(
        name=name,
        measure=measure,
        summary=Text(name, name),
        quick_s=quick_s,
        full_s=20.0,
        memory_mib=memory_mib,
    )
    return tuple(
        Claim(
            id=id,
            quote="up to 3x faster",
            statement=Text(f"It {id}.", f"它{id}。"),
            unit="x",
            direction=Direction.AT_LEAST,
            target=target,
            trial=trial,
            paper_value=Text("up to 3x", "至多 3 倍"),
        )
        for id in ids or (name,)
    )


def _system(name: str, *claims: tuple[Claim, ...]) -> System:
    return System(
        name=name,
        paper=PAPER,
        summary=Text("A toy.", "玩具。"),
        config=ToyConfig,
        run=run,
        claims=tuple(claim for part in claims for claim in part),
    )


SYSTEM = _system(
    "toy",
    _claim("counts", counts),
    _claim("emulates", emulates, target=0.5),
    _claim("waits", waits, ids=("waits-first", "waits")),
    _claim("fails", fails),
    _claim("segfaults", segfaults),
    _claim("eats", eats_memory, memory_mib=200),
    _claim("eats-in-children", eats_in_children, memory_mib=200),
    _claim("loops", loops, quick_s=1.0),
    _claim("forks", forks),
    _claim("garbage", garbage),
    _claim("big", big),
    _claim("foreign", foreign),
    _claim("nothing", nothing),
    _claim("exits", exits),
    _claim("lacks", lacks),
    _claim("only-full", counts, quick_s=None),
)
GOOD = _system("good", _claim("counts", counts), _claim("emulates", emulates, target=0.5))
LOSES = _system("loses", _claim("counts", counts, target=10.0))
UNSURE = _system("unsure", _claim("counts", counts, target=2.0))
MISSING = System(
    name="missing",
    paper=PAPER,
    summary=Text("A toy without its device.", "缺设备的玩具。"),
    config=ToyConfig,
    run=run,
    claims=_claim("counts", counts),
    requires=(Requirement("toy device", lambda: "toy device — is not there; plug it in."),),
)
