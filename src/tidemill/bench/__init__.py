"""One way to claim, to measure, to store and to draw: what every system and every page builds on.

This package knows nothing about any single system, about papers' texts beyond their abstract, or
about the web.
"""

from tidemill.bench.claim import Claim, Direction, Measurement, StandIn, Status, Text, Verdict
from tidemill.bench.system import Paper, Plug, Requirement, System, discover, find, usable
from tidemill.bench.trial import Budget, Context, Progress, Report, Table, Trial

__all__ = [
    "Budget",
    "Claim",
    "Context",
    "Direction",
    "Measurement",
    "Paper",
    "Plug",
    "Progress",
    "Report",
    "Requirement",
    "StandIn",
    "Status",
    "System",
    "Table",
    "Text",
    "Trial",
    "Verdict",
    "discover",
    "find",
    "usable",
]
