"""A figure is of older code when what it rests on changed, and only then."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from toy_system import SYSTEM as TOY

from tidemill.bench import sources

FILES = {
    "wheel/__init__.py": "",
    "wheel/config.py": "import dataclasses\n@dataclasses.dataclass(frozen=True)\nclass C: pass\n",
    "wheel/mill.py": "import tidemill.pond\n",
    "wheel/mill.cpp": '#include "../../brook/flow.hpp"\n',
    "house/pond/level.py": "",
    "house/brook/flow.hpp": "",
    "house/weir/gate.py": "",
    "house/web/page.py": "",
    "house/bench/compare.py": "",
    "house/bench/counts.py": "",
}


@pytest.fixture
def hash_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], str]:
    """``hash_with(files)``: the hash of a system of a package ``wheel`` with these changes."""

    def hashed(changed: dict[str, str]) -> str:
        for name, text in (FILES | changed).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(sources, "_HOUSE", tmp_path / "house")
        config = importlib.import_module("wheel.config").C
        sources._hash.cache_clear()
        return sources.sources_of(replace(TOY, config=config))

    yield hashed
    sources._hash.cache_clear()
    for name in ("wheel", "wheel.config"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "name",
    ["wheel/mill.py", "wheel/mill.cpp", "house/pond/level.py", "house/brook/flow.hpp",
     "house/bench/compare.py", "wheel/new.py"],
)  # fmt: skip
def test_what_a_figure_rests_on_changes_the_hash(
    hash_with: Callable[[dict[str, str]], str], name: str
) -> None:
    before = hash_with({})
    assert hash_with({name: FILES.get(name, "") + "x = 1\n"}) != before


@pytest.mark.parametrize(
    "name", ["wheel/cli.py", "wheel/run.py", "wheel/notes.md", "house/weir/gate.py",
             "house/web/page.py", "house/bench/store.py"]
)  # fmt: skip
def test_what_no_figure_rests_on_does_not(
    hash_with: Callable[[dict[str, str]], str], name: str
) -> None:
    before = hash_with({})
    assert hash_with({name: "x = 1\n"}) == before


def test_a_system_in_one_module_is_that_file() -> None:
    assert len(sources.sources_of(TOY)) == 12
