"""`check_system`: the conformance suite that every system must pass, ours and third parties'.

In a test module each check is a test of its own::

    @pytest.mark.parametrize("check", checks(SYSTEM), ids=str)
    def test_conformance(check: Check) -> None:
        check()

and ``check_system(SYSTEM)`` is one call that raises `CheckFailed` with everything that is amiss.
It needs no pytest. It knows no single system and measures no claim.
"""

from tidemill.testing.subject import Check, CheckFailed, ConformanceWarning
from tidemill.testing.suite import check_system, checks

__all__ = ["Check", "CheckFailed", "ConformanceWarning", "check_system", "checks"]
