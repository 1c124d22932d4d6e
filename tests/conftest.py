"""What all tests share: where the real data lies, and a home of their own for every run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]

settings.register_profile("house", deadline=None)  # a busy machine is not a failure
settings.load_profile("house")


@pytest.fixture(scope="session")
def data_dir() -> Callable[[str], Path]:
    """Folder of one real data set: ``data_dir("cusbf") / "ecoli.fa.zst"``."""
    root = Path(os.environ.get("TIDEMILL_DATA", ROOT.parent / "shared" / "data"))

    def folder(name: str) -> Path:
        path = root / name
        if not path.is_dir():
            pytest.skip(
                f"real data {name!r} is not at {path}; set TIDEMILL_DATA to its parent folder"
            )
        return path

    return folder


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's own store or caches."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("TIDEMILL_DB", f"sqlite:///{home / 'tidemill.db'}")
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
