"""The processor features that a snapshot was taken with, as bits of one number."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tidemill.errors import MissingCapability

FEATURES = (
    *("pni", "ssse3", "fma", "cx16", "sse4_1", "sse4_2", "movbe", "popcnt", "aes", "xsave"),
    *("avx", "f16c", "rdrand", "fsgsbase", "bmi1", "avx2", "bmi2", "erms", "avx512f"),
    *("avx512dq", "rdseed", "adx", "avx512ifma", "clflushopt", "clwb", "avx512cd", "sha_ni"),
    *("avx512bw", "avx512vl", "avx512vbmi", "avx512_vbmi2", "gfni", "vaes", "vpclmulqdq"),
    *("avx512_vnni", "avx512_bitalg", "avx512_vpopcntdq", "rdpid", "abm", "avx512_bf16"),
    *("avx_vnni", "avx512_fp16"),
)
"""Linux's names; a feature's place is its bit, and new ones are appended."""


@cache
def features_here() -> int:
    """The features of this host's processor."""
    lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    return sum(1 << bit for bit, name in enumerate(FEATURES) if name in flags)


def names_of(features: int) -> list[str]:
    """The names of the bits set; those of a newer version are numbered."""
    known = [name for bit, name in enumerate(FEATURES) if features >> bit & 1]
    return known + [f"bit {bit}" for bit in range(len(FEATURES), 64) if features >> bit & 1]


def require_features(features: int, name: str) -> None:
    """Return if a guest that uses these features can run here.

    Raises:
        MissingCapability: this processor lacks some; names them.
    """
    if missing := features & ~features_here():
        raise MissingCapability(
            f"{name} — its guest may use {', '.join(names_of(missing))}, which this processor "
            "lacks; must run where they are; take the snapshot on the oldest host of the pool."
        )
