"""What a microVM gets and may do, and the settings of one run."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from tidemill.errors import ConfigError

MIB = 1 << 20
LEAST_MIB, MOST_MIB = 8, 3072
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
FUNCTION_NAMES = (
    "json_document",
    "html_page",
    "compression",
    "regex_log",
    "graph_paths",
    "aes_cipher",
    "sqlite_query",
    "matmul",
    "linpack",
    "image_filter",
    "lr_serving",
    "mlp_serving",
    "fft_spectrum",
)
"""Functions that are shipped."""
OTHER_WAYS = (
    "firecracker-warm",
    "uffd-remote",
    "reap",
    "reap-pool",
    "faasnap",
    "pool-map",
    "aquifer-4k",
)
"""Ways to restore besides ours and Firecracker's; the last is ours without huge pages."""
DENSE_PAGES = 48
"""Touched pages that make a block of 512 dense: a huge page is cheaper than so many faults."""
_FORBIDDEN_ROOTS = ("/proc", "/sys", "/dev")


def memory_bytes(memory: str | int) -> int:
    """Bytes of a size such as ``"256M"``; a number is taken as bytes.

    Raises:
        ConfigError: not a size, or not 8 MiB to 3 GiB in steps of 2 MiB.
    """
    size = memory
    if isinstance(size, str):
        found = re.fullmatch(r"(\d{1,12})([KMG]?)(?:iB|B)?", size.strip())
        size = int(found[1]) * _UNITS.get(found[2], 1) if found else -1
    if not (LEAST_MIB * MIB <= size <= MOST_MIB * MIB and size % (2 * MIB) == 0):
        raise ConfigError.of(
            "memory", memory, "8M to 3G in steps of 2M", "it is the guest's whole physical memory"
        )
    return size


@dataclass(frozen=True, slots=True)
class GuestLimits:
    """What one run of a guest, its boot or one request, may use.

    Attributes:
        cpu_s: processor time in seconds.
        wall_s: elapsed time in seconds, sleep included.
        descriptors: open files.
    """

    cpu_s: float = 30.0
    wall_s: float = 60.0
    descriptors: int = 256

    def __post_init__(self) -> None:
        for name, value in (("cpu_s", self.cpu_s), ("wall_s", self.wall_s)):
            if not 0 < value <= 86_400:
                raise ConfigError.of(name, value, "in (0, 86400]", "seconds of one run")
        if not 8 <= self.descriptors <= 900:
            raise ConfigError.of(
                "descriptors", self.descriptors, "in 8-900", "1000 to 1002 are the channel's"
            )


def canonical_roots(roots: tuple[str | Path, ...]) -> list[str]:
    """The real paths of the folders and files that a guest may read.

    Raises:
        ConfigError: one is not there, or is `/` or a folder of the kernel's own files.
    """
    found: list[str] = []
    for root in roots:
        real = Path(root).resolve()
        if not real.exists():
            raise ConfigError.of("roots", str(root), "folders and files that exist")
        if real == Path("/") or any(real.is_relative_to(kernel) for kernel in _FORBIDDEN_ROOTS):
            raise ConfigError.of(
                "roots", str(root), "below /, and not in /proc, /sys or /dev", "a guest reads there"
            )
        found.append(str(real))
    return sorted(set(found))


@dataclass(frozen=True, slots=True)
class AquiferConfig:
    """One function, published to the pool and restored from it."""

    function: str = field(
        default="json_document",
        metadata={
            "help": "The function that the guest serves.",
            "help_zh": "客户机所运行的函数。",
            "web_choices": FUNCTION_NAMES,
        },
    )
    against: str = field(
        default="reap-pool",
        metadata={
            "help": "A further way to restore, beside a cold file.",
            "help_zh": "除冷文件外另一种对照的恢复方式。",
            "web_choices": OTHER_WAYS,
        },
    )
    restores: int = field(
        default=5,
        metadata={"help": "Restores of each way, 1-100.", "help_zh": "每种方式恢复的次数,1–100。"},
    )
    hot_threshold: float = field(
        default=0.5,
        metadata={
            "help": "Share of the recordings that touch a page if it is hot, in (0, 1].",
            "help_zh": "热页须在多大比例的记录中被访问,(0, 1]。",
        },
    )
    dense_pages: int = field(
        default=DENSE_PAGES,
        metadata={
            "help": "Touched pages that get a block of 512 a huge page; 0: none gets one.",
            "help_zh": "512 页的块中有多少页被访问时改用大页;0 表示不用大页。",
        },
    )

    def __post_init__(self) -> None:
        if self.function not in FUNCTION_NAMES:
            raise ConfigError.of("function", self.function, f"one of {', '.join(FUNCTION_NAMES)}")
        if self.against not in OTHER_WAYS:
            raise ConfigError.of("against", self.against, f"one of {', '.join(OTHER_WAYS)}")
        if not 1 <= self.restores <= 100:
            raise ConfigError.of("restores", self.restores, "in 1-100", "of each way")
        if not 0 <= self.dense_pages <= 512:
            raise ConfigError.of("dense_pages", self.dense_pages, "in 0-512", "pages of a block")
        if not 0 < self.hot_threshold <= 1:
            raise ConfigError.of(
                "hot_threshold", self.hot_threshold, "in (0, 1]", "share of the recordings"
            )
