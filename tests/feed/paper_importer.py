"""A process that imports papers for the tests, told by its arguments what to do.

``hang DB FILE``: stop when all rows are written and none is committed, say so, wait to be killed.
``loop DB FILE…``: import one file after the other, and say which is done.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime

from tidemill.feed import Library


class HangingClock:
    """Its second reading is that of the end of an import, just before the commit."""

    def __init__(self) -> None:
        self.readings = 0

    def __call__(self) -> datetime:
        self.readings += 1
        if self.readings == 2:
            sys.stdout.write("written\n")
            sys.stdout.flush()
            sys.stdin.read()
        return datetime.now(UTC)


def main() -> None:
    mode, database, *files = sys.argv[1:]
    library = Library(database, systems=list)
    if mode == "hang":
        library = Library(database, systems=list, clock=HangingClock())
    for file in files:
        report = library.import_file(file)
        sys.stdout.write(f"{file} {report.new}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
