"""Every installed system does what every system must: `tidemill.testing.checks`."""

from __future__ import annotations

import pytest

from tidemill.bench import discover
from tidemill.testing import Check, checks

CHECKS = [check for system in discover() for check in checks(system)]


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_conformance(check: Check) -> None:
    check()


def test_there_are_systems_to_check() -> None:
    """An installation that finds none would pass all of the above."""
    assert CHECKS
