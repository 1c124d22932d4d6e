from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import uuid

import pytest

from tidemill.bench import family
from tidemill.bench.process import Terms
from tidemill.bench.session import run_session
from tidemill.bench.store import Store

TOY = "toy_system:SYSTEM"
COMMAND = [sys.executable, "-m", "tidemill", "claims", TOY, "--ray"]


HAS_RAY = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs pip install 'tidemill[ray]'"
)


@HAS_RAY
@pytest.mark.ray
def test_trials_run_as_ray_tasks_and_come_back_as_outcomes() -> None:
    arguments = ["local", "--json", "--only", "counts", "--only", "segfaults", "--only", "emulates"]
    result = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 1, result.stderr
    (system,) = json.loads(result.stdout)["systems"]
    outcomes = {trial["trial"]: trial["outcome"] for trial in system["trials"]}
    assert outcomes == {"counts": "ok", "segfaults": "crashed", "emulates": "ok"}
    assert "counts = 2 ×" in result.stderr  # events come through while the trial runs
    store = Store()
    assert set(store.latest("toy")) == {"counts", "segfaults", "emulates"}
    store.close()


@HAS_RAY
@pytest.mark.ray
def test_ctrl_c_ends_the_trials_on_ray(watched, monkeypatch) -> None:
    mark = uuid.uuid4().hex
    monkeypatch.setenv(family.MARK, mark)
    with subprocess.Popen(
        [*COMMAND, "local", "--only", "waits"], stderr=subprocess.PIPE, text=True
    ) as session:
        for line in session.stderr:
            if "at the gate" in line:
                break
        members = family.marked(f"{mark}.")
        ends = [watched(pid) for pid in members]
        session.send_signal(signal.SIGINT)
        session.stderr.read()
    assert session.returncode == 128 + signal.SIGINT
    assert len(members) == 2
    assert all(has_ended() for has_ended in ends)


def test_without_ray_the_way_to_get_it_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = run_session(TOY, kind="claims", trials=["counts"], terms=Terms(ray="local"))
    assert result.exit_code == 3
    assert "pip install 'tidemill[ray]'" in result.error


@HAS_RAY
def test_an_address_where_nobody_listens_is_told_at_once() -> None:
    result = subprocess.run(
        [*COMMAND, "127.0.0.1:1"], capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 3
    assert "no Ray lets us in there" in result.stderr
