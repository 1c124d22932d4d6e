from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import fields, replace
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.bench import environment
from tidemill.bench.environment import CpuMeter, Environment
from tidemill.errors import InputError

texts = st.text(max_size=20)
environments = st.builds(
    Environment,
    cpu=texts,
    cpu_flags=st.lists(texts, max_size=4).map(tuple),
    cores=st.integers(1, 512),
    memory_bytes=st.integers(0, 2**45),
    kernel=texts,
    packages=st.dictionaries(texts, texts, max_size=3),
    code=texts,
    load_1min=st.floats(0, 1e3),
    foreign_cores=st.floats(0, 1e3),
)


@given(environments)
def test_an_environment_survives_json(found: Environment) -> None:
    assert Environment.from_json(json.loads(json.dumps(found.to_json()))) == found


@given(environments, environments)
def test_the_machine_is_told_by_cpu_flags_cores_and_memory_alone(
    one: Environment, other: Environment
) -> None:
    same_machine = replace(
        other,
        cpu=one.cpu,
        cpu_flags=tuple(reversed(one.cpu_flags)),
        cores=one.cores,
        memory_bytes=one.memory_bytes,
    )
    assert same_machine.machine_id == one.machine_id
    assert replace(one, cores=one.cores + 1).machine_id != one.machine_id
    assert replace(one, cpu=one.cpu + "x").machine_id != one.machine_id


def test_a_few_megabytes_that_the_kernel_keeps_do_not_make_another_machine() -> None:
    machine = Environment(cpu="A", cpu_flags=(), cores=1, memory_bytes=16 * 2**30, kernel="Linux 6")
    assert replace(machine, memory_bytes=16 * 2**30 - 90 * 2**20).machine_id == machine.machine_id
    assert replace(machine, memory_bytes=8 * 2**30).machine_id != machine.machine_id


def test_fields_of_a_later_version_are_left_out_and_absent_ones_keep_their_defaults() -> None:
    stored = {"cpu": "A", "cores": 2, "memory_bytes": 1, "kernel": "k", "quantum_bits": 7}
    assert Environment.from_json(stored).packages == {}


def test_what_is_no_environment_is_refused() -> None:
    with pytest.raises(InputError, match="not a stored environment"):
        Environment.from_json({"weather": "fine"})


def test_here_tells_what_the_system_itself_tells() -> None:
    here = Environment.here()
    assert here.cores == os.cpu_count()
    assert here.memory_bytes == psutil.virtual_memory().total
    assert here.kernel.endswith(os.uname().release)
    assert here.packages["numpy"] == __import__("numpy").__version__
    assert here.native_level in ("avx2", "baseline")
    assert here.compiler
    told = [item.name for item in fields(here) if item.name != "sources"]  # of what is measured
    assert all(getattr(here, name) not in ("", ()) for name in told)


def test_here_gives_the_same_machine_and_code_each_time() -> None:
    one, other = Environment.here(), Environment.here()
    assert replace(one, load_1min=0, foreign_cores=0) == replace(
        other, load_1min=0, foreign_cores=0
    )


def git(folder: Path, *words: str) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *identity, *words], cwd=folder, env=clean, check=True, text=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of a package; its own folder, so that the one of tidemill stays as it is."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    package = tmp_path / "src" / "tidemill"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("one = 1\n")
    (tmp_path / "README.md").write_text("read me\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "begin")
    return package


def test_a_clean_checkout_is_its_commit(checkout: Path) -> None:
    code = environment._code_id(checkout)
    assert len(code) == 40
    (checkout.parents[1] / "README.md").write_text("other words\n")
    assert environment._code_id(checkout) == code


def test_changed_code_is_marked_and_each_change_is_another_code(checkout: Path) -> None:
    clean = environment._code_id(checkout)
    seen = {clean}
    for text in ("one = 2\n", "one = 3\n"):
        (checkout / "__init__.py").write_text(text)
        seen.add(environment._code_id(checkout))
    (checkout / "new.py").write_text("two = 2\n")
    seen.add(environment._code_id(checkout))
    assert len(seen) == 4
    assert all(code == clean or code.startswith(f"{clean}+dirty.") for code in seen)


def test_a_hook_of_another_repository_does_not_mislead_it(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = environment._code_id(checkout)
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert environment._code_id(checkout) == code


def test_a_package_installed_inside_a_foreign_checkout_is_told_by_its_files(checkout: Path) -> None:
    installed = checkout.parents[1] / ".venv" / "tidemill"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("one = 1\n")
    code = environment._code_id(installed)
    assert code.startswith(environment.tidemill.__version__ + ".")
    (installed / "__init__.py").write_text("one = 2\n")
    assert environment._code_id(installed) != code


def test_work_of_this_process_and_its_children_is_not_foreign() -> None:
    meter = CpuMeter()
    busy = "x = 0\nfor i in range(3_000_000): x += i"
    exec(compile(busy, "busy", "exec"), {})
    subprocess.run(["python3", "-c", busy], check=True)
    own_cores = psutil.Process().cpu_times()
    assert own_cores.children_user > 0
    assert 0 <= meter.foreign_cores() <= (os.cpu_count() or 1) * 1.5
