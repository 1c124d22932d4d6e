"""Renders the generated parts of README and docs: `make docs`, or `--check` that they are current.

A part stands between ``<!-- generated: NAME ARGUMENTS -->`` and ``<!-- end generated -->``. Figures
come from ``docs/measured/<system>.json``, which ``tidemill claims <system> --budget full --save …``
writes; a page says so when the code that is measured has changed since.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ |= {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1", "TERM": "dumb"}

import llm_figures
import serve_figures
from drawings import WRITTEN, drawn
from file_tree import file_tree
from words import COLON, COUNTED, SAID_BY_PAPER, SYSTEMS_HEADER

from tidemill import errors
from tidemill.bench import Claim, Direction, Measurement, System, Verdict, discover, find
from tidemill.bench.plots import claim_chart
from tidemill.bench.settings import settings_of
from tidemill.bench.sources import MEASURE_WITH, UNMEASURED
from tidemill.bench.wire import measurement_of
from tidemill.bench.wording import unit_sign, with_interval, word

ROOT = Path(__file__).parents[1]
MEASURED = ROOT / "docs" / "measured"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PART = re.compile(
    r"(<!-- generated: (?P<name>[^\n]*?) -->\n).*?(<!-- end generated -->)", re.DOTALL
)


def stored(system: str) -> dict[str, Any]:
    """What ``tidemill claims --save`` wrote for a system; empty if it was never measured."""
    path = MEASURED / f"{system}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def measurements(system: System) -> dict[str, Measurement]:
    """The stored figures by claim id."""
    parts = [
        part for part in stored(system.name).get("systems", []) if part["system"] == system.name
    ]
    return {
        claim["id"]: measurement_of(claim["measurement"])
        for part in parts
        for claim in part["claims"]
        if claim["measurement"]
    }


def without_age(text: str) -> str:
    """A page without what only a checkout with its history can tell."""
    return re.sub(r" \*\*Older than the code:\*\*[^\n]*", "", text)


def has_history() -> bool:
    """Whether git knows the commits that figures were measured at."""
    shallow = ["git", "rev-parse", "--is-shallow-repository"]
    told = subprocess.run(shallow, cwd=ROOT, check=False, capture_output=True, text=True)
    return told.stdout.strip() == "false"


def changed_since(
    document: dict[str, Any], name: str, paths: Sequence[str] | None = None
) -> list[str]:
    """The files that figures come from and that are not those of the code they were measured at."""
    found: dict[str, None] = {}
    for code in codes(document) or {document["environment"]["code"]: []}:
        found |= dict.fromkeys(_changed_since(code, name, paths))
    return [*found]


def codes(document: dict[str, Any]) -> dict[str, list[str]]:
    """The commits that trials were measured at, and which trials."""
    found: dict[str, list[str]] = {}
    for part in document.get("systems", ()):
        for trial in part["trials"]:
            found.setdefault(trial["code"], []).append(trial["trial"])
    return found


def _changed_since(code: str, name: str, paths: Sequence[str] | None) -> list[str]:
    commit, dirty, _ = code.partition("+dirty")
    measuring = [f"src/tidemill/{path}" for path in MEASURE_WITH]
    watched = paths or (f"src/tidemill/systems/{name}", *measuring)
    command = ["git", "diff", "--name-only", commit, "--", *watched]
    told = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if told.returncode != 0:
        return []  # no history here: `main` then leaves this sentence out of the comparison
    files = [Path(path).relative_to("src/tidemill").as_posix() for path in told.stdout.split()]
    return [f"`{path}`" for path in files if Path(path).name not in UNMEASURED] + (
        ["uncommitted files"] if dirty else []
    )


def row(cells: list[str]) -> str:
    """One line of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join([row(header), "|" + "---|" * len(header), *(row(cells) for cells in rows)])


def here(claim: Claim, found: Measurement | None, language: str = "en") -> str:
    """Figure, interval and verdict of one claim."""
    if found is None:
        return word("not run", language)
    figure = with_interval(found.value, found.low, found.high, claim.unit)
    return f"{figure} — {word(claim.verdict(found), language)}"


def headline(claim: Claim, found: Measurement | None, language: str) -> str:
    """One claim in a cell: statement, figure and what the paper says."""
    statement = claim.statement.in_language(language)
    text = f"{statement}{COLON.in_language(language)}**{here(claim, found, language)}**"
    said = claim.paper_value_in(language)
    return text + (SAID_BY_PAPER.in_language(language).format(said) if said else "")


def systems_table(language: str = "en") -> str:
    """One line per system: what it is, its first claims here, how many hold."""
    header = [name.in_language(language) for name in SYSTEMS_HEADER]
    rows: list[list[str]] = []
    for system in discover():
        found = measurements(system)
        verdicts = [c.verdict(found[c.id]) for c in system.claims if c.id in found]
        first = "<br>".join(
            headline(claim, found.get(claim.id), language) for claim in system.claims[:2]
        )
        paper = system.paper.title
        if system.paper.arxiv_id:
            paper = f"[{paper}](https://arxiv.org/abs/{system.paper.arxiv_id})"
        holds = COUNTED.in_language(language).format(
            holding=verdicts.count(Verdict.YES), total=len(system.claims)
        )
        rows.append([f"[`{system.name}`](docs/systems/{system.name}.md)", paper, first, holds])
    return table(header, rows)


def claims_table(name: str) -> str:
    """Every claim of a system with its quote, figure, baseline, status and verdict."""
    system = find(name)
    found = measurements(system)
    rows: list[list[str]] = []
    for claim in system.claims:
        m = found.get(claim.id)
        sign = "≥" if claim.direction is Direction.AT_LEAST else "≤"
        target = f"{sign} {claim.target:g} {unit_sign(claim.unit)}"
        figure = with_interval(m.value, m.low, m.high, claim.unit) if m else "—"
        verdict = word(claim.verdict(m), "en") if m else ""
        rows.append(
            [
                f"**{claim.id}**<br>{claim.statement.en}",
                f"“{claim.quote}”",
                f"**{figure}**"
                + (f"<br>{m.subject}<br>against {m.baseline}" if m and m.baseline else ""),
                target,
                f"{m.status}<br>**{verdict}**" if m else "not run",
            ]
        )
    return table(["claim", "the abstract says", "measured here", "target", "status, holds"], rows)


def machine(name: str) -> str:
    """Where, when and how the stored figures were measured."""
    document = stored(name)
    if not document:
        return "Not measured yet: `tidemill claims " + name + " --budget full`."
    environment = document["environment"]
    parts = [part for part in document["systems"] if part["system"] == name]
    disturbed = [t["trial"] for part in parts for t in part["trials"] if t["disturbed"]]
    at = codes(document) or {environment["code"]: []}
    commits = ", ".join(
        f"`{code[:12]}`" + (f" ({', '.join(trials)})" if len(at) > 1 else "")
        for code, trials in at.items()
    )
    text = (
        f"Measured {document['written'][:10]} on {environment['cpu']}, "
        f"{environment['cores']} cores, {environment['memory_bytes'] / 2**30:.0f} GiB, "
        f"kernel {environment['kernel']}, "
        f"{environment['compiler']}, native level {environment['native_level']}, code "
        f"{commits}, with `{document['command']}`."
    )
    if disturbed:
        text += f" Other processes disturbed the trials {', '.join(disturbed)}."
    if changed := changed_since(document, name):
        text += f" **Older than the code:** since then {', '.join(changed)} changed."
    return text


def models_in(file: str) -> dict[str, Any]:
    """What ``tidemill bench-… --save`` wrote, by model; empty if nothing was measured."""
    return stored(file).get("models", {})


def charts(name: str) -> str:
    """The claims of a system as one drawing."""
    system = find(name)
    found = measurements(system)
    drawings = {f"{name}-claims": claim_chart(system.claims, found)}
    module = f"{type(system).__module__.split('.')[0]}.systems.{name}.claims"
    more: Callable[..., dict[str, Any]] | None = getattr(
        importlib.import_module(module), "charts", None
    )
    if more:
        drawings |= {f"{name}-{key}": spec for key, spec in more(found).items()}
    return drawn(drawings, f"Claims of {name}, figure and interval against the target", "../images")


def config(name: str) -> str:
    """The settings of a system."""
    rows = [
        [f"`{s.name}`", s.kind.__name__, f"`{s.default}`", s.help]
        for s in settings_of(find(name).config)
    ]
    return table(["setting", "type", "default", "meaning"], rows)


def commands() -> str:
    """The help of every command."""
    from typer.testing import CliRunner

    from tidemill.cli import COMMANDS, app

    runner = CliRunner()
    parts: list[str] = []

    def helped(*words: str) -> None:
        result = runner.invoke(app, [*words, "--help"], prog_name="tidemill")
        if result.exit_code:
            raise errors.ConfigError(f"tidemill {' '.join(words)} --help: {result.output}")
        text = re.sub(r"[ \t]+$", "", result.output, flags=re.MULTILINE).strip("\n")
        parts.append(
            f"### tidemill {' '.join(words)}\n\n```text\n{text}\n```".replace(
                "### tidemill \n", "### tidemill\n"
            )
        )
        for sub in _subcommands(words):
            helped(*words, sub)

    helped()
    for name in [*(c.name for c in COMMANDS), *(s.name for s in discover() if s.cli)]:
        helped(name)
    return "\n\n".join(parts)


def _subcommands(words: tuple[str, ...]) -> Iterator[str]:
    from typer.main import get_command

    from tidemill.cli import app

    if len(words) != 1:
        return
    group = get_command(app)
    context = group.make_context("tidemill", [*words, "--help"], resilient_parsing=True)
    _, command, _ = group.resolve_command(context, list(words))
    yield from sorted(getattr(command, "commands", {}))


def error_tree() -> str:
    """The tree of exceptions with exit codes."""
    classes = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, Exception)]
    rows = [
        [
            f"`{c.__name__}`",
            f"`{c.__mro__[1].__name__}`",
            str(c.exit_code),
            (c.__doc__ or "").split("\n")[0],
        ]
        for c in classes
    ]
    return table(["error", "is a", "exit code", "meaning"], rows)


def routes() -> str:
    """The pages of the site."""
    from tidemill.bench.store import Store
    from tidemill.feed.library import Library
    from tidemill.web import create_app

    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{folder}/tidemill.db")
        store.migrate()
        library = Library(store)
        library.migrate()
        app = create_app(store, library, None, read_only=True)
        rows = [
            [f"`{path}`", " ".join(sorted(getattr(route, "methods", None) or [])), _summary(route)]
            for route in _flat(app.routes)
            if (path := getattr(route, "path", ""))
        ]
        store.close()
    return table(["path", "methods", "what it gives"], rows)


def _flat(found: Sequence[Any]) -> Iterator[Any]:
    for route in found:
        included = getattr(route, "original_router", None)
        yield from _flat(included.routes) if included else [route]


def _summary(route: Any) -> str:
    endpoint = getattr(route, "endpoint", None)
    return ((endpoint.__doc__ if endpoint else "") or "").strip().split("\n")[0]


GENERATORS: dict[str, Callable[..., str]] = {
    "systems-table": systems_table,
    "claims-table": claims_table,
    "machine": machine,
    "charts": charts,
    "llm-table": lambda: table(*llm_figures.rows(models_in("llm"))),
    "llm-machine": lambda: llm_figures.machine(models_in("llm"), changed_since),
    "llm-line": lambda language="en": llm_figures.line(models_in("llm"), language),
    "serve-table": lambda: table(*serve_figures.rows(models_in("serve"))),
    "serve-machine": lambda: serve_figures.machine(models_in("serve"), changed_since),
    "serve-charts": lambda: serve_figures.charts(models_in("serve")),
    "config": config,
    "commands": commands,
    "errors": error_tree,
    "routes": routes,
    "file-tree": file_tree,
}


def render(text: str) -> str:
    """The page with every generated part made anew."""

    def fresh(match: re.Match[str]) -> str:
        name, *arguments = match["name"].split()
        return f"{match[1]}{GENERATORS[name](*arguments).rstrip()}\n{match[3]}"

    return PART.sub(fresh, text)


def main() -> int:
    """Write what changed, or with ``--check`` say what would."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if it would")
    options = parser.parse_args()
    pages = {page: render(page.read_text(encoding="utf-8")) for page in PAGES}
    drawings = dict(WRITTEN)  # their bytes follow the fonts of a machine: only presence is checked
    for page in PAGES:
        WRITTEN[page] = pages[page]
    same = str if has_history() else without_age
    changed = [
        path
        for path, text in WRITTEN.items()
        if not path.is_file()
        or (
            same(path.read_text(encoding="utf-8")) != same(text)
            and not (options.check and path in drawings)
        )
    ]
    for path in changed:
        sys.stdout.write(
            f"{'out of date' if options.check else 'wrote'}: {path.relative_to(ROOT)}\n"
        )
        if not options.check:
            path.write_text(WRITTEN[path], encoding="utf-8")
    return int(options.check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
