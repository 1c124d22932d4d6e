"""A Linux program in a KVM guest of its own: boot, run to its ready point, snapshot, clone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np

from tidemill import native
from tidemill.errors import ConfigError, InputError, ProtocolError, ResourceError
from tidemill.systems.aquifer.capability import kvm_failed, require_kvm
from tidemill.systems.aquifer.config import GuestLimits, canonical_roots, memory_bytes
from tidemill.systems.aquifer.snapshot import PAGE, GuestRegion, MachineState, Snapshot

GUEST_FOLDER = Path(__file__).parent / "guest"
SYSTEM_ROOTS = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime")
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
_SHOWN_OUTPUT = 2000


class GuestFailed(ProtocolError):
    """The guest ended, or did what ends it; the text says why. The host is unharmed."""


class GuestTimeout(ResourceError):
    """The guest used more time than its limits allow; it was stopped."""


@cache
def _kernels() -> Any:
    return native.kernels("aquifer")


class MicroVM:
    """One guest. Close it, or use it as a context manager; one thread at a time may run it.

    The program is unmodified: a static or dynamic x86-64 ELF file with one thread. It reads files
    below ``roots`` (by default the system's libraries, and the files named in the command), writes
    none, and has no network, no ``fork`` and no ``exec``. It reads requests from descriptor 1000
    (each ends with a read of 0 bytes) and writes answers to 1001; `tidemill_guest.serve` does both.

    Args:
        command: program and arguments.
        memory: the guest's whole memory, as ``"256M"`` or bytes.
        roots: folders and files that it may read besides those of the default.
        environment: added to, or instead of, the variables of the default.
        limits: what each run may use.

    Raises:
        MissingCapability: there is no usable KVM here.
        ConfigError: a value out of range; InputError: the program cannot be loaded.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        memory: str | int = "256M",
        roots: Sequence[str | Path] = (),
        environment: Mapping[str, str] | None = None,
        limits: GuestLimits | None = None,
    ) -> None:
        arguments = [str(part) for part in command]
        size = memory_bytes(memory)
        program = _program(arguments)
        files = [part for part in arguments if _is_file(part)]
        system = [root for root in SYSTEM_ROOTS if Path(root).exists()]
        allowed = canonical_roots((*system, GUEST_FOLDER, program, *files, *roots))
        guest_memory = _kernels().GuestMemory.anonymous(size, False)
        self._set_up(guest_memory, allowed, limits or GuestLimits())
        variables = {**ENVIRONMENT, **(environment or {})}
        python_path = [str(GUEST_FOLDER), *filter(None, [variables.get("PYTHONPATH")])]
        variables["PYTHONPATH"] = ":".join(python_path)
        pairs = [f"{name}={value}" for name, value in variables.items()]
        try:
            self._machine.start(program, arguments, pairs, str(Path.cwd()))
        except ValueError as error:
            self.close()
            raise InputError(f"cannot start {arguments[0]}: {error}") from error

    def _set_up(self, memory: Any, roots: list[str], limits: GuestLimits) -> None:
        require_kvm()
        self.limits = limits
        self._roots = roots
        self._memory = memory
        self._is_waiting = False
        self._closing: list[Callable[[], object]] = []
        try:
            self._machine = _kernels().Machine(memory, roots, limits.descriptors)
        except OSError as error:
            raise kvm_failed(error) from error

    @classmethod
    def restore(
        cls,
        snapshot: Snapshot | MachineState,
        *,
        fill: Callable[[GuestRegion], object] | None = None,
        supply: Callable[[GuestRegion], object] | None = None,
        memory_file: str | Path | None = None,
        roots: Sequence[str | Path] | None = None,
        limits: GuestLimits | None = None,
    ) -> MicroVM:
        """A clone at the snapshot's ready point; at most one source of its memory may be given.

        Args:
            snapshot: its state is always used, its pages only if no source is given; a
                `MachineState` has none.
            fill: writes the pages into anonymous memory before the guest goes on.
            supply: registers the memory, for instance with userfaultfd, and gives each page when
                it is touched. The guest's pages are never dropped, so none is asked for twice.
            memory_file: a file as `Snapshot.write_memory` writes; mapped privately, page by page.
            roots: what the clone may read instead of the snapshot's roots.
            limits: what each run may use instead of the snapshot's limits.

        Raises:
            MissingCapability: no usable KVM, or not this snapshot's processor.
            InputError: the state is damaged, or a file that it had open is not what it was.
        """
        if sum(source is not None for source in (fill, supply, memory_file)) > 1:
            raise ConfigError("give at most one of fill, supply and memory_file")
        if isinstance(snapshot, Snapshot):
            fill, snapshot = fill or snapshot.fill, snapshot.machine
        memory = _memory_of(snapshot, supply is not None, memory_file)
        allowed = canonical_roots(tuple(snapshot.roots if roots is None else roots))
        clone = cls.__new__(cls)
        clone._set_up(memory, allowed, limits or snapshot.limits)
        try:
            if supply is not None:
                supply(clone.region)
            elif memory_file is None and fill is not None:
                fill(clone.region)
        except BaseException:
            clone.close()
            raise
        try:
            clone._machine.restore(snapshot.state)
        except ValueError as error:
            clone.close()
            raise InputError(f"this snapshot cannot be restored here: {error}") from error
        except OSError as error:
            clone.close()
            raise kvm_failed(error) from error
        clone._is_waiting = True
        return clone

    @property
    def region(self) -> GuestRegion:
        """The guest's memory in this process."""
        return GuestRegion.of(self._open_memory())

    @property
    def warnings(self) -> list[str]:
        """What the guest tried and was not given, each once."""
        return self._machine.warnings

    @property
    def output(self) -> bytes:
        """What it wrote to stdout, at most 1 MiB."""
        return self._machine.output(1)

    @property
    def error_output(self) -> bytes:
        """What it wrote to stderr, at most 1 MiB."""
        return self._machine.output(2)

    @property
    def counters(self) -> dict[str, float]:
        """Exits of the virtual processor, system calls, and processor seconds so far."""
        machine = self._machine
        return {"exits": machine.exits, "syscalls": machine.syscalls, "cpu_s": machine.cpu_s}

    def run_to_ready(self) -> Self:
        """Run until the guest first waits for a request.

        Raises:
            GuestFailed: it ended instead; GuestTimeout: it took too long.
        """
        if not self._is_waiting:
            self._run("get ready")
        return self

    def run_to_exit(self) -> int:
        """Run a program that takes no requests to its end; its exit code.

        Raises:
            GuestFailed: it was killed, or waits for a request; GuestTimeout: it took too long.
        """
        end = self._step()
        if end == "exited":
            return self._machine.code
        raise self._failure("exit", end)

    def invoke(self, request: bytes) -> bytes:
        """Hand one request to the guest; its answer.

        Raises:
            GuestFailed: it ended instead of answering; GuestTimeout: it took too long.
            InputError: the request is over 64 MiB.
        """
        self.run_to_ready()
        try:
            self._machine.request(request)
        except ValueError as error:
            raise InputError(str(error)) from error
        self._run("answer")
        return self._machine.answer()

    def interrupt(self) -> None:
        """End the run that is under way in another thread: it raises `GuestFailed` there."""
        self._machine.interrupt()

    def snapshot(self) -> Snapshot:
        """The guest as it waits for a request; it can go on afterwards.

        Raises:
            GuestFailed: it does not get ready.
        """
        self.run_to_ready()
        memory = self._open_memory()
        nonzero = np.zeros(memory.size // PAGE, np.uint8)
        memory.find_nonzero(nonzero)
        pages = memory.view().reshape(-1, PAGE)[nonzero.astype(bool)]
        return Snapshot(self._machine.save(), nonzero, pages, tuple(self._roots), self.limits)

    @property
    def kill_switch(self) -> Any:
        """Ends this guest from any thread, as `FaultHandler.guard` does when a page is lost."""
        return self._machine.kill_switch

    def on_close(self, callback: Callable[[], object]) -> None:
        """Have something called after the machine and its memory were given back."""
        self._closing.append(callback)

    def close(self) -> None:
        """Give everything back: the virtual machine, its memory, its open files."""
        self._machine = _Closed()
        self._memory = None
        while self._closing:
            self._closing.pop()()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_memory(self) -> Any:
        if self._memory is None:
            raise _closed()
        return self._memory

    def _step(self) -> str:
        self._is_waiting = False
        try:
            end = self._machine.run(self.limits.cpu_s, self.limits.wall_s)
        except RuntimeError as error:
            raise ResourceError(str(error)) from error
        self._is_waiting = end == "waiting"
        return end

    def _run(self, purpose: str) -> None:
        end = self._step()
        if end != "waiting":
            raise self._failure(purpose, end)

    def _failure(self, purpose: str, end: str) -> Exception:
        machine = self._machine
        why = {
            "exited": f"it exited with code {machine.code}",
            "waiting": "it waits for a request",
            "interrupted": "it was interrupted",
        }.get(end, machine.message)
        said = self.error_output[-_SHOWN_OUTPUT:].decode(errors="replace").strip()
        text = f"the guest did not {purpose}: {why}" + (f"\nits stderr: {said}" if said else "")
        if end == "timeout":
            limits = f"limits: {self.limits.cpu_s:g} s of processor, {self.limits.wall_s:g} s"
            return GuestTimeout(f"{text} ({limits})")
        return GuestFailed(text)


class _Closed:
    """Stands for the machine of a closed VM."""

    def __getattr__(self, name: str) -> Any:
        raise _closed()


def _closed() -> InputError:
    return InputError("this virtual machine was closed")


def _is_file(text: str) -> bool:
    """Whether an argument names a file; program text given as one does not."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def _program(arguments: list[str]) -> str:
    """The absolute path of the program to run."""
    if not arguments:
        raise ConfigError.of("command", arguments, "a program and its arguments")
    path = shutil.which(arguments[0]) if "/" not in arguments[0] else arguments[0]
    if path is None or not _is_file(path):
        raise InputError(f"there is no program {arguments[0]!r}; give the path of an ELF file")
    return str(Path(path).resolve())


def _memory_of(snapshot: MachineState, is_supplied: bool, memory_file: str | Path | None) -> Any:
    kind = _kernels().GuestMemory
    if memory_file is None:
        return kind.anonymous(snapshot.memory_bytes, is_supplied)
    try:
        with Path(memory_file).open("rb") as file:
            return kind.file(file.fileno(), 0, snapshot.memory_bytes)
    except (OSError, ValueError) as error:
        raise InputError(f"{memory_file}: {error}") from error
