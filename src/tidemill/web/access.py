"""The access token of the site: where it comes from, and what it may look like."""

from __future__ import annotations

import os
from pathlib import Path

from tidemill.errors import ConfigError

VARIABLE = "TIDEMILL_AUTH"
"""The name of the environment variable that holds the token."""
LONGEST_TOKEN = 1000
_WHAT_TO_DO = "the token stands alone on the first line, as `openssl rand -hex 24` prints one"


def access_token(option: str | None, file: Path | None) -> str | None:
    """The token that every request must carry; None if nobody asked for one.

    An option wins over ``TIDEMILL_AUTH``, which is taken out of the environment, so that the
    processes of runs do not inherit it. No error shows the token.

    Raises:
        ConfigError: Two options, a file that cannot be read or holds no token, or a token that
            cannot be sent in a header.
    """
    held = os.environ.pop(VARIABLE, None)
    if option is not None and file is not None:
        raise ConfigError("--auth and --auth-file — both are given; give one of them.")
    if file is not None:
        return _checked("--auth-file", _read(file))
    if option is not None:
        return _checked("--auth", option)
    return None if held is None else _checked(VARIABLE, held)


def _read(file: Path) -> str:
    try:
        with file.open(encoding="utf-8") as stream:
            text = stream.read(LONGEST_TOKEN + 3)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(
            f"--auth-file={str(file)!r} — cannot be read: {reason}; "
            f"give a text file: {_WHAT_TO_DO}."
        ) from error
    return text.removesuffix("\n").removesuffix("\r")


def _checked(name: str, token: str) -> str:
    if not token:
        raise ConfigError(f"{name} — is empty; unset it, or give a token: {_WHAT_TO_DO}.")
    if len(token) > LONGEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"{name} — holds what cannot be sent in a header; must be 1 to {LONGEST_TOKEN} "
            f"printable ASCII characters without spaces: {_WHAT_TO_DO}."
        )
    return token
