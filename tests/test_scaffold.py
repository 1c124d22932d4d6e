"""``tidemill new-system``: what it writes works, and is red only where its author must speak."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tidemill.cli.scaffold import plan_of, write
from tidemill.errors import ConfigError, InputError, OutOfPool

ROOT = Path(__file__).parents[1]
ABSTRACT = (
    "Ordering numbers is what computers do when nobody looks. We present Pagerank, which orders "
    "up to 2x faster than a heap by not being one. The order is the same, the memory is less, and "
    "the author of this abstract could think of nothing else to say in its two hundred letters."
)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def run(*words: str, project: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(project / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def pytest_of(project: Path, *words: str) -> tuple[set[str], str]:
    """Names of the conformance checks and tests that fail, and all that was said."""
    done = run(
        "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", *words, project=project
    )
    failed = re.findall(
        r"^FAILED \S+::(?:test_conformance\[)?([\w\[\]-]+?)\]?(?: |$)", done.stdout, re.M
    )
    return set(failed), done.stdout + done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A new system in a project of its own."""
    folder = tmp_path / "project"
    write(plan_of("page_rank", folder), "2606.00001")
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree that looks like tidemill's own."""
    folder = tmp_path / "tree"
    shutil.copytree(
        ROOT / "src" / "tidemill",
        folder / "src" / "tidemill",
        ignore=shutil.ignore_patterns("__pycache__", "cusbf", "*.so", "data"),
    )
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_the_whole_anatomy_is_written(project: Path) -> None:
    package = "src/tidemill_page_rank/"
    assert set(snapshot(project)) == {
        "pyproject.toml",
        "docs/systems/page_rank.md",
        "examples/page_rank.py",
        *(package + name for name in ("__init__.py", "config.py", "ordering.py", "paper.toml")),
        *(package + name for name in ("baselines.py", "claims.py", "workloads.py")),
        *(
            f"tests/test_page_rank_{name}.py"
            for name in ("mechanism", "against_peer", "faults", "claims", "conformance")
        ),
    }


def test_it_is_red_where_its_author_must_speak_and_nowhere_else(project: Path) -> None:
    failed, said = pytest_of(project)
    assert failed == {
        f"page_rank-{name}"
        for name in (
            "paper-is-identified", "paper-has-its-abstract", "summary-is-bilingual",
            "docstring-tells-the-paper", "config-items-has-help", "trial-order-has-a-summary",
            "claim-faster-order-quotes-the-abstract", "claim-faster-order-is-bilingual",
            "claim-faster-order-gives-the-papers-value", "run-has-a-bilingual-headline",
            "has-a-page",
        )
    }, said  # fmt: skip
    assert said.count("write what it asks for") >= len(failed)


def written(text: str) -> str:
    """What a hurried author makes of a template: the words that follow each REPLACE."""
    text = text.replace('quote="REPLACE"', 'quote="up to 2x faster"')
    text = re.sub(r"(?s)REPLACE: paste the whole abstract.*?\n", ABSTRACT + "\n", text)
    return re.sub(r"REPLACE:\s*", "", text)


def test_it_is_green_when_the_words_are_written(project: Path) -> None:
    for path in project.rglob("*"):
        if path.is_file():
            path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")
    failed, said = pytest_of(project)
    assert failed == set(), said
    assert re.search(r"\d\d passed", said), said


def test_it_can_be_measured_at_once(project: Path) -> None:
    words = ("claims", "tidemill_page_rank:SYSTEM", "--set", "items=2000", "--json")
    done = run("tidemill", *words, project=project)
    assert done.returncode in (0, 1), done.stderr
    assert "faster-order" in done.stdout


def test_in_a_tree_of_tidemill_it_is_one_of_its_systems(tree: Path) -> None:
    before = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))
    written = write(plan_of("pagerank", tree), "")
    assert tree / "src/tidemill/systems/pagerank/claims.py" in written
    assert tree / "tests/systems/pagerank/test_mechanism.py" in written
    after = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))
    added = after["project"]["entry-points"]["tidemill.systems"].pop("pagerank")
    assert added == "tidemill.systems.pagerank:SYSTEM"
    assert after == before


def test_in_a_tree_of_tidemill_it_keeps_to_the_house_style(tree: Path) -> None:
    paths = [str(path) for path in write(plan_of("pagerank", tree), "") if path.suffix == ".py"]
    for words in (("check", "--no-cache"), ("format", "--check", "--no-cache")):
        done = run("ruff", *words, *paths, project=tree)
        assert done.returncode == 0, done.stdout


def test_nothing_is_overwritten_and_nothing_is_half_written(project: Path) -> None:
    before = snapshot(project)
    with pytest.raises(InputError, match="is there already; nothing was written"):
        write(plan_of("page_rank", project), "2606.00001")
    assert snapshot(project) == before
    (project / "examples" / "other.py").write_text("mine = 1\n")
    before = snapshot(project)
    with pytest.raises(InputError, match=r"other\.py — is there already"):
        write(plan_of("other", project), "")
    assert snapshot(project) == before


def test_a_second_system_joins_the_first(project: Path) -> None:
    write(plan_of("other", project), "")
    found = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    assert found["project"]["entry-points"]["tidemill.systems"] == {
        "page_rank": "tidemill_page_rank:SYSTEM",
        "other": "tidemill_other:SYSTEM",
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        '[project]\nname = "x"\n',
        '[project.entry-points."tidemill.systems"]\n# ours\na = "a:S"\n\n[tool.x]\ny = 1\n',
        '[project.entry-points."tidemill.systems"]\n\n\n[tool.x]\ny = 1\n',
        '[project.entry-points."tidemill.systems"]',
    ],
)
def test_the_entry_point_is_added_to_any_project_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    write(plan_of("other", tmp_path), "")
    after = (tmp_path / "pyproject.toml").read_text()
    points = tomllib.loads(after)["project"]["entry-points"]["tidemill.systems"]
    assert points.pop("other") == "tidemill_other:SYSTEM"
    assert [line for line in text.splitlines() if line and line not in after.splitlines()] == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[project\n", "is not TOML"),
        ('project.entry-points = {"tidemill.systems" = {a = "b:c"}}\n', "cannot be added"),
        ('[project.entry-points."tidemill.systems"]\nother = "x:Y"\n', r"already \(x:Y\)"),
    ],
)
def test_a_project_file_that_cannot_take_the_entry_point_is_left_alone(
    tmp_path: Path, text: str, why: str
) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(InputError, match=f"{why}.*nothing was"):
        write(plan_of("other", tmp_path), "")
    assert snapshot(tmp_path) == {"pyproject.toml": text.encode()}


@pytest.mark.parametrize(
    "name", ["PageRank", "page-rank", "1st", "class", "", "ü", "a b", "../x", "_x"]
)
def test_a_name_that_no_system_can_have_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"NAME={re.escape(repr(name))} — must be lower-case"):
        plan_of(name, tmp_path)


@pytest.mark.parametrize("arxiv", ["2606", "2606.00001v2", "arxiv:2606.00001", "REPLACE"])
def test_what_is_no_arxiv_id_is_refused(arxiv: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--arxiv='.*' — must be an id such as 2606\.00001"):
        write(plan_of("other", tmp_path), arxiv)
    assert snapshot(tmp_path) == {}


def test_a_folder_that_cannot_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "examples").write_text("a file where a folder should be")
    before = snapshot(tmp_path)
    with pytest.raises(OutOfPool, match="what had been written was removed"):
        write(plan_of("other", tmp_path), "")
    assert snapshot(tmp_path) == before


def test_the_command_tells_what_it_wrote_and_what_comes_next(tmp_path: Path) -> None:
    into = tmp_path / "new project"
    words = ("new-system", "other", "--arxiv", "2606.00001", "--into", str(into))
    done = run("tidemill", *words, "--json", project=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told["written"]) == set(snapshot(into))
    assert any("conformance" in step for step in told["next"])
    again = run("tidemill", *words, project=tmp_path)
    assert again.returncode == 2
    assert len(again.stderr.strip().splitlines()) == 1
    assert "is there already" in again.stderr
