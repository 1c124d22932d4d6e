"""What a measurement ran on: the machine, the compiler, the packages, the code, and who else ran.

Everything but the load is found once per process and kept; the load is read anew each time.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import psutil

import tidemill
from tidemill import native
from tidemill.bench.claim import Json
from tidemill.bench.system import ENTRY_POINT_GROUP
from tidemill.errors import InputError, TidemillError

_LOAD_WINDOW_S = 0.05
"""How long the foreign load is watched at start: five ticks of the kernel's 10 ms clock."""

_CODE_PATHS = ("src/tidemill", "pyproject.toml", "CMakeLists.txt")
"""What decides on a figure; a change to a document does not make the code differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What a measurement ran on; a plain value that goes to JSON and back.

    Args:
        cpu: Model name.
        cpu_flags: Instruction-set flags, sorted.
        cores: Logical cores that are online.
        usable_cores: Those this process may use (affinity).
        memory_bytes: Physical memory.
        kernel: System and release ("Linux 6.1.0").
        compiler: What built the native kernels ("" if they cannot be loaded).
        native_level: Which build of them is in use ("" if they cannot be loaded).
        python: Implementation and version.
        packages: Version of each package that tidemill and the systems installed rest on.
        code: Git commit, "+dirty.<hash>" if the code differs from it; "<version>.<hash of the
            package's files>" when this is no checkout.
        sources: Hash of the files that the figures of the measured system rest on
            (`sources.sources_of`); "" where nothing is measured.
        load_1min: Load average of the last minute, at start.
        foreign_cores: Cores kept busy by other processes (and by other virtual machines: steal)
            during 50 ms at start.
    """

    cpu: str
    cpu_flags: tuple[str, ...]
    cores: int
    memory_bytes: int
    kernel: str
    usable_cores: int = 0
    compiler: str = ""
    native_level: str = ""
    python: str = ""
    packages: dict[str, str] = field(default_factory=dict[str, str])
    code: str = ""
    sources: str = ""
    load_1min: float = 0.0
    foreign_cores: float = 0.0

    @classmethod
    def here(cls) -> Environment:
        """This machine, now. Costs 50 ms, and up to 500 ms the first time in a process."""
        meter = CpuMeter()
        found = _static()
        time.sleep(max(0.0, _LOAD_WINDOW_S - meter.seconds()))
        return replace(
            found,
            usable_cores=_usable_cores(),
            load_1min=round(_load_average(), 2),
            foreign_cores=round(meter.foreign_cores(), 2),
        )

    @property
    def machine_id(self) -> str:
        """Twelve hex digits that stay the same for the same CPU, cores and memory (in GiB)."""
        memory_gib = round(self.memory_bytes / 2**30)
        identity = [self.cpu, sorted(self.cpu_flags), self.cores, memory_gib]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]

    @property
    def machine(self) -> dict[str, Json]:
        """What a reader wants to know of the machine, without flags and packages."""
        return {
            "id": self.machine_id,
            "cpu": self.cpu,
            "cores": self.cores,
            "memory_bytes": self.memory_bytes,
            "kernel": self.kernel,
            "compiler": self.compiler,
            "native_level": self.native_level,
            "python": self.python,
        }

    def to_json(self) -> dict[str, Json]:
        """All fields as JSON."""
        return {**asdict(self), "cpu_flags": list(self.cpu_flags)}

    @classmethod
    def from_json(cls, values: Mapping[str, Json]) -> Environment:
        """The inverse of `to_json`; fields this version does not know are left out.

        Raises:
            InputError: A field without a default is missing.
        """
        known = {item.name for item in fields(cls)}
        given = cast(dict[str, Any], {name: v for name, v in values.items() if name in known})
        given["cpu_flags"] = tuple(given.get("cpu_flags", ()))
        try:
            return cls(**given)
        except TypeError as error:
            raise InputError(
                f"environment {sorted(values)} — not a stored environment: {error}."
            ) from error


class CpuMeter:
    """Tells how many cores others kept busy since it was made.

    Its own process and all descendants are not "others"; steal time of a virtual machine is.
    Resolution is the kernel's tick (10 ms) per core. Not thread-safe.
    """

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._busy_s = _busy_seconds()
        self._own_s = _own_seconds()

    def seconds(self) -> float:
        """How long it has been watching."""
        return time.monotonic() - self._started

    def foreign_cores(self) -> float:
        """Mean number of cores that other processes used since the meter was made."""
        foreign_s = (_busy_seconds() - self._busy_s) - (_own_seconds() - self._own_s)
        return max(0.0, foreign_s) / max(self.seconds(), 1e-3)


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    total = times.user + times.nice + times.system
    # guest time is part of user time already; these three exist on Linux only
    return total + sum(getattr(times, name, 0.0) for name in ("irq", "softirq", "steal"))


def _own_seconds() -> float:
    own = psutil.Process()
    total = 0.0
    for process in [own, *own.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.Error:  # it ended in between; its parent's child time has it then
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _load_average() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _static() -> Environment:
    model, flags = _cpu()
    level, compiler = _native_build()
    return Environment(
        cpu=model,
        cpu_flags=flags,
        cores=os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        kernel=f"{platform.system()} {platform.release()}",
        compiler=compiler,
        native_level=level,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        packages=_packages(),
        code=_code_id(Path(tidemill.__file__).parent),
    )


def _cpu() -> tuple[str, tuple[str, ...]]:
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    entries: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        entries.setdefault(name.strip().lower(), value.strip())
    arm = " ".join(
        f"{name} {entries[name]}" for name in ("cpu implementer", "cpu part") if name in entries
    )
    model = entries.get("model name") or arm or platform.processor() or platform.machine()
    return model, tuple(sorted((entries.get("flags") or entries.get("features") or "").split()))


def _native_build() -> tuple[str, str]:
    try:
        level = native.active_level()
        module = importlib.import_module(f"tidemill.native._{level}")
    except TidemillError:
        return "", ""
    return level, str(getattr(module, "compiler", ""))


def _packages() -> dict[str, str]:
    names = {"tidemill"}
    try:
        for text in importlib.metadata.requires("tidemill") or []:
            if "extra ==" not in text:
                names.update(re.findall(r"^[A-Za-z0-9._-]+", text))
    except importlib.metadata.PackageNotFoundError:
        return {}
    for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        if entry.dist is not None:
            names.add(entry.dist.name)
    versions: dict[str, str] = {}
    for name in sorted(names, key=str.lower):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _code_id(package: Path) -> str:
    return _git_id(package) or f"{tidemill.__version__}.{_files_hash(package)}"


def _git_id(package: Path) -> str:
    """The commit of the checkout that ``package`` is tracked in, or "" if there is none."""
    tracked = _git(package, "ls-files", "--error-unmatch", "__init__.py")
    commit = _git(package, "rev-parse", "HEAD")
    top = _git(package, "rev-parse", "--show-toplevel")
    if tracked is None or commit is None or top is None:
        return ""
    root = Path(top.decode().strip())
    changes = _git(root, "diff", "--binary", "HEAD", "--", *_CODE_PATHS) or b""
    new = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", *_CODE_PATHS) or b""
    name = commit.decode().strip()
    if not changes and not new:
        return name
    digest = hashlib.sha256(changes)
    for path in sorted(filter(None, new.decode(errors="surrogateescape").split("\0"))):
        digest.update(path.encode(errors="surrogateescape") + b"\0")
        if (root / path).is_file():
            digest.update((root / path).read_bytes())
    return f"{name}+dirty.{digest.hexdigest()[:8]}"


def _git(folder: Path, *words: str) -> bytes | None:
    # a hook's GIT_DIR would make git answer for another checkout
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            env=clean,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


def _files_hash(package: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        if path.is_file() and path.suffix in {".py", ".so", ".cpp", ".toml"}:
            digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
