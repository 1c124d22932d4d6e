"""The compiled half of this room."""

from __future__ import annotations

import platform
from functools import cache
from typing import Any

from tidemill import native
from tidemill.errors import MissingCapability


@cache
def kernels() -> Any:
    """What `kernels.cpp` registers.

    Raises:
        MissingCapability: this installation was built without it.
    """
    return native.kernels("memory")


def paging() -> Any:
    """The same, where the parts that only Linux has are needed.

    Raises:
        MissingCapability: this is another system.
    """
    found = kernels()
    if not hasattr(found, "Userfaultfd"):
        raise MissingCapability(
            f"page faults in user space need Linux; this is {platform.system()}"
        )
    return found
