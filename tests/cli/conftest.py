"""The command line as a user meets it: a process, its two streams and its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TOYS = Path(__file__).parents[1] / "bench"

FAKE = """
import sys, typer
from tidemill.errors import ConfigError, MissingCapability

class SYSTEM:
    @staticmethod
    def cli():
        app = typer.Typer()

        @app.command()
        def hello(name: str = "you"):
            typer.echo(f"hello {name}")

        @app.command()
        def refuse():
            raise ConfigError.of("teeth", 3, "an even number", "wheels\\nturn evenly")

        @app.command()
        def lack():
            raise MissingCapability("water — is not there; wait for the tide.")

        @app.command()
        def bug():
            {}["absent"]

        @app.command()
        def interrupt():
            raise KeyboardInterrupt

        @app.command()
        def flood():
            while True:
                typer.echo("water")

        @app.command()
        def drop():
            typer.echo("a few lines that are still in the buffer")

        return app
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder that holds installed systems: one whole, one that cannot be imported, one silent."""
    (tmp_path / "fake_mill.py").write_text(FAKE)
    (tmp_path / "broken_mill.py").write_text("import a_package_that_is_not_there")
    (tmp_path / "silent_mill.py").write_text("SYSTEM = object()")
    metadata = tmp_path / "mills-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mills\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[tidemill.systems]\nfake = fake_mill:SYSTEM\nbroken = broken_mill:SYSTEM\n"
        "silent = silent_mill:SYSTEM\n"
    )
    return tmp_path


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Of a user with an English locale, no terminal, and the toys installed."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG", "TIDEMILL_VERBOSE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return os.environ | {"PYTHONPATH": str(TOYS), "COLUMNS": "120"}


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def tidemill(environment: dict[str, str]) -> Run:
    """``tidemill("claims", …)`` runs the command and gives what came of it."""

    def run(*words: object, path: Path | None = None, **variables: str):
        more = {"PYTHONPATH": f"{path}:{TOYS}"} if path else {}
        return subprocess.run(
            [sys.executable, "-m", "tidemill", *map(str, words)],
            env=environment | more | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run
