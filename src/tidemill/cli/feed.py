"""``tidemill feed``: papers into the library, and out of it onto the screen."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidemill.errors import ConfigError, InputError

if TYPE_CHECKING:
    from tidemill.feed import Entry, ImportReport, Library, Page

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Papers: import, list, search.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
FilesArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE…",
        help="Digest page (text or saved HTML), Atom, RSS or OAI XML, BibTeX, RIS, JSON lines.",
    ),
]
NumberOption = Annotated[int, typer.Option("--page", help="Which page, from 1.")]
LimitOption = Annotated[int, typer.Option(help="Papers on a page, 1 to 200.")]


@app.command("import")
def import_files(files: FilesArgument, *, as_json: JsonOption = False) -> None:
    """Read papers from files; a file that was read before changes nothing.

    Each file is taken in whole or not at all. Exit code 2 if any could not be used, or if all of
    its entries were refused; the others are imported all the same.
    """
    library = _library()
    reports: list[dict[str, Any]] = []
    errors: list[InputError] = []
    for file in files:
        try:
            report = library.import_file(file)
        except InputError as error:
            errors.append(error)
            continue
        for refusal in report.refused:
            typer.echo(f"{file}:{refusal.line}: refused: {refusal.reason}", err=True)
        if report.read and report.read == len(report.refused):
            errors.append(InputError(f"{file} — all of its {report.read} entries were refused."))
        reports.append(_report(file, report))
        if not as_json:
            typer.echo(f"{file}: {report}")
    if as_json:
        _print_json({"files": reports})
    for error in errors[:-1]:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
    if errors:
        raise errors[-1]


@app.command("read")
def read_file(file: Annotated[Path, typer.Argument(help="A file as for import.")]) -> None:
    """Print a file's papers as JSON lines, importing nothing; the lines can be imported."""
    from tidemill.bench.settings import dumps
    from tidemill.feed.entry import Refusal
    from tidemill.feed.sources import PaperFile

    for found in PaperFile(file).fetch(None):
        if isinstance(found, Refusal):
            typer.echo(f"{file}:{found.line}: refused: {found.reason}", err=True)
        else:
            typer.echo(dumps(found.to_json()))


@app.command("list")
def list_papers(
    *,
    category: Annotated[str | None, typer.Option(help="Only this category, as systems.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="7d|2026-06-01", help="Announced since then.")
    ] = None,
    limit: LimitOption = 20,
    number: NumberOption = 1,
    as_json: JsonOption = False,
) -> None:
    """The papers of the library, newest first."""
    library = _library()
    page = library.page(
        category=category, since=_day(since) if since else None, number=number, per_page=limit
    )
    _print_page(page, as_json=as_json)


@app.command("show")
def show(
    paper_id: Annotated[str, typer.Argument(metavar="ID", help="2606.24417, or a slug or id.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """One paper: its abstract, its categories and why, its links, its earlier texts."""
    from tidemill.feed import out

    library = _library()
    entry = library.paper(paper_id)
    if entry is None:
        raise InputError(
            f"paper {paper_id!r} — is not in the library; `tidemill feed search` finds ids, "
            "`tidemill feed import` brings papers in."
        )
    versions = library.versions(entry.id)
    if as_json:
        texts: list[dict[str, Any]] = [
            {"version": v.version, "title": v.title, "abstract": v.abstract, "current": v.current}
            for v in versions
        ]
        near = [other.id for other in library.near_duplicates(entry.id)]
        merged = [*library.merged(entry.id)]
        document = out.entry_json(entry) | {"versions": texts, "near": near, "merged": merged}
        _print_json(document)
        return
    _print_entry(entry, earlier=len(versions) - 1)


@app.command("search")
def search(
    query: Annotated[list[str], typer.Argument(help='As: "KV cache" -training cat:systems.')],
    *,
    limit: LimitOption = 20,
    number: NumberOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Papers that match, best first.

    Words, "phrases", -not, cat:systems, by:name, after:2026-06-01, before:2026-07, has:system.
    """
    page = _library().search(" ".join(query), number=number, per_page=limit)
    _print_page(page, as_json=as_json)


@app.command("split")
def split(
    old_id: Annotated[str, typer.Argument(metavar="ID", help="The id it had before: title:…")],
) -> None:
    """Take back that a paper was merged into another; it will not be merged again by itself."""
    _library().split(old_id)
    typer.echo(f"{old_id} is a paper of its own again")


@app.command("doctor")
def doctor(*, as_json: JsonOption = False) -> None:
    """See whether the library is sound; exit code 1 if it is not."""
    from tidemill.feed.doctor import examine

    findings = examine(_library())
    if as_json:
        _print_json(
            {"checks": [{"check": f.check, "ok": f.ok, "found": f.found} for f in findings]}
        )
    else:
        for finding in findings:
            typer.echo(f"{'ok ' if finding.ok else 'BAD'}  {finding.check}: {finding.found}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def _library() -> Library:
    from tidemill.feed import Library

    library = Library()
    library.migrate()
    return library


def _day(since: str) -> date:
    from tidemill.feed.calendar import parse_date

    if days := re.fullmatch(r"(\d{1,5})d", since):
        return date.today() - timedelta(days=int(days[1]))
    if day := parse_date(since):
        return day
    raise ConfigError.of("--since", since, "a number of days as 7d, or a date as 2026-06-01")


def _report(file: Path, report: ImportReport) -> dict[str, Any]:
    return {
        "file": str(file),
        "read": report.read,
        "new": report.new,
        "changed": report.changed,
        "refused": [{"line": item.line, "reason": item.reason} for item in report.refused],
    }


def _print_json(document: object) -> None:
    typer.echo(json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False))


def _print_page(page: Page, *, as_json: bool) -> None:
    from tidemill.feed import out

    if as_json:
        document = {
            "total": page.total,
            "page": page.number,
            "pages": page.pages,
            "ignored": [*page.ignored],
            "entries": [out.entry_json(entry) for entry in page.entries],
        }
        _print_json(document)
        return
    for ignored in page.ignored:
        typer.echo(f"ignored: {ignored}", err=True)
    _print_table(page.entries)
    typer.echo(f"{page.total} papers, page {page.number} / {page.pages}")


def _print_table(entries: Sequence[Entry]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("announced", "id", "title", "system")
    for entry in entries:
        announced, name = entry.announced.isoformat(), entry.arxiv_id or entry.slug[:12]
        table.add_row(announced, name, Text(entry.title), entry.system or "")
    Console().print(table)


def _print_entry(entry: Entry, *, earlier: int) -> None:
    lines = [
        entry.title,
        f"{entry.id} · {entry.announced}" + (f" · v{entry.version}" if entry.version else ""),
        ", ".join(entry.authors),
        *(f"{p.category.name_zh} ({p.why or 'no reason'})" for p in entry.categories),
        " ".join(entry.subjects),
        f"built by tidemill.systems.{entry.system}" if entry.system else "",
        "",
        entry.abstract,
        "",
        *(f"{link.name}: {link.url}" for link in entry.links),
        f"{earlier} earlier texts; --json has them" if earlier > 0 else "",
    ]
    typer.echo("\n".join(line for at, line in enumerate(lines) if line or lines[at - 1]))
