"""The conformance suite passes what conforms and fails what falls short, in words that help."""

from __future__ import annotations

import re
import unittest
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import conformant
import pytest
import typer
from conformant import CLAIM, GOOD, TRIAL

from tidemill.bench import Paper, Plug, Requirement, System, Text
from tidemill.errors import ClaimError, ConfigError
from tidemill.testing import Check, CheckFailed, ConformanceWarning, check_system, checks


@pytest.mark.parametrize("check", checks(GOOD, docs=None), ids=str)
def test_a_conforming_system_passes(check: Check) -> None:
    check()


def test_one_call_checks_everything() -> None:
    check_system(GOOD, docs=None)


def test_there_are_dozens_of_checks_with_names_of_their_own() -> None:
    names = [check.name for check in checks(GOOD, docs=None)]
    assert len(names) == len(set(names)) > 40


@pytest.fixture(autouse=True)
def _no_segment_stays() -> Iterator[None]:
    yield
    for segment in Path("/dev/shm").glob("tidemill-conformance-*"):
        segment.unlink(missing_ok=True)


def falls_short(system: System, name: str) -> str:
    """What the check called ``name`` says of ``system``."""
    found = {check.name: check for check in checks(system, docs=None)}
    with pytest.raises(CheckFailed) as caught:
        found[name]()
    assert str(caught.value).startswith(f"{system.name}-{name}: ")
    return str(caught.value)


@pytest.mark.parametrize(
    ("system", "name", "text"),
    [
        ("LEAVES_A_PROCESS", "run-leaves-no-process", r"process behind: .*threading\.Event"),
        ("LEAVES_A_DAEMON", "run-leaves-no-process", r"process behind: .*threading\.Event"),
        ("LEAVES_A_THREAD", "run-leaves-no-thread", "thread behind: Thread-1"),
        ("LEAVES_A_FILE_OPEN", "run-leaves-no-file-open", "leaves open: /dev/null"),
        ("LEAVES_A_SOCKET_OPEN", "run-leaves-no-file-open", "leaves open: pipe:"),
        ("LEAVES_SHARED_MEMORY", "run-leaves-no-shared-memory", "behind: tidemill-conformance-"),
        ("LEAVES_A_TEMPORARY_FOLDER", "run-leaves-no-temporary-file", "behind: tmp"),
        ("LEAVES_A_FILE_WHERE_IT_STANDS", "run-leaves-no-temporary-file", r"behind: here\.txt"),
        ("EATS_MEMORY", "run-takes-under-1-gib", r"held 1\d\d\d MiB"),
        ("IS_UNSTABLE", "run-repeats-its-facts-in-one-process", r"now \d+ ≠ \d+"),
        ("IS_UNSTABLE", "run-repeats-its-facts-in-another-process", r"now \d+ ≠ \d+"),
        ("DEPENDS_ON_THREADS", "run-repeats-its-facts-in-another-process", "threads 1 ≠ 2"),
        ("TELLS_NO_FACTS", "run-tells-facts", "facts is empty"),
        ("TELLS_IN_ENGLISH", "run-has-a-bilingual-headline", "no Chinese character"),
        ("HAS_A_TIMING_WITHOUT_UNIT", "run-timings-have-units", "call it total_s"),
        ("HAS_A_CHART_WITHOUT_WORDS", "run-charts-draw", "no description"),
        ("HAS_A_CHART_THAT_IS_NONE", "run-charts-draw", "cannot draw it"),
        ("FAILS", "run-tells-facts", "ZeroDivisionError: division by zero"),
        ("CRASHES", "run-tells-facts", "crashed"),
        ("CRASHES", "run-leaves-no-thread", "ended with status 7"),
        ("IS_SILENT", "run-reports-progress", "names no stage"),
        ("SWALLOWS_INTERRUPTS", "interrupt-is-passed-on", "went on to its end"),
        ("TAKES_OVER_INTERRUPTS", "interrupt-is-passed-on", "SystemExit|what Ctrl-C does"),
        ("BREAKS_WHEN_INTERRUPTED", "interrupt-does-not-change-the-next-run", "still broken"),
        ("LEAVES_A_FILE_WHEN_INTERRUPTED", "interrupt-leaves-nothing", "file behind: tmp"),
    ],
)
def test_a_run_that_falls_short_is_told(system: str, name: str, text: str) -> None:
    assert re.search(text, falls_short(getattr(conformant, system), name))


def test_one_call_tells_everything_that_is_amiss() -> None:
    with pytest.raises(CheckFailed) as caught:
        check_system(conformant.IS_SILENT, docs=None)
    assert "toysort-run-reports-progress: " in str(caught.value)
    assert "toysort-interrupt-is-passed-on: " in str(caught.value)
    assert isinstance(caught.value, ClaimError)
    assert isinstance(caught.value, AssertionError)


def test_what_this_machine_cannot_tell_is_skipped_not_passed() -> None:
    found = {check.name: check for check in checks(conformant.LACKS_A_DEVICE, docs=None)}
    for name in ("run-tells-facts", "run-leaves-no-thread"):
        with pytest.raises(unittest.SkipTest, match="no /dev/kvm"):
            found[name]()
    with pytest.warns(UserWarning, match=r"was skipped: .*no /dev/kvm"):
        check_system(conformant.LACKS_A_DEVICE, docs=None)


def test_a_known_failure_warns_and_must_be_taken_back_when_it_passes() -> None:
    known = {"run-tells-facts": "issue 7"}
    [check] = [
        check
        for check in checks(conformant.TELLS_NO_FACTS, docs=None, known_failures=known)
        if check.known_failure
    ]
    with pytest.warns(ConformanceWarning, match=r"as declared \(issue 7\): .*facts is empty"):
        check()
    [check] = [c for c in checks(GOOD, docs=None, known_failures=known) if c.known_failure]
    with pytest.raises(CheckFailed, match=r"passes, but known_failures says 'issue 7'; remove it"):
        check()


def test_a_known_failure_of_no_check_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"known_failures=\['run-tels-facts'\] — must be names"):
        checks(GOOD, docs=None, known_failures={"run-tels-facts": "typo"})


def test_a_system_that_no_other_process_can_find_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be an attribute of conformant"):
        checks(replace(GOOD, name="hidden"), docs=None)


def configuration(check: Callable[[Any], None], **options: Any) -> type:
    @dataclass(**{"frozen": True, "slots": True} | options)
    class Config:
        size: int = field(default=4, metadata={"help": "Of the box."})

        def __post_init__(self) -> None:
            check(self.size)

    return Config


def allows(low: float, high: float, words: str) -> Callable[[Any], None]:
    def check(size: Any) -> None:
        if not low <= size <= high:
            raise ConfigError.of("size", size, words)

    return check


def raises_otherwise(size: int) -> None:
    if size > 100:
        raise ValueError("too big")


def raises_vaguely(size: int) -> None:
    if size > 100:
        raise ConfigError("the box is too big")


@pytest.mark.parametrize(
    "words",
    ["in [1, 100]", "in (0, 101)", "in 1-100", "from 1 to 100", "between 1..100", "a small size"],
)
def test_a_range_may_be_worded_in_many_ways(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    passes(configuration(allows(1, 100, words)), monkeypatch)


@pytest.mark.parametrize("words", ["in [1, 2^20]", "in 1-1,048,576", "in [1, 2**20]", "at least 1"])
def test_bounds_may_be_written_in_many_ways(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    passes(configuration(allows(1, 2**20, words)), monkeypatch)


def passes(config: type, monkeypatch: pytest.MonkeyPatch) -> None:
    system = replace(GOOD, config=config)
    monkeypatch.setattr(conformant, "CHANGED", system, raising=False)
    for check in checks(system, docs=None):
        if check.name.startswith("config-"):
            check()


@pytest.mark.parametrize(
    ("config", "name", "text"),
    [
        (configuration(lambda _: None), "size-refuses-values-out-of-range", "refuse what cannot"),
        (configuration(raises_otherwise), "size-refuses-values-out-of-range", "raises ValueError"),
        (configuration(raises_vaguely), "size-refuses-values-out-of-range", "does not name field"),
        (
            configuration(allows(1, 100, "in [1, 50]")),
            "size-refuses-values-out-of-range",
            r"size=51 is taken, though .*\[1, 50\].* excludes it",
        ),
        (
            configuration(allows(1, 50, "in [1, 100]")),
            "size-refuses-values-out-of-range",
            r"size=100 is refused .* though .* allows it",
        ),
        (configuration(allows(1, 9, "in (1, 9]")), "size-refuses-values-out-of-range", "size=1 "),
        (configuration(allows(1, 9, "at least 2")), "size-refuses-values-out-of-range", "size=1 "),
        (configuration(allows(1, 9, "at most 8")), "size-refuses-values-out-of-range", "size=9 "),
        (configuration(allows(1, 9, "in [1, 9]"), frozen=False), "is-frozen-and-slotted", "frozen"),
        (configuration(allows(1, 9, "in [1, 9]"), slots=False), "is-frozen-and-slotted", "slots"),
    ],
)
def test_a_configuration_that_falls_short_is_told(
    config: type, name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = replace(GOOD, config=config)
    monkeypatch.setattr(conformant, "CHANGED", system, raising=False)
    assert re.search(text, falls_short(system, f"config-{name}"))


@dataclass(frozen=True, slots=True)
class Bare:
    size: int
    name: str = "box"


def test_a_field_without_help_or_default_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    system = replace(GOOD, config=Bare)
    monkeypatch.setattr(conformant, "CHANGED", system, raising=False)
    assert "every field needs a default" in falls_short(system, "config-has-defaults")
    assert "is empty; write it" in falls_short(system, "config-name-has-help")


def short(text: str = "") -> Paper:
    return Paper("2601.00001v2", text, date(2026, 1, 2), "It is up to 3x faster.")


def silent_cli() -> typer.Typer:
    app = typer.Typer()
    app.command("order")(lambda: None)
    app.command("count")(lambda: None)
    return app


@pytest.mark.parametrize(
    ("changes", "name", "text"),
    [
        ({"paper": short()}, "paper-is-identified", "arxiv_id='2601.00001v2' — must be an id"),
        ({"paper": short("T")}, "paper-has-its-abstract", "22 characters; paste all of it"),
        ({"summary": Text("", "空")}, "summary-is-bilingual", "English, is empty"),
        (
            {"summary": Text("排", "排")},
            "summary-is-bilingual",
            "Chinese characters in its English",
        ),
        ({"claims": ()}, "has-claims", "there is no claim"),
        ({"claims": (replace(CLAIM, unit=""),)}, "claim-faster-has-a-unit", "is empty"),
        (
            {"claims": (replace(CLAIM, quote="3x"),)},
            "claim-faster-quotes-the-abstract",
            "too short",
        ),
        ({"claims": (replace(CLAIM, quote=""),)}, "claim-faster-quotes-the-abstract", "is empty"),
        (
            {"claims": (replace(CLAIM, statement=Text("REPLACE: say it.", "说")),)},
            "claim-faster-is-bilingual",
            r"still says \['REPLACE: say it\.'\]; write what it asks for",
        ),
        (
            {"claims": (replace(CLAIM, paper_value="up to 3x"),)},
            "claim-faster-gives-the-papers-value",
            "'up to 3x' has words in one language; give a Text with both",
        ),
        (
            {"claims": (replace(CLAIM, paper_value=Text("up to 3x", "up to 3x")),)},
            "claim-faster-gives-the-papers-value",
            "no Chinese character in its Chinese form",
        ),
        (
            {"claims": (replace(CLAIM, target=float("nan")),)},
            "claim-faster-has-a-pass-condition",
            "target=nan — must be a finite number",
        ),
        (
            {"claims": (replace(CLAIM, direction="up"),)},
            "claim-faster-has-a-pass-condition",
            "direction='up' — must be Direction.AT_LEAST or",
        ),
        (
            {"claims": (replace(CLAIM, trial=replace(TRIAL, quick_s=1000.0)),)},
            "trial-race-has-sane-limits",
            r"quick_s=1000.0 — must be in \(0, 600\]",
        ),
        (
            {"claims": (replace(CLAIM, trial=replace(TRIAL, memory_mib=1)),)},
            "trial-race-has-sane-limits",
            r"memory_mib=1 — must be in \[32, ",
        ),
        (
            {"claims": (CLAIM, replace(CLAIM, id="b", trial=replace(TRIAL, full_s=9.0)))},
            "trial-names-are-unique",
            "two trials are called 'race'",
        ),
        ({"requires": (Requirement("KVM", lambda: ""),)}, "requirements-answer", "is empty"),
        (
            {"plugs": (Plug("", "p", Text("a", "啊"), list),)},
            "plugs-are-described",
            "socket of a plug is empty",
        ),
        ({"cli": silent_cli}, "cli-has-help", "help of the command order is empty"),
    ],
)
def test_words_that_are_missing_are_told(
    changes: dict[str, Any], name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = replace(GOOD, **changes)
    monkeypatch.setattr(conformant, "CHANGED", system, raising=False)
    assert re.search(text, falls_short(system, name))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with a page and an example of the conforming system."""
    (tmp_path / "docs" / "systems").mkdir(parents=True)
    (tmp_path / "examples").mkdir()
    page = "# Toysort\n\n`tidemill run toysort`, `tidemill claims toysort`\n"
    (tmp_path / "docs" / "systems" / "toysort.md").write_text(page)
    (tmp_path / "examples" / "toysort.py").write_text("print(sorted([2, 1]))\n")
    return tmp_path


def documents(project: Path) -> dict[str, Check]:
    names = ("has-a-page", "has-a-short-example", "example-runs")
    return {c.name: c for c in checks(GOOD, docs=project) if c.name in names}


def test_a_page_and_an_example_that_runs_pass(project: Path) -> None:
    assert len(documents(project)) == 3
    for check in documents(project).values():
        check()


@pytest.mark.parametrize(
    ("path", "content", "name", "text"),
    [
        ("docs/systems/toysort.md", None, "has-a-page", "is not there; write it"),
        ("docs/systems/toysort.md", "# T\n", "has-a-page", "does not show `tidemill run toysort`"),
        ("docs/systems/toysort.md", "REPLACE: say\n", "has-a-page", "still says"),
        ("examples/toysort.py", None, "example-runs", "is not there; write it"),
        ("examples/toysort.py", "1 / 0\n", "example-runs", "ends with status 1: .*ZeroDivision"),
        ("examples/toysort.py", "1\n", "example-runs", "prints nothing"),
        (
            "examples/toysort.py",
            "1\n" * 41,
            "has-a-short-example",
            r"41 lines — must be in \[1, 40",
        ),
    ],
)
def test_documents_that_fall_short_are_told(
    project: Path, path: str, content: str | None, name: str, text: str
) -> None:
    (project / path).unlink() if content is None else (project / path).write_text(content)
    with pytest.raises(CheckFailed, match=text):
        documents(project)[name]()


def test_documents_are_looked_for_in_the_project_around_the_system() -> None:
    names = {check.name for check in checks(GOOD)}
    assert "has-a-page" in names
    assert "has-a-page" not in {check.name for check in checks(GOOD, docs=None)}


def test_an_import_that_loads_a_heavy_package_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "heavy_toy.py").write_text(
        "import sqlalchemy\nfrom dataclasses import replace\nimport conformant\n"
        "class Config(conformant.Config): __slots__ = ()\n"
        "SYSTEM = replace(conformant.GOOD, config=Config)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import heavy_toy  # type: ignore[import-not-found]

    assert "loads sqlalchemy" in falls_short(heavy_toy.SYSTEM, "import-does-not-load-sqlalchemy")


def test_an_import_that_takes_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_toy.py").write_text(
        "import time\nbegin = time.process_time()\n"
        "while time.process_time() - begin < 0.6: pass\n"
        "from dataclasses import replace\nimport conformant\n"
        "class Config(conformant.Config): __slots__ = ()\n"
        "SYSTEM = replace(conformant.GOOD, config=Config)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import slow_toy  # type: ignore[import-not-found]

    said = falls_short(slow_toy.SYSTEM, "import-takes-under-150-ms-of-cpu")
    assert re.search(r"takes \d+ ms of CPU, at most 150", said)


def test_checks_leave_warnings_alone() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for check in checks(GOOD, docs=None):
            if check.name.startswith("config-"):
                check()
