"""Settings of one run: how many bits, how norms are kept, on which tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from tidemill.errors import ConfigError

VALUE_BITS = (1, 2, 3, 4, 8)
KEY_BITS = (1.0, 8.0)


class Mode(StrEnum):
    """How a plan spends its bits."""

    PAPER = "paper"
    """Gaussian codebooks, fp16 norms on top of the budget: the paper's own accounting."""
    COMPACT = "compact"
    """Sphere codebooks, 8-bit logarithmic norms, and the norms are part of the budget."""
    UNIFORM = "uniform"
    """TQ-MSE, the baseline: one width for all blocks, one fp16 norm, Gaussian codebooks."""


def check_bits(k_bits: float, v_bits: int) -> None:
    """Refuse bit widths that no plan can have.

    Raises:
        ConfigError: Names the field, its value and what is allowed.
    """
    if not KEY_BITS[0] <= k_bits <= KEY_BITS[1]:
        raise ConfigError.of("k_bits", k_bits, "in [1, 8]", "bits per dimension of a key")
    if v_bits not in VALUE_BITS:
        raise ConfigError.of("v_bits", v_bits, "in 1-4 or 8", "bits per dimension of a value")


def check_windows(sink: int, recent: int) -> None:
    """Refuse windows of dense tokens that make no sense.

    Raises:
        ConfigError: Names the field, its value and what is allowed.
    """
    if not 0 <= sink <= 1024:
        raise ConfigError.of("sink", sink, "in 0-1024", "first tokens that stay dense")
    if not 0 <= recent <= 65536:
        raise ConfigError.of("recent", recent, "in 0-65536", "last tokens that stay dense")


def _help(english: str, chinese: str) -> dict[str, str]:
    return {"help": english, "help_zh": chinese}


@dataclass(frozen=True, slots=True)
class BlockGTQConfig:
    """One layer's captured keys and values through calibration, packing and attention."""

    k_bits: float = field(
        default=3.0, metadata=_help("Bits per dimension of a key, 1-8.", "键每维比特数,1–8。")
    )
    v_bits: int = field(
        default=3,
        metadata=_help("Bits per dimension of a value, 1-4 or 8.", "值每维比特数,1–4 或 8。"),
    )
    mode: Mode = field(
        default=Mode.COMPACT,
        metadata=_help("paper, compact or uniform.", "比特分配:paper、compact 或 uniform。"),
    )
    mean_peel: bool = field(
        default=True,
        metadata=_help("Take the mean key off first (compact).", "先减去键均值(compact)。"),
    )
    sink: int = field(default=0, metadata=_help("First tokens kept dense.", "起始稠密词元数。"))
    recent: int = field(default=0, metadata=_help("Last tokens kept dense.", "末尾稠密词元数。"))
    tokens: int = field(
        default=4096,
        metadata=_help("Tokens attended to, the capture repeated.", "参与注意力的词元数。"),
    )
    seed: int = field(
        default=0, metadata=_help("Seed of the offsets of logit errors.", "误差偏移的随机种子。")
    )
    threads: int = field(default=2, metadata=_help("Threads that attend.", "注意力计算的线程数。"))

    def __post_init__(self) -> None:
        check_bits(self.k_bits, self.v_bits)
        check_windows(self.sink, self.recent)
        if not 64 <= self.tokens <= 1 << 20:
            raise ConfigError.of("tokens", self.tokens, "in 64-1,048,576")
        if not 1 <= self.threads <= 1024:
            raise ConfigError.of("threads", self.threads, "in 1-1024")
