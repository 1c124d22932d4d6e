"""A system of a repository has a page and an example that runs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tidemill.testing.subject import CheckFailed, Named, Subject, must, must_be_written

EXAMPLE_LINES = 40
_EXAMPLE_S = 120.0


def checks_of(subject: Subject) -> Iterator[Named]:
    """None when the caller asks for no documents."""
    if subject.root is None:
        return
    name = subject.system.name
    page = subject.root / "docs" / "systems" / f"{name}.md"
    example = subject.root / "examples" / f"{name}.py"
    yield "has-a-page", partial(_has_a_page, page, name)
    yield "has-a-short-example", partial(_has_a_short_example, example)
    yield "example-runs", partial(_example_runs, example)


def _has_a_page(page: Path, name: str) -> None:
    text = _read(page)
    must_be_written(page.name, text)
    for words in (f"tidemill run {name}", f"tidemill claims {name}"):
        must(words in text, f"{page.name} does not show `{words}`; a reader wants to try it.")


def _has_a_short_example(example: Path) -> None:
    lines = len(_read(example).splitlines())
    must(
        0 < lines <= EXAMPLE_LINES,
        f"{example.name} has {lines} lines — must be in [1, {EXAMPLE_LINES}].",
    )


def _example_runs(example: Path) -> None:
    _read(example)
    with tempfile.TemporaryDirectory(prefix="tidemill-example-") as folder:
        shown, said = Path(folder, "out"), Path(folder, "err")
        with shown.open("wb") as out, said.open("wb") as err:
            try:
                done = subprocess.run(
                    [sys.executable, str(example.absolute())],
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    env=os.environ | {"TMPDIR": folder},
                    timeout=_EXAMPLE_S,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                raise CheckFailed(f"{example.name} takes over {_EXAMPLE_S:g} s.") from error
        tail = " | ".join(said.read_text(errors="replace").strip().splitlines()[-3:])
        must(done.returncode == 0, f"{example.name} ends with status {done.returncode}: {tail}")
        must(shown.read_bytes().strip(), f"{example.name} prints nothing; show what it found.")


def _read(path: Path) -> str:
    if not path.is_file():
        raise CheckFailed(f"{path} is not there; write it.")
    return path.read_text(encoding="utf-8")
