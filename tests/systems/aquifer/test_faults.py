"""Damaged programs and snapshots, and hosts without KVM: a clear error each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.errors import ConfigError, InputError, MissingCapability
from tidemill.systems.aquifer import (
    GuestFailed,
    GuestLimits,
    GuestTimeout,
    MicroVM,
    Snapshot,
    capability,
)

from .c_guests import BuildC, compile_guest

ECHO = """
int main() {
  static char b[1 << 16]; int n, all;
  for (;;) {
    all = 0;
    while ((n = read(1000, b + all, sizeof b - all)) > 0) all += n;
    write(1001, b, all);
  }
}"""


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "truncated"),
        (b"#!/bin/sh\n" + bytes(100), "not an ELF"),
        (b"\x7fELF\x01" + bytes(100), "not an x86-64 program"),
        (b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\0\x3e\0" + bytes(60), "program headers"),
    ],
)
def test_what_is_no_program_is_refused(
    kvm: None, tmp_path: Path, content: bytes, error: str
) -> None:
    path = tmp_path / "program"
    path.write_bytes(content)
    with pytest.raises(InputError, match=error):
        MicroVM([path])


def test_a_cut_or_altered_program_is_refused_or_ends(build_c: BuildC) -> None:
    program = build_c("int main() { return 0; }")
    whole = program.read_bytes()
    generator = np.random.default_rng(7)
    for _ in range(40):
        altered = bytearray(whole[: int(generator.integers(64, len(whole)))])
        for at in generator.integers(16, min(len(altered), 600), 4):
            altered[at] = int(generator.integers(256))
        program.write_bytes(altered)
        try:
            with MicroVM([program], memory="8M", limits=GuestLimits(cpu_s=0.1)) as vm:
                vm.run_to_exit()
        except (InputError, GuestFailed, GuestTimeout):
            pass


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    try:
        capability.require_kvm()
    except MissingCapability as error:
        pytest.skip(str(error))
    program = compile_guest(tmp_path_factory.mktemp("echo"), ECHO, "-static")
    with MicroVM([program], memory="16M") as vm:
        assert vm.invoke(b"first") == b"first"
        return vm.snapshot()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_damaged_state_is_refused(echo: Snapshot, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(echo.state) - 1))
    bit = data.draw(st.integers(0, 7))
    state = bytearray(echo.state)
    state[at] ^= 1 << bit
    cut = data.draw(st.integers(0, len(state)))
    for damaged in (bytes(state), bytes(echo.state[:cut]) if cut < len(state) else b""):
        with pytest.raises(InputError, match="cannot be restored"):
            MicroVM.restore(replace(echo, state=damaged))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_forged_state_with_a_right_checksum_harms_nobody(
    echo: Snapshot, data: st.DataObject
) -> None:
    from tidemill import native

    kernels = native.kernels("aquifer")
    state = bytearray(echo.state)
    for at in data.draw(st.lists(st.integers(8, len(state) - 1), min_size=1, max_size=4)):
        state[at] ^= data.draw(st.integers(1, 255))
    state[4:8] = kernels.crc32c(np.frombuffer(bytes(state[8:]), np.uint8)).to_bytes(4, "little")
    forged = replace(echo, state=bytes(state), limits=GuestLimits(cpu_s=0.2, wall_s=0.5))
    try:
        with MicroVM.restore(forged) as clone:
            clone.invoke(b"x" * 100)
    except (InputError, MissingCapability, GuestFailed, GuestTimeout):
        pass


def test_a_state_of_another_memory_size_or_a_short_file_is_refused(
    echo: Snapshot, tmp_path: Path
) -> None:
    bigger = replace(echo, nonzero=np.append(echo.nonzero, np.zeros(512, np.uint8)))
    with pytest.raises(InputError, match="another amount of memory"):
        MicroVM.restore(bigger)
    short = tmp_path / "short"
    short.write_bytes(bytes(4096))
    with pytest.raises(InputError, match="shorter than the guest's memory"):
        MicroVM.restore(echo, memory_file=short)
    with pytest.raises(ConfigError, match="at most one"):
        MicroVM.restore(echo, memory_file=short, fill=echo.fill)


def test_a_file_that_changed_under_a_snapshot_is_noticed(build_c: BuildC, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("before")
    program = build_c("""
int main(int c, char **v) { char b[8]; open(v[1], O_RDONLY); while (read(1000, b, 8) >= 0); }""")
    with MicroVM([program, text], memory="16M") as vm:
        snapshot = vm.snapshot()
    text.write_text("after!!")
    with pytest.raises(InputError, match="was changed since the snapshot"):
        MicroVM.restore(snapshot)
    text.unlink()
    with pytest.raises(ConfigError, match="exist"):
        MicroVM.restore(snapshot)


def test_a_clone_reads_only_what_the_host_allows_it(build_c: BuildC, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("text")
    program = build_c("""
int main(int c, char **v) { char b[8]; open(v[1], O_RDONLY); while (read(1000, b, 8) >= 0); }""")
    with MicroVM([program, text], memory="16M") as vm:
        snapshot = vm.snapshot()
    with pytest.raises(InputError, match="Permission denied"):
        MicroVM.restore(snapshot, roots=["/usr"])


def test_without_kvm_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capability, "KVM", str(tmp_path / "kvm"))
    with pytest.raises(MissingCapability, match="modprobe kvm_intel"):
        capability.require_kvm()
    text = str(capability._missing(PermissionError(13, "Permission denied")))
    assert "usermod -aG kvm" in text


@pytest.mark.parametrize("value", ["", "256X", "-1M", 3, "7M", "9M", "4G"])
def test_memory_out_of_range_is_named(value: str | int) -> None:
    with pytest.raises(ConfigError, match="memory="):
        MicroVM(["/bin/true"], memory=value)


@pytest.mark.parametrize("root", ["/", "/proc", "/sys/kernel", "/dev", "/not/there"])
def test_roots_that_give_the_host_away_are_refused(root: str) -> None:
    with pytest.raises(ConfigError, match="roots="):
        MicroVM(["/bin/true"], roots=[root])


def test_limits_out_of_range_are_named() -> None:
    with pytest.raises(ConfigError, match="cpu_s="):
        GuestLimits(cpu_s=0)
    with pytest.raises(ConfigError, match="descriptors="):
        GuestLimits(descriptors=1001)


def test_a_closed_machine_says_so(kvm: None, echo: Snapshot) -> None:
    clone = MicroVM.restore(echo)
    clone.close()
    with pytest.raises(InputError, match="closed"):
        clone.invoke(b"")
