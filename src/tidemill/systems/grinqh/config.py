"""Settings of one run: how many bits, chosen how, on which tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

from tidemill.errors import ConfigError
from tidemill.systems.grinqh.selection import Mode

BITS = (0.5, 6.0)


@dataclass(frozen=True, slots=True)
class GrinqhConfig:
    """One real matrix, graded, multiplied with the inputs of real tokens."""

    decode_bits: float = field(
        default=2.5,
        metadata={
            "help": "Average code bits per weight that a token reads, 0.5-6.",
            "help_zh": "每个词元读取的平均每权重码字比特数,0.5–6。",
        },
    )
    mode: Mode = field(
        default=Mode.BUDGET,
        metadata={
            "help": "What keeps that average: budget, threshold or proportion.",
            "help_zh": "保持该平均值的方式:budget、threshold 或 proportion。",
        },
    )
    block: int = field(
        default=1,
        metadata={
            "help": "Neighbouring channels that share a level: 1, 2, 4, 8, 16 or 32.",
            "help_zh": "共用一个等级的相邻通道数:1、2、4、8、16 或 32。",
        },
    )
    outlier: float = field(
        default=3.0,
        metadata={
            "help": "Weights beyond so many standard deviations are kept exactly, 2-8.",
            "help_zh": "超过多少个标准差的权重保持精确,2–8。",
        },
    )
    tokens: int = field(
        default=96,
        metadata={
            "help": "Tokens of test text that the matrix is multiplied with, 8-96.",
            "help_zh": "与矩阵相乘的测试文本词元数,8–96。",
        },
    )
    threads: int = field(
        default=2,
        metadata={"help": "Threads that multiply.", "help_zh": "参与乘法的线程数。"},
    )

    def __post_init__(self) -> None:
        if not BITS[0] <= self.decode_bits <= BITS[1]:
            raise ConfigError.of("decode_bits", self.decode_bits, "in [0.5, 6]", "bits per weight")
        if self.block not in (1, 2, 4, 8, 16, 32):
            raise ConfigError.of("block", self.block, "1, 2, 4, 8, 16 or 32")
        if not 2.0 <= self.outlier <= 8.0:
            raise ConfigError.of("outlier", self.outlier, "in [2, 8]", "standard deviations")
        if not 8 <= self.tokens <= 96:
            raise ConfigError.of("tokens", self.tokens, "in [8, 96]")
        if not 1 <= self.threads <= 256:
            raise ConfigError.of("threads", self.threads, "in [1, 256]")
