"""``tidemill up``: the digest's site, with the quick claims measured meanwhile."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.bench import Budget, System, usable
from tidemill.bench.records import RunState
from tidemill.errors import TidemillError

if TYPE_CHECKING:
    from tidemill.bench.queue import RunQueue
    from tidemill.bench.store import Store

_AUTH = (
    "Token that every request must carry. Every user sees it in the list of processes: prefer "
    "--auth-file or the variable TIDEMILL_AUTH."
)
_LOOK_S = 0.5
_END_S = 30.0  # more than the queue waits before it kills a session
_LAST_WORD_S = 3.0  # a process that is gone leaves its row to the queue, which looks twice a second


def up(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = 8321,
    db: Annotated[str | None, typer.Option(help="Database URL instead of TIDEMILL_DB.")] = None,
    read_only: Annotated[bool, typer.Option(help="Show everything, start no runs.")] = False,
    auth: Annotated[str | None, typer.Option(help=_AUTH)] = None,
    auth_file: Annotated[Path | None, typer.Option(help="File whose first line is it.")] = None,
    measure: Annotated[bool, typer.Option(help="Measure quick claims not measured yet.")] = True,
) -> None:
    """Serve the digest's site; Ctrl-C ends it.

    Claims that have no figure yet for this machine and this version of the code are measured at the
    quick budget while the site is already up.
    """
    from tidemill.bench.queue import RunQueue, runs_directory
    from tidemill.bench.store import Store
    from tidemill.feed.library import Library
    from tidemill.web import access_token, check_bind, create_app, serve

    token = access_token(auth, auth_file)
    check_bind(host, read_only, token)
    store = Store(db)
    try:
        store.migrate()
        library = Library(store)
        library.migrate()
        library.import_shipped()
        queue = RunQueue(store, runs_directory())
        measuring = _Measuring(queue, store) if measure and not read_only else None
        app = create_app(store, library, queue, read_only=read_only, auth=token)

        def ready(url: str) -> None:
            typer.echo(f"tidemill: the digest is at {url} — Ctrl-C ends it", err=True)
            queue.start()
            if measuring:
                measuring.start()

        try:
            serve(app, host, port, ready)
        finally:
            if measuring:
                measuring.stop()
            queue.stop()
    finally:
        store.close()


def lacks_figures(system: System, store: Store) -> bool:
    """Whether a quick trial was never tried here with the code and default settings of now.

    One that lacked something of this machine was tried: it would lack it again at every start.
    """
    from tidemill.bench.environment import Environment
    from tidemill.bench.settings import defaults_of
    from tidemill.bench.sources import is_current

    here, settings = Environment.here(), defaults_of(system.config)
    ends = store.latest_outcomes(system.name, machine=here.machine_id, settings=settings)
    tried = {name for name, end in ends.items() if is_current(end.environment, system)}
    quick = {trial.name for trial in system.trials if trial.limit_s(Budget.QUICK) is not None}
    return not quick <= tried


def _quick_s(system: System) -> float:
    """Most time that the quick claims may take; whoever waits sees the shortest first."""
    return sum(trial.limit_s(Budget.QUICK) or 0.0 for trial in system.trials)


class _Measuring:
    """Queues the claims that lack a figure here, one system after the other, and shows them."""

    def __init__(self, queue: RunQueue, store: Store) -> None:
        self._queue = queue
        self._store = store
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._measure, name="tidemill-measuring")

    def start(self) -> None:
        """Begin, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Cancel what this object began, and wait until it has ended."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _measure(self) -> None:
        try:
            for system in sorted(usable(), key=_quick_s):
                if self._stop.is_set():
                    return
                if not system.missing() and lacks_figures(system, self._store):
                    self._run(system)
        except TidemillError as error:
            typer.echo(f"tidemill: not measuring — {type(error).__name__}: {error}", err=True)

    def _run(self, system: System) -> None:
        from tidemill.bench.events import follow
        from tidemill.cli.live import live_view

        run = self._queue.submit(system.name, {}, "claims", Budget.QUICK)
        typer.echo(f"tidemill: measuring the quick claims of {system.name}", err=True)
        silent = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(run.id, silent))
        watcher.start()
        with live_view(system.name) as tell:
            for event in follow(run.events_path, 0, silent):
                tell(event.kind, event.data)
        silent.set()
        watcher.join()
        if self._stop.is_set() and self._queue.cancel(run.id):
            self._await_end(run.id)
        elif said := self._silence(run.id):
            typer.echo(f"tidemill: {said}", err=True)

    def _watch(self, run_id: str, silent: threading.Event) -> None:
        """Set ``silent`` when no event will come, even if the disk is too full for the last one."""
        while not silent.wait(_LOOK_S):
            if self._stop.is_set() or self._queue.is_over(run_id):
                silent.set()

    def _await_end(self, run_id: str) -> None:
        """Wait for a cancelled run's last word, but not longer than a killed process lives."""
        deadline = time.monotonic() + _END_S
        while time.monotonic() < deadline:
            run = self._store.run(run_id)
            if run is None or run.state.is_final:
                return
            if self._queue.is_over(run_id):
                deadline = min(deadline, time.monotonic() + _LAST_WORD_S)
            time.sleep(0.1)

    def _silence(self, run_id: str) -> str:
        """What to say of a run that stopped without an end; "" if it has one."""
        run = self._store.run(run_id)
        if run is None or run.state in (RunState.DONE, RunState.CANCELLED):
            return ""
        return f"the measuring run {run_id[:8]} is {run.state}: {run.error or 'it said nothing'}"
