"""Trials as Ray tasks: each node runs `run_trial` and sends its outcome back.

Ray brings the scheduling, the transport and the retry after a node died. The nodes need the same
version of tidemill and of the systems as the caller.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

from tidemill.bench.claim import Json
from tidemill.bench.process import Listener, Terms
from tidemill.bench.records import TrialOutcome
from tidemill.bench.runner import run_trial
from tidemill.bench.trial import Budget
from tidemill.errors import MissingCapability, ResourceError

LOCAL = "local"
"""The address that stands for a Ray started for this session, on this machine."""
_FORWARDED = frozenset({"trial", "stage", "progress", "log", "measurement"})
_POLL_S = 0.2
_KNOCK_S = 5.0


def run_trials(
    reference: str,
    names: Sequence[str],
    *,
    config: Mapping[str, Json],
    budget: Budget,
    listen: Listener,
    terms: Terms,
) -> Iterator[TrialOutcome]:
    """The outcomes of the trials as they end, from whichever node ran them.

    Nodes take one trial at a time, as each asks for the CPUs of the smallest node. Events come
    through as they happen, except live readings; those of several trials are mixed.

    Raises:
        MissingCapability: Ray is not installed, or there is none at `Terms.ray`.
        ResourceError: A node or worker died twice under the same trial; the others are through.
    """
    ray = import_ray()
    with connected(ray, terms.ray):
        size = int(min(node["Resources"].get("CPU", 1.0) for node in ray.nodes() if node["Alive"]))
        task = ray.remote(num_cpus=size, max_retries=1, scheduling_strategy="SPREAD")(_measure)
        post: Any = importlib.import_module("ray.util.queue").Queue(actor_options={"num_cpus": 0})
        job = (reference, dict(config), str(budget), terms.threads, terms.nice, sys.path)
        waiting = {task.remote(name, job, post): name for name in names}
        lost: list[str] = []
        while waiting:
            ready, _ = ray.wait(list(waiting), timeout=_POLL_S)
            _forward(post, listen)
            for reference_to in ready:
                name = waiting.pop(reference_to)
                try:
                    yield ray.get(reference_to)
                except (
                    ray.exceptions.RaySystemError,
                    ray.exceptions.WorkerCrashedError,
                    ray.exceptions.NodeDiedError,
                    ray.exceptions.OutOfMemoryError,
                ) as error:
                    lost.append(f"{name} ({type(error).__name__})")
            if terms.cancel.is_set():
                for reference_to in waiting:
                    ray.cancel(reference_to, force=True)
                return
        if lost:
            raise ResourceError(
                f"trials on Ray — their node or worker died twice: {', '.join(lost)}; the others "
                "are measured and kept; see `ray status` and run these again."
            )


def import_ray() -> Any:
    """Ray.

    Raises:
        MissingCapability: it is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise MissingCapability(
            f"--ray — the package ray cannot be imported: {error}; "
            "run `pip install 'tidemill[ray]'`."
        ) from error


@contextlib.contextmanager
def connected(ray: Any, address: str) -> Generator[None]:
    """Connect for the session, unless the caller already is.

    Raises:
        MissingCapability: there is no Ray at ``address``.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves the machine unasked
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError, RuntimeError) as error:
        raise MissingCapability(
            f"--ray {address} — no Ray lets us in there: {error}; start one with "
            "`ray start --head` and set RAY_AUTH_MODE and RAY_AUTH_TOKEN as for its nodes, or use "
            "`--ray local`."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Fail at once where nobody listens; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_KNOCK_S).close()


def _measure(name: str, job: tuple[Any, ...], post: Any) -> TrialOutcome:
    """What a node does."""
    reference, config, budget, threads, nice, path = job
    sys.path += [entry for entry in path if entry not in sys.path]

    def forward(kind: str, data: Mapping[str, Json]) -> None:
        if kind in _FORWARDED:
            post.put((kind, {"trial": name, **data}))

    return run_trial(
        reference,
        name,
        config=config,
        budget=Budget(budget),
        progress=forward,
        terms=Terms(threads=threads, nice=nice),
    )


def _forward(post: Any, listen: Listener) -> None:
    for kind, data in post.get_nowait_batch(post.qsize()):
        listen(kind, data)
