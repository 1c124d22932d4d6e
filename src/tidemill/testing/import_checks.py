"""Importing a system is cheap, so that a command line that lists twenty stays quick."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tidemill.bench.system import find
from tidemill.testing.subject import CheckFailed, Named, Once, Subject, must, must_be_written

IMPORT_CPU_S = 0.15
NUMPY_CPU_S = 0.06
"""What importing NumPy takes on the machine that ``IMPORT_CPU_S`` is meant for."""
HEAVY = ("torch", "ray", "fastapi", "sqlalchemy", "typer")
_REPEATS = 5
_CODE = """
import json, sys, time
sys.path[:] = json.loads(sys.argv[1])
module = sys.argv[2]
if module:
    __import__(module)
print(json.dumps([time.process_time(), sorted(sys.modules)]))
"""


class Imported:
    """Imports in fresh processes, made when the first check asks and then kept."""

    def __init__(self, subject: Subject) -> None:
        self._module = subject.reference.partition(":")[0]
        self.cpu_s = Once(self._cpu_s)
        self.modules = Once(self._modules)

    def _cpu_s(self) -> float:
        """CPU time of the import over that of a bare interpreter, on the yardstick's machine.

        The least of five each, interleaved. A machine that is slower or shared, as its import of
        NumPy shows, is forgiven in proportion.
        """
        times: dict[str, list[float]] = {"": [], "numpy": [], self._module: []}
        for _ in range(_REPEATS):
            for module, found in times.items():
                found.append(_import(module)[0])
        bare, numpy, own = (min(found) for found in times.values())
        return (own - bare) * min(1.0, NUMPY_CPU_S / (numpy - bare))

    def _modules(self) -> set[str]:
        """What is loaded afterwards."""
        return set(_import(self._module)[1])


def checks_of(subject: Subject) -> Iterator[Named]:
    """That child processes find the system, and the cost of importing it."""
    imported = Imported(subject)
    yield "is-found-by-its-reference", partial(_is_found, subject)
    yield "docstring-tells-the-paper", partial(_has_a_docstring, subject)
    yield "import-takes-under-150-ms-of-cpu", partial(_is_cheap, imported)
    for name in HEAVY:
        yield f"import-does-not-load-{name}", partial(_does_not_load, imported, name)


def _is_found(subject: Subject) -> None:
    must(find(subject.reference) is subject.system, f"{subject.reference} is another value.")


def _has_a_docstring(subject: Subject) -> None:
    module = subject.reference.partition(":")[0]
    must_be_written(f"docstring of {module}", sys.modules[module].__doc__ or "")


def _is_cheap(imported: Imported) -> None:
    must(
        imported.cpu_s() < IMPORT_CPU_S,
        f"importing it takes {1000 * imported.cpu_s():.0f} ms of CPU, "
        f"at most {1000 * IMPORT_CPU_S:.0f}; import heavy packages inside the functions that "
        "use them (`python -X importtime` shows them).",
    )


def _does_not_load(imported: Imported, name: str) -> None:
    must(name not in imported.modules(), f"importing it loads {name}; import it where it is used.")


def _import(module: str) -> tuple[float, list[str]]:
    path = json.dumps([str(Path(entry).absolute()) for entry in sys.path])
    done = subprocess.run(
        [sys.executable, "-P", "-c", _CODE, path, module],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": ""},  # the first import fills the caches
        timeout=60,
        check=False,
    )
    if done.returncode != 0:
        raise CheckFailed(f"import {module}: {done.stderr.strip().splitlines()[-1]}")
    cpu_s, modules = json.loads(done.stdout.splitlines()[-1])
    return cpu_s, modules
