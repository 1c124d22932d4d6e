"""``tidemill up``: the digest's site, with the quick claims measured meanwhile."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.bench import Budget, System, usable

if TYPE_CHECKING:
    from tidemill.bench.queue import RunQueue
    from tidemill.bench.store import Store


def up(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = 8321,
    db: Annotated[str | None, typer.Option(help="Database URL instead of TIDEMILL_DB.")] = None,
    read_only: Annotated[bool, typer.Option(help="Show everything, start no runs.")] = False,
    auth: Annotated[str | None, typer.Option(help="Token that every request must carry.")] = None,
    measure: Annotated[bool, typer.Option(help="Measure quick claims not measured yet.")] = True,
) -> None:
    """Serve the digest's site; Ctrl-C ends it.

    Claims that have no figure yet for this machine and this version of the code are measured at the
    quick budget while the site is already up.
    """
    from tidemill.bench.queue import RunQueue, runs_directory
    from tidemill.bench.store import Store
    from tidemill.feed.library import Library
    from tidemill.web import check_bind, create_app, serve

    check_bind(host, read_only, auth)
    store = Store(db)
    try:
        store.migrate()
        library = Library(store)
        library.migrate()
        library.import_shipped()
        queue = RunQueue(store, runs_directory())
        measuring = _Measuring(queue, store) if measure else None
        app = create_app(store, library, queue, read_only=read_only, auth=auth)

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
        for system in usable():
            if self._stop.is_set():
                return
            if not system.missing() and self._lacks_figures(system):
                self._run(system)

    def _lacks_figures(self, system: System) -> bool:
        from tidemill.bench.environment import Environment
        from tidemill.bench.settings import defaults_of

        here = Environment.here()
        ends = self._store.latest_outcomes(
            system.name,
            machine=here.machine_id,
            code=here.code,
            settings=defaults_of(system.config),
        )
        tried = {name for name, end in ends.items() if end.outcome != "missing"}
        quick = {trial.name for trial in system.trials if trial.limit_s(Budget.QUICK) is not None}
        return not quick <= tried

    def _run(self, system: System) -> None:
        from tidemill.bench.events import follow
        from tidemill.cli.live import live_view

        run = self._queue.submit(system.name, {}, "claims", Budget.QUICK)
        typer.echo(f"tidemill: measuring the quick claims of {system.name}", err=True)
        with live_view(system.name) as tell:
            for event in follow(run.events_path, 0, self._stop):
                tell(event.kind, event.data)
        if self._stop.is_set():
            self._queue.cancel(run.id)
            for _ in follow(run.events_path, 0, threading.Event()):
                pass
