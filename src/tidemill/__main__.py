"""``python -m tidemill``: the same as the command ``tidemill``."""

from tidemill.cli import main

main()
