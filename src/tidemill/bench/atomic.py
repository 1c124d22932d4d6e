"""JSON documents on disk: written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from tidemill.errors import ConfigError, OutOfPool


def check_writable(path: Path | None) -> None:
    """Find out before measuring for minutes.

    Raises:
        ConfigError: the folder of ``path`` is not there, or cannot be written.
    """
    if path is not None and not os.access(path.absolute().parent, os.W_OK):
        raise ConfigError.of("--save", str(path), "in a folder that exists and can be written")


def write_document(path: Path, document: object) -> None:
    """Replace the file at once, so that no reader finds half of it.

    Raises:
        OutOfPool: the disk is full, or does not let it be written.
    """
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    file = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=path.absolute().parent, encoding="utf-8", delete=False
        ) as file:
            file.write(text)
        Path(file.name).chmod(0o644)
        Path(file.name).replace(path)
    except OSError as error:
        raise OutOfPool(f"--save {path} — cannot be written: {error}.") from error
    finally:
        if file is not None:
            Path(file.name).unlink(missing_ok=True)
