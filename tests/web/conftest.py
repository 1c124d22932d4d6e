"""The site as tests see it: a real store, library and queue, and one more installed system."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi import FastAPI
from house import INSTALLED, House, path_with_installed
from site_process import SiteProcess
from visitor import Visitor

from tidemill.web import create_app


@contextmanager
def _waterwheel() -> Generator[None]:
    """The package of the system ``waterwheel`` is on the path, here and in child processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(INSTALLED), *sys.path])
        patch.setenv("PYTHONPATH", path_with_installed())
        yield


@pytest.fixture(autouse=True)
def _waterwheel_is_installed() -> Iterator[None]:
    """For the tests of the site only: tests of other rooms may run between two of them."""
    with _waterwheel():
        yield


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], House]:
    """``shipped(folder)``: a house of its own with the shipped papers, copied from one import."""
    original = tmp_path_factory.mktemp("shipped") / "tidemill.db"
    house = House.at(original)
    with _waterwheel():
        house.library.import_shipped()
    house.store.close()

    def copy(folder: Path) -> House:
        shutil.copy(original, folder / original.name)
        return House.at(folder / original.name)

    return copy


@pytest.fixture
def house(shipped: Callable[[Path], House], tmp_path: Path) -> Iterator[House]:
    """The shipped papers, those of the installed systems, and a queue that has not been started."""
    house = shipped(tmp_path)
    yield house
    house.queue.stop()
    house.store.close()


@pytest.fixture
def visit() -> Iterator[Callable[..., Visitor]]:
    """``visit(app)`` gives a visitor that is closed at the end."""
    visitors: list[Visitor] = []

    def new(app: FastAPI, **headers: str) -> Visitor:
        visitors.append(Visitor(app, **headers))
        return visitors[-1]

    yield new
    for visitor in visitors:
        visitor.close()


@pytest.fixture
def visitor(house: House, visit: Callable[..., Visitor]) -> Visitor:
    """A visitor of a site with these papers."""
    return visit(create_app(house.store, house.library, house.queue))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[SiteProcess]:
    """A server of its own for one test that stops it."""
    process = SiteProcess(tmp_path)
    process.start()
    yield process
    process.clear()
