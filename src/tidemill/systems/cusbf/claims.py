"""What the paper claims and the trials that measure it here."""

from __future__ import annotations

from tidemill.bench import Claim

CLAIMS: tuple[Claim, ...] = ()
