"""``tidemill up`` as a user meets it: an address, a page, Ctrl-C, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from tidemill.bench import Budget, find
from tidemill.bench.environment import Environment
from tidemill.bench.settings import to_json
from tidemill.bench.sources import sources_of
from tidemill.bench.store import Store, TrialOutcome
from tidemill.bench.system import usable
from tidemill.cli import up


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tidemill", "up", "--port", "0", *words],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"NO_COLOR": "1"},
    )


def told(server: subprocess.Popen[str], pattern: str) -> str:
    """The first line of the terminal that matches; its end without one is a failure."""
    assert server.stderr is not None
    seen: list[str] = []
    for line in server.stderr:
        seen.append(line)
        if found := re.search(pattern, line):
            return found[0]
    raise AssertionError("".join(seen))


def has_ended(pid: int) -> bool:
    """Whether the process is gone, or waits only for its parent to take notice."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    made = start(*request.param)
    yield made
    made.kill()
    made.wait()
    assert made.stderr is not None
    made.stderr.close()


@pytest.mark.parametrize("server", [["--no-measure"]], indirect=True)
def test_a_fresh_install_shows_the_first_page_and_ctrl_c_is_clean(
    server: subprocess.Popen[str],
) -> None:
    url = told(server, r"http://127\.0\.0\.1:\d+/")
    with urllib.request.urlopen(f"{url}zh/") as answer:
        page = answer.read().decode()
    assert "20 篇文章 1 / 1 页" in re.sub(r"<[^>]+>", "", page)
    assert page.count("<article") == 20
    server.send_signal(signal.SIGINT)
    assert server.wait(timeout=30) in (0, 130)


@pytest.mark.parametrize("server", [[]], indirect=True)
def test_ctrl_c_while_measuring_leaves_no_process(server: subprocess.Popen[str]) -> None:
    system = told(server, r"measuring the quick claims of \w+").split()[-1]
    shortest = min(usable(), key=lambda s: sum(trial.quick_s or 0 for trial in s.trials))
    assert system == shortest.name, "whoever waits sees the shortest first"
    told(server, rf"{system}: \w+: ")
    server.send_signal(signal.SIGINT)
    assert server.wait(timeout=60) in (0, 130)
    store = Store()
    runs = store.runs(system=system)
    store.close()
    assert [run.state for run in runs] == ["cancelled"]
    assert runs[0].pid is not None
    deadline = time.monotonic() + 30  # it may be in its last moments
    while not has_ended(runs[0].pid):
        assert time.monotonic() < deadline


def test_what_was_tried_with_this_code_is_not_measured_again(tmp_path: Path) -> None:
    system = find("cusbf")
    here = replace(Environment.here(), sources=sources_of(system))
    store = Store(str(tmp_path / "store.db"))
    store.migrate()

    def end(trial: str, **fields: Any) -> None:
        values = {"outcome": "ok", "environment": here, "config": to_json(system.config())}
        store.record_trial(
            TrialOutcome(
                system=system.name, trial=trial, budget=Budget.QUICK, seconds=1.0,
                started=datetime.now(UTC), **values | fields,
            )
        )  # fmt: skip

    first, *others = (trial.name for trial in system.trials if trial.quick_s is not None)
    for name in others:
        end(name)
    assert up.lacks_figures(system, store)
    end(first, outcome="cancelled")
    end(first, environment=replace(here, sources="0" * 12))
    end(first, environment=replace(here, cores=64))
    end(first, config={"k": 21})
    assert up.lacks_figures(system, store)
    end(first, outcome="missing")
    assert not up.lacks_figures(system, store), "what is missing would be missing at every start"
    store.close()


def test_a_port_that_is_taken_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = subprocess.run(
            [sys.executable, "-m", "tidemill", "up", "--no-measure", "--port", port],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert result.returncode == 2
    assert "--port" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_an_open_address_demands_read_only_or_auth() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tidemill", "up", "--host", "0.0.0.0", "--no-measure"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 2
    assert "--read-only" in result.stderr


@pytest.mark.parametrize("way", ["file", "variable", "option"])
def test_a_token_guards_the_site_and_no_process_shows_it(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text("open-sesame\n")
    words = {"file": ["--auth-file", str(file)], "option": ["--auth", "open-sesame"]}.get(way, [])
    if way != "option":  # which would win over it
        monkeypatch.setenv("TIDEMILL_AUTH", "open-sesame" if way == "variable" else "another")
    server = start("--no-measure", *words)
    try:
        url = told(server, r"http://127\.0\.0\.1:\d+/")
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            urllib.request.urlopen(url)
        refused.value.close()
        request = urllib.request.Request(url, headers={"Authorization": "Bearer open-sesame"})
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 200
        shown = "open-sesame" in " ".join(psutil.Process(server.pid).cmdline())
        assert shown is (way == "option")
    finally:
        server.terminate()
        server.wait(timeout=30)
        assert server.stderr is not None
        server.stderr.close()


def test_a_broken_system_is_warned_about_and_the_others_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from importlib.metadata import EntryPoint

    from tidemill.bench import system as module

    group = module.ENTRY_POINT_GROUP
    entries = [
        EntryPoint("broken", "no.such.module:SYSTEM", group),
        EntryPoint("cusbf", "tidemill.systems.cusbf:SYSTEM", group),
    ]
    monkeypatch.setattr(module, "entry_points", lambda **_: entries)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert [system.name for system in usable()] == ["cusbf"]
    assert "no.such.module" in str(caught[0].message)


@pytest.mark.parametrize("server", [["--read-only"]], indirect=True)
def test_read_only_starts_no_run(server: subprocess.Popen[str]) -> None:
    told(server, r"http://127\.0\.0\.1:\d+/")
    time.sleep(1.5)  # measuring begins at once where it is allowed
    server.send_signal(signal.SIGINT)
    assert server.wait(timeout=30) in (0, 130)
    store = Store()
    assert store.runs(limit=10) == []
    store.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk that is soon full")
def test_ctrl_c_ends_it_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=False
    )
    if mounted.returncode != 0:
        pytest.skip("this root may not mount")
    try:
        monkeypatch.setenv("XDG_DATA_HOME", str(disk))
        monkeypatch.setenv("TIDEMILL_DB", f"sqlite:///{disk / 'tidemill.db'}")
        server = start()
        told(server, r"measuring the quick claims of \w+")
        told(server, r"^\w+: \w+: ")
        with (disk / "fill").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        time.sleep(1)
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=60) in (0, 130)
        assert server.stderr is not None
        server.stderr.close()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)
