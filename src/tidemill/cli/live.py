"""A session as it happens, on standard error: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Mapping
from typing import Any, cast

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from tidemill.bench.claim import Json
from tidemill.bench.process import Listener
from tidemill.bench.wording import figure, with_interval

_LINE_EVERY_S = 5.0  # between two lines of progress where there is no terminal
_METRICS_SHOWN = 3


@contextlib.contextmanager
def live_view(title: str, *, quiet: bool = False) -> Generator[Listener]:
    """Gives the function to tell of a session's events; what it draws ends with the block."""
    console = Console(stderr=True)
    if quiet:
        yield lambda kind, data: None
    elif console.is_terminal:
        with _bars(console) as bars:
            yield _Terminal(bars, title).tell
    else:
        yield _Lines(console, title).tell


def _bars(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[amount]}"),
        TextColumn("[cyan]{task.fields[metrics]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        expand=False,
    )


class _Lines:
    """Plain lines, for logs and pipes."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._said_at = 0.0

    def tell(self, kind: str, data: Mapping[str, Json]) -> None:
        text = _sentence(kind, cast(Mapping[str, Any], data))
        if kind == "progress":
            now = time.monotonic()
            text = _amount(cast(Mapping[str, Any], data))
            if now - self._said_at < _LINE_EVERY_S:
                return
            self._said_at = now
        if text:
            self.say(f"{self._title}: {text}")

    def say(self, text: str) -> None:
        self._console.print(escape(text), soft_wrap=True, highlight=False)


class _Terminal(_Lines):
    """One bar for the current stage; what is settled scrolls up above it."""

    def __init__(self, bars: Progress, title: str) -> None:
        super().__init__(bars.console, title)
        self._bars = bars
        self._metrics: dict[str, str] = {}
        self._trial = ""
        self._task: TaskID = bars.add_task(escape(title), total=None, amount="", metrics="")

    def tell(self, kind: str, data: Mapping[str, Json]) -> None:
        fields = cast(Mapping[str, Any], data)
        if kind == "progress":
            total = fields["total"] or None
            self._bars.update(
                self._task, completed=fields["done"], total=total, amount=_amount(fields)
            )
        elif kind == "metric":
            self._metrics.pop(fields["name"], None)
            reading = f"{fields['name']} {figure(fields['value'])} {fields['unit']}"
            self._metrics[fields["name"]] = reading
            shown = list(self._metrics.values())[-_METRICS_SHOWN:]
            self._bars.update(self._task, metrics=escape(" · ".join(shown)))
        elif kind == "stage":
            self._begin(f"{self._title} {fields['trial']}: {fields['name']}")
        elif kind == "trial" and fields["state"] == "started":
            self._begin(f"{self._title} {fields['name']}")
        elif text := _sentence(kind, fields):
            self.say(f"{self._title}: {text}")

    def _begin(self, description: str) -> None:
        self._metrics.clear()
        self._bars.reset(
            self._task, total=None, description=escape(description), amount="", metrics=""
        )


def _sentence(kind: str, fields: Mapping[str, Any]) -> str:
    """What a plain line says of an event; "" if nothing."""
    if kind == "stage":
        return f"{fields['trial'] or 'run'}: {fields['name']}"
    if kind == "log":
        return str(fields["text"])
    if kind == "measurement":
        value = with_interval(fields["value"], fields["low"], fields["high"], fields["unit"])
        return f"{fields['claim']} = {value} ({fields['status']}, holds: {fields['verdict']})"
    if kind == "trial" and fields["state"] == "ended":
        peak = f"{fields['peak_rss_bytes'] / 2**20:.0f} MiB"
        line = f"{fields['name'] or 'run'} {fields['outcome']} ({fields['seconds']:.1f} s, {peak})"
        notes = [str(fields["error"]).partition("\n")[0], str(fields["disturbed"])]
        return "; ".join([line, *(note for note in notes if note)])
    return ""


def _amount(fields: Mapping[str, Any]) -> str:
    done, total = figure(fields["done"]), figure(fields["total"])
    return f"{done} of {total} {fields['unit']}" if fields["total"] else f"{done} {fields['unit']}"
