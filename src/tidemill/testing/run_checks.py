"""What a run with default settings gives, takes and leaves behind."""

from __future__ import annotations

import json
import math
import os
import re
import resource
import subprocess
import sys
import tempfile
import unittest
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tidemill.bench import drawing, family
from tidemill.bench.claim import Text
from tidemill.bench.process import Ended, Terms
from tidemill.bench.runner import run_system
from tidemill.testing.probe import Job, Seen
from tidemill.testing.subject import CheckFailed, Named, Once, Subject, must, must_be_bilingual

RUN_CPU_S = 10.0
RUN_MEMORY_BYTES = 2**30
_PROBE_S = 600.0


@dataclass(frozen=True, slots=True)
class Measured:
    """One run in a child process, with the CPU time of the child and all its children."""

    ended: Ended
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Probed:
    """Three runs in one process: whole, interrupted, whole."""

    first: Seen
    interrupted: Seen
    last: Seen


class Observed:
    """The runs of one system, made when the first check asks for them and then kept."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self.measured = Once(self._measure)
        self.probed = Once(self._probe)

    @property
    def report(self) -> dict[str, Any]:
        """The report of the measured run."""
        return dict(self.measured().ended.report or {})

    def _measure(self) -> Measured:
        """One run by the runner, on one thread."""
        before = _children_cpu_s()
        ended = run_system(self._subject.reference, terms=Terms(threads=1))
        if ended.outcome == "missing":
            raise unittest.SkipTest(ended.error)
        must(ended.outcome == "ok", f"run() with default settings: {ended.outcome}: {ended.error}")
        return Measured(ended, _children_cpu_s() - before)

    def _probe(self) -> Probed:
        """Three runs by the probe, on two threads."""
        with tempfile.TemporaryDirectory(prefix="tidemill-check-") as scratch:
            return _probe(self._subject.reference, Path(scratch))


def checks_of(subject: Subject) -> Iterator[Named]:
    """Of the report, of time and memory, of what is left behind, of an interrupt."""
    observed = Observed(subject)
    found: dict[str, Callable[[Observed], None]] = {
        "run-takes-under-10-cpu-seconds": _takes_little_time,
        "run-takes-under-1-gib": _takes_little_memory,
        "run-has-a-bilingual-headline": _has_a_headline,
        "run-tells-facts": _tells_facts,
        "run-timings-have-units": _timings_have_units,
        "run-charts-draw": _charts_draw,
        "run-reports-progress": _reports_progress,
        "run-repeats-its-facts-in-one-process": _repeats_facts,
        "run-repeats-its-facts-in-another-process": _repeats_facts_elsewhere,
        "run-leaves-no-process": _leaves_no_process,
        "run-leaves-no-thread": _leaves_no_thread,
        "run-leaves-no-file-open": _leaves_no_file_open,
        "run-leaves-no-shared-memory": _leaves_no_shared_memory,
        "run-leaves-no-temporary-file": _leaves_no_file,
        "interrupt-is-passed-on": _passes_interrupt_on,
        "interrupt-leaves-nothing": _interrupt_leaves_nothing,
        "interrupt-does-not-change-the-next-run": _interrupt_changes_nothing,
    }
    for name, check in found.items():
        yield name, partial(check, observed)


def _takes_little_time(observed: Observed) -> None:
    cpu_s = observed.measured().cpu_s
    must(
        cpu_s < RUN_CPU_S,
        f"run() with default settings took {cpu_s:.1f} s of CPU; make the default input smaller: "
        "it is what a reader waits for after pressing Run.",
    )


def _takes_little_memory(observed: Observed) -> None:
    peak = observed.measured().ended.peak_rss_bytes
    must(
        peak < RUN_MEMORY_BYTES,
        f"run() with default settings held {peak / 2**20:.0f} MiB; make the default input smaller.",
    )


def _has_a_headline(observed: Observed) -> None:
    headline = observed.report["headline"]
    must_be_bilingual("headline of the report", Text(headline["en"], headline["zh"]))


def _tells_facts(observed: Observed) -> None:
    must(observed.report["facts"], "report.facts is empty; tell what the run found.")


def _timings_have_units(observed: Observed) -> None:
    for name, value in observed.report["timings"].items():
        must(
            re.search(r"_[A-Za-z]+$", name),
            f"timing {name!r} has no unit in its name; call it {name}_s or whatever it is in.",
        )
        must(math.isfinite(value), f"timing {name}={value} — must be a finite number.")


def _charts_draw(observed: Observed) -> None:
    for name, chart in observed.report["charts"].items():
        must(chart.get("description"), f"chart {name!r} has no description for who cannot see it.")
        drawing.svg(chart)


def _reports_progress(observed: Observed) -> None:
    must(
        observed.probed().first.stages,
        "run() names no stage; call context.progress.stage(…) so that a reader sees it live.",
    )


def _repeats_facts(observed: Observed) -> None:
    probed = observed.probed()
    _must_be_equal(_facts(probed.first), _facts(probed.last), "a second run in one process")


def _repeats_facts_elsewhere(observed: Observed) -> None:
    one = observed.report["facts"]
    _must_be_equal(one, _facts(observed.probed().first), "two threads in place of one")


def _leaves_no_process(observed: Observed) -> None:
    _must_be_gone("process", observed.probed().first.processes)
    _must_be_gone("process", observed.probed().last.processes)


def _leaves_no_thread(observed: Observed) -> None:
    first, last = observed.probed().first, observed.probed().last
    _must_be_gone("thread", first.threads)
    must(
        last.tasks <= first.tasks,
        f"each run adds kernel threads: {first.tasks}, then {last.tasks}; join them.",
    )


def _leaves_no_file_open(observed: Observed) -> None:
    """What the first run opens may be a cache; what each run adds is a leak."""
    _must_not_grow(observed.probed().first, observed.probed().last)


def _leaves_no_shared_memory(observed: Observed) -> None:
    _must_be_gone("shared memory segment", observed.probed().first.segments)


def _leaves_no_file(observed: Observed) -> None:
    _must_be_gone("temporary file", observed.probed().first.files)


def _passes_interrupt_on(observed: Observed) -> None:
    seen = observed.probed().interrupted
    must(
        seen.raised.startswith("KeyboardInterrupt"),
        f"interrupted after {seen.told} reports of progress, run() "
        + (f"raised {seen.raised}" if seen.raised else "went on to its end")
        + "; let KeyboardInterrupt pass.",
    )
    must(seen.handler, "run() changes what Ctrl-C does and does not set it back.")


def _interrupt_leaves_nothing(observed: Observed) -> None:
    first, seen = observed.probed().first, observed.probed().interrupted
    _must_be_gone("process", seen.processes)
    _must_be_gone("thread", seen.threads)
    _must_be_gone("temporary file", seen.files)
    _must_be_gone("shared memory segment", seen.segments)
    _must_not_grow(first, seen)


def _interrupt_changes_nothing(observed: Observed) -> None:
    must(
        not observed.probed().last.raised, f"after it run() raises {observed.probed().last.raised}."
    )


def _must_be_gone(kind: str, left: list[str]) -> None:
    must(
        not left,
        f"run() leaves a {kind} behind: {', '.join(left[:5])}; use a context manager.",
    )


def _must_not_grow(before: Seen, after: Seen) -> None:
    grown = [
        name for name, count in after.descriptors.items() if count > before.descriptors.get(name, 0)
    ]
    must(not grown, f"run() leaves open: {', '.join(grown[:5])}; close it.")


def _must_be_equal(one: dict[str, Any], other: dict[str, Any], how: str) -> None:
    differing = [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]
    must(
        not differing,
        f"report.facts differ with {how}: "
        + ", ".join(f"{name} {one.get(name)!r} ≠ {other.get(name)!r}" for name in sorted(differing))
        + "; draw from a seeded generator, and put what may differ into timings.",
    )


def _facts(seen: Seen) -> dict[str, Any]:
    must(not seen.raised, f"run() raises {seen.raised}.")
    return dict((seen.report or {})["facts"])


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _probe(reference: str, scratch: Path) -> Probed:
    for name in ("tmp", "cwd"):
        (scratch / name).mkdir()
    job = Job(reference, 2, str(scratch / "tmp"), str(scratch / "result"), _absolute_path())
    mark = f"check.{uuid.uuid4().hex}"
    with (scratch / "said").open("w+b") as said:  # no pipe: what is left behind would hold it open
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", "tidemill.testing.probe"],
                input=json.dumps(asdict(job)).encode(),
                stdout=said,
                stderr=said,
                cwd=scratch / "cwd",
                env=os.environ | {"TMPDIR": job.temporary, family.MARK: mark},
                timeout=_PROBE_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise CheckFailed(f"three runs take over {_PROBE_S:g} s; it hangs.") from error
        finally:
            family.sweep(partial(family.marked, mark))
        said.seek(0)
        tail = " | ".join(said.read().decode(errors="replace").strip().splitlines()[-3:])
    must(done.returncode == 0, f"three runs ended with status {done.returncode}: {tail}")
    result = json.loads(Path(job.result).read_text(encoding="utf-8"))
    if result["missing"]:
        raise unittest.SkipTest(" ".join(result["missing"]))
    return Probed(*(Seen(**seen) for seen in result["runs"]))


def _absolute_path() -> list[str]:
    return [str(Path(entry).absolute()) for entry in sys.path]
