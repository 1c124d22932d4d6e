"""The command line: one Typer app whose commands are imported only when one of them is used.

``tidemill --help`` shows this page's table and the installed systems; it imports no room of the
house. To add a command write ``cli/<noun>.py`` and give it one line in ``COMMANDS``.
"""

from __future__ import annotations

import importlib
import os
import shlex
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from tidemill import __version__
from tidemill.errors import ConfigError, TidemillError

UNEXPECTED = 70
"""Exit code of a bug in tidemill (EX_SOFTWARE of sysexits.h)."""
INTERRUPTED = 130
PIPE_CLOSED = 141
VERBOSE = "TIDEMILL_VERBOSE"
"""Environment variable that ``-v`` sets, so that child processes follow."""
_SYSTEMS_PANEL = "Systems"
_SYSTEMS = "tidemill.systems"  # bench.system.ENTRY_POINT_GROUP, which would import the bench


@dataclass(frozen=True, slots=True)
class Lazy:
    """A command known by name; ``target`` is the Typer app or function behind it."""

    name: str
    target: str
    summary: str
    panel: str = "Commands"


COMMANDS = (
    Lazy("up", "tidemill.cli.up:up", "Serve the digest's site, with figures of this machine."),
    Lazy("list", "tidemill.cli.measure:list_systems", "Installed systems, claims and verdicts."),
    Lazy("run", "tidemill.cli.measure:run", "Run a system on its default real input."),
    Lazy("claims", "tidemill.cli.measure:claims", "Measure what a paper claims, here and now."),
    Lazy("feed", "tidemill.cli.feed:app", "Papers: import, list, search."),
    Lazy("models", "tidemill.models.cli:app", "Language models: pull, list, verify, look into."),
    Lazy("chat", "tidemill.cli.chat:chat", "Talk with a language model."),
    Lazy("generate", "tidemill.cli.generate:generate", "Go on from a prompt."),
    Lazy("serve", "tidemill.cli.serve:serve", "Serve a language model to any OpenAI client."),
    Lazy("replay", "tidemill.cli.replay:replay", "A trace on a server, or on a simulated device."),
    Lazy("calibrate", "tidemill.cli.calibrate:calibrate", "Time steps of an engine, to simulate."),
    Lazy("perplexity", "tidemill.cli.perplexity:perplexity", "How well a model predicts a text."),
    Lazy("bench-llm", "tidemill.cli.bench_llm:bench_llm", "A model here and in llama.cpp."),
    Lazy("bench-serve", "tidemill.cli.bench_serve:bench_serve", "Our server and llama.cpp's."),
    Lazy("new-system", "tidemill.cli.scaffold:new_system", "Write the anatomy of a new system."),
)  # fmt: skip


class LazyGroup(TyperGroup):
    """Lists every command from its one-line summary and imports only the one that is used."""

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        for lazy in (*COMMANDS, *_system_commands()):
            self.add_command(
                TyperCommand(
                    lazy.name,
                    help=lazy.summary,
                    rich_help_panel=lazy.panel,
                    rich_markup_mode=None,
                )
            )

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Find the command that ``args`` begin with, and import it."""
        name, found, rest = super().resolve_command(ctx, args)
        for lazy in (*COMMANDS, *_system_commands()):
            if lazy.name == name:
                found = typer.main.get_command(_load(lazy))
                found.name = name
        return name, found, rest


def _system_commands() -> tuple[Lazy, ...]:
    taken = {lazy.name for lazy in COMMANDS}
    return tuple(
        Lazy(entry.name, entry.value, f"Tools of the system {entry.name}.", _SYSTEMS_PANEL)
        for entry in sorted(entry_points(group=_SYSTEMS), key=lambda entry: entry.name)
        if entry.name not in taken
    )


def _load(lazy: Lazy) -> typer.Typer:
    if lazy.panel == _SYSTEMS_PANEL:
        return _system_app(lazy)
    found: Any = _imported(lazy.target)
    if isinstance(found, typer.Typer):
        return found
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(lazy.name)(found)
    return app


def _system_app(lazy: Lazy) -> typer.Typer:
    try:
        system = _imported(lazy.target)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"tidemill {lazy.name} — cannot be imported: {error}; reinstall the package that "
            f"{lazy.target} comes from."
        ) from error
    make: Callable[[], typer.Typer] | None = getattr(system, "cli", None)
    if make is None:
        raise ConfigError(
            f"tidemill {lazy.name} — this system has no commands of its own; "
            f"use `tidemill run {lazy.name}` or `tidemill claims {lazy.name}`."
        )
    return make()


def _imported(target: str) -> object:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


app = typer.Typer(
    cls=LazyGroup, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"tidemill {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the traceback of an error.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """The daily digest of AI-systems papers in which every paper is a working system."""
    if verbose:
        os.environ[VERBOSE] = "1"


def main() -> NoReturn:
    """Run the command line and exit: 0, 1 failed claim, 2 user error, 3 missing capability.

    130 after Ctrl-C, 141 when the reader of standard output went away, 70 for a bug in tidemill.
    """
    try:
        try:
            app(prog_name="tidemill")
        finally:
            sys.stdout.flush()
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):
            _leave_closed_pipe()
        raise
    except BrokenPipeError:
        _leave_closed_pipe()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except TidemillError as error:
        _complain(f"{type(error).__name__}: {error}")
        sys.exit(error.exit_code)
    except Exception as error:
        again = shlex.join(["tidemill", "-v", *sys.argv[1:]])
        _complain(f"{type(error).__name__}: {error} — a bug in tidemill; `{again}` shows where.")
        sys.exit(UNEXPECTED)
    sys.exit(0)


def _complain(text: str) -> None:
    if os.environ.get(VERBOSE):
        traceback.print_exc()
    typer.echo(" ".join(text.split()), err=True)


def _leave_closed_pipe() -> NoReturn:
    """Exit without the interpreter's own complaint about what is left in the buffer."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(PIPE_CLOSED)
