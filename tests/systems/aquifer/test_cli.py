"""The commands, from a handler to its answer out of the tiers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tidemill.errors import InputError
from tidemill.memory import PageServer
from tidemill.systems.aquifer.capability import missing
from tidemill.systems.aquifer.cli import app

HANDLER = """
import tidemill_guest
tidemill_guest.serve(lambda request: request.upper() * 3)
"""


def run(*arguments: object) -> dict[str, object]:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_handler_goes_through_the_tiers_and_answers(python: Path, tmp_path: Path) -> None:
    if reason := missing():
        pytest.skip(reason)
    code, requests = tmp_path / "handler.py", tmp_path / "requests"
    code.write_text(HANDLER)
    requests.write_text("ebb\nflow\n")
    booted, packed, touched = (tmp_path / name for name in ("a.aqs", "b.aqs", "touched.json"))
    boot = CliRunner().invoke(
        app, ["boot", "--memory", "64M", "-o", str(booted), "--", str(python), str(code)]
    )
    assert boot.exit_code == 0, boot.output
    assert run("inspect", booted)["hot_pages"] == 0
    assert run("record", booted, "--requests", requests, "-o", touched)["recordings"] == 2
    facts = run("pack", booted, "--touched", touched, "-o", packed)
    assert int(str(facts["hot_pages"])) > 50
    pool = tmp_path / "pool"
    run("pool", "create", pool, "--size", "64M", "--hosts", "2")
    with PageServer(f"unix:{tmp_path}/node", 1 << 28) as node:
        tiers = ("--pool", pool, "--rdma", node.address)
        with pytest.raises(InputError, match="not published"):
            run("invoke", "b", "--request", "x", *tiers)
        assert run("publish", packed, *tiers)["epoch"] == 1
        assert "b" in str(run("pool", "show", pool)["published"])
        found = run("invoke", "b", "--request", "tide", *tiers)
    assert found["answer"] == "TIDETIDETIDE"
    assert found["faults"]["hot"] == 0  # type: ignore[index]


def test_a_memory_node_runs_until_it_is_interrupted(tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/node"
    command = [sys.executable, "-m", "tidemill", "aquifer", "pageserver", "--listen", listen]
    with subprocess.Popen([*command, "--size", "16M"], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == listen
        os.kill(child.pid, signal.SIGINT)
        assert child.wait(20) in (0, 130)


def test_firecracker_s_files_are_packed(tmp_path: Path) -> None:
    image = np.zeros((512, 4096), np.uint8)
    image[[3, 4, 200]] = 7
    (tmp_path / "mem").write_bytes(image.tobytes())
    (tmp_path / "state").write_bytes(b"state")
    (tmp_path / "touched").write_text(json.dumps([{"pages": [3]}]))
    out = tmp_path / "fc.aqs"
    facts = run(
        *("import-firecracker", "--mem", tmp_path / "mem", "--vmstate", tmp_path / "state"),
        *("-o", out, "--touched", tmp_path / "touched"),
    )
    assert (facts["hot_pages"], facts["cold_pages"], facts["vmm"]) == (1, 2, "firecracker")


def test_wrong_files_are_told(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    for arguments in (
        ["inspect", str(nothing)],
        ["pack", str(nothing), "--touched", str(nothing), "-o", "x"],
        ["record", str(nothing), "--requests", str(nothing), "-o", "x"],
    ):
        result = CliRunner().invoke(app, arguments)
        assert isinstance(result.exception, InputError)
