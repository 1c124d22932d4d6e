"""Documentation that cannot rot: everything public has its place, every link and block works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidemill import errors
from tidemill.bench import discover
from tidemill.bench.settings import settings_of
from tidemill.cli import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SYSTEMS = tuple(discover())
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(language: str) -> Iterator[tuple[Path, list[str]]]:
    """The blocks of ``language`` of each page, in order, but for those marked ``no-run``."""
    for path in PAGES:
        found = [
            body
            for kind, attributes, body in BLOCK.findall(path.read_text(encoding="utf-8"))
            if kind == language and "no-run" not in attributes
        ]
        if found:
            yield path, found


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_every_relative_link_and_image_resolves(path: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    local = [link.split("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]
    assert not [link for link in local if not (path.parent / link).exists()]


@pytest.mark.parametrize(
    ("path", "code"),
    list(blocks("python")),
    ids=lambda x: relative(x) if isinstance(x, Path) else "",
)
def test_the_python_blocks_of_a_page_run_in_order(
    path: Path, code: list[str], tmp_path: Path
) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(code)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("path", "code"), list(blocks("sh")), ids=lambda x: relative(x) if isinstance(x, Path) else ""
)
def test_the_shell_blocks_of_a_page_run_in_order(
    path: Path, code: list[str], tmp_path: Path
) -> None:
    tools = Path(sys.executable).parent
    script = "\n".join(code).replace("/tmp/tidemill-tutorial", str(tmp_path / "new"))
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr


def test_every_command_is_in_the_reference() -> None:
    reference = page("docs/reference.md")
    assert not [c.name for c in COMMANDS if f"### tidemill {c.name}" not in reference]
    assert not [s.name for s in SYSTEMS if s.cli and f"### tidemill {s.name}" not in reference]


def test_every_error_class_is_in_the_reference() -> None:
    classes = [
        n for n, v in vars(errors).items() if isinstance(v, type) and issubclass(v, Exception)
    ]
    assert len(classes) >= 10
    assert not [name for name in classes if f"`{name}`" not in page("docs/reference.md")]


def test_every_environment_variable_is_in_the_reference() -> None:
    source = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "src").rglob("*.py"))
    variables = set(re.findall(r"\"(TIDEMILL_[A-Z_]+)\"", source))
    assert "TIDEMILL_DB" in variables
    assert not [name for name in variables if f"`{name}`" not in page("docs/reference.md")]


def test_every_page_of_the_site_is_in_the_reference() -> None:
    from tidemill.bench.store import Store
    from tidemill.feed.library import Library
    from tidemill.web import create_app

    store = Store()
    store.migrate()
    library = Library(store)
    library.migrate()
    app = create_app(store, library, None, read_only=True)
    routers = [getattr(route, "original_router", None) for route in app.routes]
    routes = [*app.routes, *(inner for router in routers if router for inner in router.routes)]
    paths = {str(getattr(route, "path", "")) for route in routes}
    reference = page("docs/reference.md")
    assert len(paths) > 15
    assert not sorted(path for path in paths if path and f"`{path}`" not in reference)
    store.close()


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: s.name)
def test_a_systems_page_names_every_setting_and_claim(system) -> None:
    text = page(f"docs/systems/{system.name}.md")
    assert not [s.name for s in settings_of(system.config) if f"`{s.name}`" not in text]
    assert not [claim.id for claim in system.claims if claim.id not in text]


def test_the_generated_parts_are_up_to_date() -> None:
    result = subprocess.run(
        [sys.executable, ROOT / "scripts" / "docs.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_readme_is_short_and_its_translation_has_the_same_blocks() -> None:
    assert len(page("README.md").splitlines()) <= 150
    assert len(page("ARCHITECTURE.md").splitlines()) <= 200
    commands = [
        [re.sub(r"\s*#.*", "", block[2]).split() for block in BLOCK.findall(page(name))][:3]
        for name in ("README.md", "README.zh-CN.md")
    ]
    assert commands[0][:2] == commands[1][:2]


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=relative)
def test_an_example_runs(path: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


def test_the_pictures_that_pages_show_are_those_the_script_takes() -> None:
    shown = {
        Path(name).name
        for page in PAGES
        for name in re.findall(r"\(([^)\s]+\.png)\)", page.read_text(encoding="utf-8"))
    }
    script = (ROOT / "scripts" / "screenshots.py").read_text(encoding="utf-8")
    assert shown == {f"{name}.png" for name in re.findall(r'yield Shot\("([^"]+)"', script)}
    assert shown <= {path.name for path in (ROOT / "docs" / "images").iterdir()}


def test_the_floors_of_the_plan_are_those_that_lint_checks() -> None:
    drawn = re.search(r"^```\n(cli .*?)^```$", page("ARCHITECTURE.md"), re.MULTILINE | re.DOTALL)
    assert drawn is not None
    contract = tomllib.loads(page("pyproject.toml"))["tool"]["importlinter"]["contracts"][0]
    assert [line.split()[0] for line in drawn[1].splitlines()] == contract["layers"]


def test_each_readme_is_in_its_own_language() -> None:
    prose = {
        name: re.sub(r"```.*?```|`[^`]*`|\[[^\]]*\]\([^)]*\)", "", page(name), flags=re.DOTALL)
        for name in ("README.md", "README.zh-CN.md")
    }
    assert not re.findall("[\u4e00-\u9fff]+", prose["README.md"])
    english = re.compile(r"\b(?:paper|of|holds?|up to|on an?|against|not run|and|the|with)\b", re.I)
    chinese = [line for line in prose["README.zh-CN.md"].splitlines() if "generated" not in line]
    assert not [line for line in chinese if english.search(line)]
    tree = re.search(r"file-tree zh -->\n(.*?)<!-- end", page("README.zh-CN.md"), re.DOTALL)
    assert tree
    lines = [line for line in tree[1].splitlines() if not line.startswith("```")]
    assert len(lines) > 12
    assert not [line for line in lines if not re.search("[\u4e00-\u9fff]", line)]
