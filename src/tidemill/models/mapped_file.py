"""Mapping a file for reading, with one clear error for each reason that it cannot be."""

from __future__ import annotations

import mmap
from pathlib import Path
from stat import S_ISREG

from tidemill.errors import CorruptFile, InputError


def map_file(path: Path) -> mmap.mmap:
    """The bytes of ``path``, paged in when they are touched.

    Raises:
        InputError: it is not there, not a regular file, or may not be read.
        CorruptFile: it is empty.
    """
    try:
        status = path.stat()
        if not S_ISREG(status.st_mode):
            raise InputError(f"{path} — is not a file; give the path of a model file.")
        if status.st_size == 0:
            raise CorruptFile(f"{path} — is empty; pull or copy it again.")
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise InputError(f"{path} — cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{str(path)!r} — cannot be read: {error}.") from error
