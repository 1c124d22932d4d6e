"""The access token: from which place it is taken, and what is said of one that is none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tidemill.errors import ConfigError
from tidemill.web import access_token

Write = Callable[[bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def made(content: bytes) -> Path:
        path = tmp_path / "token"
        path.write_bytes(content)
        return path

    return made


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIDEMILL_AUTH", raising=False)


def test_without_a_token_there_is_none() -> None:
    assert access_token(None, None) is None


@pytest.mark.parametrize("content", [b"sesame", b"sesame\n", b"sesame\r\n"])
def test_a_file_holds_the_token_on_its_line(write: Write, content: bytes) -> None:
    assert access_token(None, write(content)) == "sesame"


def test_an_option_wins_over_the_variable_and_no_child_inherits_it(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    for option, file, expected in (
        (None, None, "of-the-variable"),
        ("of-the-option", None, "of-the-option"),
        (None, write(b"of-the-file"), "of-the-file"),
    ):
        monkeypatch.setenv("TIDEMILL_AUTH", "of-the-variable")
        assert access_token(option, file) == expected
        assert "TIDEMILL_AUTH" not in os.environ


def test_two_options_are_one_too_many(write: Write) -> None:
    with pytest.raises(ConfigError, match="--auth and --auth-file — both are given"):
        access_token("a", write(b"b"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "--auth-file — is empty"),
        (b"\n", "--auth-file — is empty"),
        (b"secret one", "--auth-file — holds what cannot be sent"),
        (b"secret\nsecond\n", "--auth-file — holds what cannot be sent"),
        (b"secret\x00", "--auth-file — holds what cannot be sent"),
        ("schlüssel secret".encode(), "--auth-file — holds what cannot be sent"),
        (b"secret" * 1000, "--auth-file — holds what cannot be sent"),
        (b"\xff\xfesecret", "--auth-file=.* — cannot be read: it is not UTF-8"),
    ],
)
def test_a_file_without_a_token_is_refused_without_being_shown(
    write: Write, content: bytes, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason) as refused:
        access_token(None, write(content))
    assert "secret" not in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--auth-file='.*none' — cannot be read: No such file"):
        access_token(None, tmp_path / "none")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        access_token(None, tmp_path)


def test_an_empty_token_is_a_mistake_and_not_an_open_door(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--auth — is empty"):
        access_token("", None)
    monkeypatch.setenv("TIDEMILL_AUTH", "")
    with pytest.raises(ConfigError, match="TIDEMILL_AUTH — is empty"):
        access_token(None, None)
