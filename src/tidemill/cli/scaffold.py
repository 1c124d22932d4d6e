"""``tidemill new-system``: write the anatomy of a system, for its author to fill.

What it writes works: it runs, measures and passes its own tests. Only the conformance suite is red,
at every place that says REPLACE, as only the author knows what to say there.
"""

from __future__ import annotations

import json
import keyword
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template
from typing import Annotated, Any

import typer

from tidemill.errors import ConfigError, InputError, OutOfPool

_TABLE = '[project.entry-points."tidemill.systems"]'


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the parts of a new system go.

    Args:
        name: Of the system.
        module: Import name of its package.
        root: The project's folder.
        is_in_tree: Whether the project is tidemill itself.
    """

    name: str
    module: str
    root: Path
    is_in_tree: bool

    @property
    def package(self) -> Path:
        """Folder of the package."""
        return self.root / "src" / Path(*self.module.split("."))

    def test(self, name: str) -> Path:
        """File of the tests called ``name`` in the templates."""
        if self.is_in_tree:
            return self.root / "tests" / "systems" / self.name / name
        # pytest wants file names that differ throughout a project
        return self.root / "tests" / name.replace("test_", f"test_{self.name}_")

    @property
    def project_file(self) -> Path:
        """The project's ``pyproject.toml``."""
        return self.root / "pyproject.toml"


def new_system(
    name: Annotated[str, typer.Argument(help="Name of the system and its package: pagerank.")],
    arxiv: Annotated[
        str, typer.Option("--arxiv", metavar="ID", help="The paper, such as 2606.00001.")
    ] = "",
    into: Annotated[
        Path, typer.Option("--into", metavar="DIR", help="The project's folder; made if absent.")
    ] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Write the anatomy of a new system: package, tests, page, example.

    In a checkout of tidemill it becomes one of its systems, anywhere else a package of its own.
    The conformance suite is red until all that says REPLACE is written. Nothing is overwritten.
    """
    plan = plan_of(name, into)
    written = write(plan, arxiv)
    steps = _next_steps(plan)
    if as_json:
        shown = [str(path.relative_to(plan.root)) for path in written]
        typer.echo(json.dumps({"root": str(plan.root), "written": shown, "next": steps}))
        return
    for path in written:
        typer.echo(f"wrote {path}")
    typer.echo("\nnext:")
    for step in steps:
        typer.echo(f"  {step}")


def plan_of(name: str, into: Path) -> Plan:
    """Where a system called ``name`` goes in the project at ``into``.

    Raises:
        ConfigError: The name cannot be that of a system.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ConfigError.of(
            "NAME", name, "lower-case letters, digits and _, beginning with a letter"
        )
    root = into.expanduser().absolute()
    is_in_tree = (root / "src" / "tidemill" / "systems").is_dir()
    # a package called json or pagerank might hide another one, and examples/pagerank.py hides it
    module = f"tidemill.systems.{name}" if is_in_tree else f"tidemill_{name}"
    return Plan(name, module, root, is_in_tree)


def write(plan: Plan, arxiv: str) -> list[Path]:
    """Write all files of the plan and the entry point; gives the paths written or changed.

    Raises:
        ConfigError: ``arxiv`` is no arXiv id.
        InputError: A file is there already, or the project file is no TOML; nothing was written.
        OutOfPool: The disk is full or cannot be written; what had been written is removed.
    """
    if arxiv and not re.fullmatch(r"\d{4}\.\d{4,5}", arxiv):
        raise ConfigError.of("--arxiv", arxiv, "an id such as 2606.00001, without version")
    words = {
        "name": plan.name,
        "module": plan.module,
        "config": "".join(part.capitalize() for part in plan.name.split("_")) + "Config",
        "arxiv": arxiv or "REPLACE",
        "announced": f"{datetime.now(UTC):%Y-%m-%d}",
    }
    texts = dict(_texts(plan, words))
    for path in texts:
        if path.exists():
            raise InputError(f"{path} — is there already; nothing was written; pick another name.")
    if plan.project_file.exists():
        texts[plan.project_file] = _with_entry_point(plan)
    _write_all(texts)
    return list(texts)


def _texts(plan: Plan, words: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    templates = files("tidemill.cli") / "templates"
    for template in sorted((templates / "package").iterdir(), key=lambda item: item.name):
        yield plan.package / _target(template), _filled(template, words)
    for template in sorted((templates / "tests").iterdir(), key=lambda item: item.name):
        # in tidemill's own tree tests/test_conformance.py has every system already
        if not (plan.is_in_tree and _target(template) == "test_conformance.py"):
            yield plan.test(_target(template)), _filled(template, words)
    if plan.is_in_tree:
        yield plan.test("__init__.py"), ""
    page = plan.root / "docs" / "systems" / f"{plan.name}.md"
    yield page, _filled(templates / "page.md.tmpl", words)
    example = plan.root / "examples" / f"{plan.name}.py"
    yield example, _filled(templates / "example.py.tmpl", words)
    if not plan.project_file.exists():
        yield plan.project_file, _filled(templates / "pyproject.toml.tmpl", words)


def _target(template: Traversable) -> str:
    return template.name.removesuffix(".tmpl")


def _filled(template: Traversable, words: Mapping[str, str]) -> str:
    return Template(template.read_text(encoding="utf-8")).substitute(words)


def _with_entry_point(plan: Plan) -> str:
    """The project file with one line more, everything else in it as it was."""
    text = plan.project_file.read_text(encoding="utf-8")
    try:
        known = _entry_points(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InputError(
            f"{plan.project_file} — is not TOML: {error}; nothing was written; mend it."
        ) from error
    if plan.name in known:
        raise InputError(
            f"{plan.project_file} — has a system {plan.name} already ({known[plan.name]}); "
            "nothing was written; pick another name."
        )
    target = f"{plan.module}:SYSTEM"
    after = _with_line(text, f'{plan.name} = "{target}"')
    try:
        is_right = _entry_points(tomllib.loads(after)) == known | {plan.name: target}
    except tomllib.TOMLDecodeError:
        is_right = False
    if not is_right:
        raise InputError(
            f"{plan.project_file} — an entry point cannot be added to it by machine; nothing was "
            f"written; give the entry points a table of their own, {_TABLE}, one a line."
        )
    return after


def _with_line(text: str, line: str) -> str:
    """``text`` with ``line`` at the end of the table of entry points, which is made if absent."""
    lines = text.rstrip("\n").split("\n")
    if _TABLE in lines:
        at = lines.index(_TABLE) + 1
        while at < len(lines) and re.match(r"\s*(#|[\w\"'.-]+\s*=)", lines[at]):
            at += 1
        lines.insert(at, line)
    else:
        lines += ["", _TABLE, line]
    return "\n".join(lines) + "\n"


def _entry_points(project: Mapping[str, Any]) -> dict[str, str]:
    groups: dict[str, dict[str, str]] = project.get("project", {}).get("entry-points", {})
    return groups.get("tidemill.systems", {})


def _write_all(texts: Mapping[Path, str]) -> None:
    new: list[Path] = []
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                new.append(path)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        for path in new:
            path.unlink(missing_ok=True)
        raise OutOfPool(
            f"new system — cannot be written: {error}; what had been written was removed; "
            "free some space or choose another folder by --into."
        ) from error


def _next_steps(plan: Plan) -> list[str]:
    install = "make install" if plan.is_in_tree else f"pip install -e '{plan.root}[dev]'"
    suite = "tests/test_conformance.py" if plan.is_in_tree else plan.test("test_conformance.py")
    return [
        f"{install}    # makes the entry point known",
        f"grep -rn REPLACE {plan.package}    # what only you can say",
        f"pytest {suite} -k {plan.name}    # red until it is said",
        f"tidemill run {plan.name} && tidemill claims {plan.name}",
    ]
