"""Packages whose names are imported when they are used: all are there, and importing is light."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

PACKAGES = ("tidemill.models", "tidemill.serve")


@pytest.mark.parametrize("name", PACKAGES)
def test_every_name_that_is_promised_is_there(name: str) -> None:
    package = importlib.import_module(name)
    assert set(package.__all__) == set(package._HOMES)
    for promised in package.__all__:
        assert getattr(package, promised).__name__ == promised
        assert promised in dir(package)
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'nonsense'"):
        _ = package.nonsense


@pytest.mark.parametrize("name", PACKAGES)
def test_importing_the_package_imports_nothing_heavy(name: str) -> None:
    code = (
        f"import sys, {name}; print([m for m in ('numpy', 'torch', 'fastapi') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
