"""What the paper claims and what is measured in its stead (how: accuracy, quality, speed)."""

from __future__ import annotations

from tidemill.bench import Claim, Direction, Text, Trial
from tidemill.systems.blockgtq import accuracy, decoding, footprint, quality, speed

__all__ = ["CLAIMS"]

_CUT = (
    "cutting per-layer MAE by 32-80% at 2 and 3 b/dim K-only quantization and winning all 367/367 "
    "layer comparisons against uniform TQ-MSE"
)
_MATCHED = "Under matched K/V bit budgets, Block-GTQ better preserves RoPE query-key logits"
_NEEDLES = "raises the six-task NIAH average from 70.6 to 97.4"
_CLOSE = "close to fp16's 54.2/37.9, whereas uniform TQ-MSE collapses to 0.0/0.0"
_GAINS = (
    "These fidelity gains translate to stronger downstream long-context retrieval, understanding, "
    "and reasoning"
)
_SMALLER = "packed K3V3 achieves 3.24x KV-cache compression with fp16-comparable quality"
_FASTER = "runs 1.34x faster than fp16 FlashAttention2 at 128K context"
_PEAK = "reduces peak memory from 56.31 GB to 19.85 GB"
_FITS = "remains feasible at 256K and 512K where fp16 OOMs"

LOGITS = Trial(
    name="logits",
    measure=accuracy.logits,
    summary=Text(
        "Per-layer error of attention logits, Block-GTQ against uniform TQ-MSE, on real models.",
        "真实模型逐层注意力 logit 误差:Block-GTQ 对比均匀 TQ-MSE。",
    ),
    quick_s=400,
    full_s=2400,
    memory_mib=8192,
)
PERPLEXITY = Trial(
    name="perplexity",
    measure=quality.perplexity,
    summary=Text(
        "KL divergence and perplexity of K2V2 and K3V3 caches without an fp16 window.",
        "无 fp16 窗口的 K2V2、K3V3 缓存的 KL 散度与困惑度。",
    ),
    quick_s=400,
    full_s=3600,
    memory_mib=10240,
)
RETRIEVAL = Trial(
    name="retrieval",
    measure=quality.retrieval,
    summary=Text(
        "Needles in WikiText-2: one fact, or one of four, asked for at K2V2.",
        "WikiText-2 大海捞针:单条或四选一事实,K2V2 缓存。",
    ),
    quick_s=400,
    full_s=5400,
    memory_mib=10240,
)
ATTENTION = Trial(
    name="attention",
    measure=speed.attention,
    summary=Text(
        "Packed decode attention races dense fp16, dense fp32 and torch, 8K to 128K tokens.",
        "打包解码注意力对比稠密 fp16、fp32 与 torch,8K 至 128K 词元。",
    ),
    quick_s=300,
    full_s=2400,
    memory_mib=20480,
)
COMPRESSION = Trial(
    name="compression",
    measure=decoding.compression,
    summary=Text("Bytes of a packed K3V3 cache against fp16.", "K3V3 打包缓存与 fp16 的字节数。"),
    quick_s=300,
    full_s=900,
    memory_mib=4096,
)
DECODING = Trial(
    name="decoding",
    measure=decoding.decoding,
    summary=Text(
        "Whole steps of a language model after a long prompt, packed cache against dense.",
        "语言模型长提示后的完整解码步:打包缓存对比稠密缓存。",
    ),
    quick_s=300,
    full_s=1800,
    memory_mib=8192,
)
MEMORY = Trial(
    name="memory",
    measure=footprint.memory,
    summary=Text(
        "A long context of all layers in processes of their own, free and under a memory limit.",
        "长上下文全部层置于独立进程,分别在不限与限制内存下运行。",
    ),
    quick_s=300,
    full_s=2400,
    memory_mib=16384,
)


def _cut(claim: str, bits: int, target: float, how: Text) -> Claim:
    return Claim(
        id=f"{claim}-cut-{bits}",
        quote=_CUT if claim == "mae" else _MATCHED,
        statement=Text(
            f"Cut of the mean per-layer logit error against uniform TQ-MSE at {bits} b/dim, "
            f"{how.en}: the model that gains least",
            f"{bits} b/dim 时逐层 logit 误差较均匀 TQ-MSE 的平均降幅,{how.zh}:取降幅最小的模型",
        ),
        unit="%",
        direction=Direction.AT_LEAST,
        target=target,
        paper_value="32-80 %" if claim == "mae" else "",
        trial=LOGITS,
    )


def _wins(claim: str, target: float, how: Text, paper_value: Text | str = "") -> Claim:
    return Claim(
        id=f"{claim}-wins",
        quote=_CUT if claim == "mae" else _MATCHED,
        statement=Text(
            f"Layers whose logit error is below uniform TQ-MSE's at 2 and 3 b/dim, {how.en}",
            f"2 与 3 b/dim 时 logit 误差低于均匀 TQ-MSE 的层所占比例,{how.zh}",
        ),
        unit="%",
        direction=Direction.AT_LEAST,
        target=target,
        paper_value=paper_value,
        trial=LOGITS,
    )


_CODES = Text("code bits equal, the paper's mode", "码字比特相等,论文模式")
_BYTES = Text("bytes equal, norms counted, compact mode", "字节数相等、计入范数,紧凑模式")


def _ratio(
    claim: str, quote: str, statement: Text, target: float, paper_value: Text | str = ""
) -> Claim:
    return Claim(
        id=claim,
        quote=quote,
        statement=statement,
        unit="x",
        direction=Direction.AT_MOST,
        target=target,
        paper_value=paper_value,
        trial=PERPLEXITY,
    )


def _faster(claim: str, statement: Text, target: float, paper_value: Text | str = "") -> Claim:
    return Claim(
        id=claim,
        quote=_FASTER,
        statement=statement,
        unit="x",
        direction=Direction.AT_LEAST,
        target=target,
        paper_value=paper_value,
        trial=ATTENTION,
    )


CLAIMS = (
    _cut("mae", 2, 32, _CODES),
    _cut("mae", 3, 32, _CODES),
    _wins("mae", 100, _CODES, Text("367 of 367", "367 层中的 367 层")),
    _cut("equal-bytes", 2, 30, _BYTES),
    _cut("equal-bytes", 3, 30, _BYTES),
    _wins("equal-bytes", 97.2, _BYTES),
    _ratio(
        "kl-k2v2",
        _CLOSE,
        Text(
            "KL divergence from the unquantised model at K2V2, compact with the mean key peeled, "
            "over that of uniform TQ-MSE",
            "K2V2 时与未量化模型的 KL 散度:紧凑模式减均值,相对均匀 TQ-MSE",
        ),
        0.5,
    ),
    _ratio(
        "kl-k2v2-paper",
        _CLOSE,
        Text(
            "KL divergence from the unquantised model at K2V2, the paper's mode, over that of "
            "uniform TQ-MSE",
            "K2V2 时与未量化模型的 KL 散度:论文模式,相对均匀 TQ-MSE",
        ),
        0.5,
    ),
    _ratio(
        "ppl-k3v3",
        _SMALLER,
        Text(
            "Perplexity at K3V3, compact with the mean key peeled, over the unquantised model's",
            "K3V3 困惑度(紧凑模式减均值)与未量化模型之比",
        ),
        1.05,
        Text("fp16-comparable", "与 fp16 相当"),
    ),
    _ratio(
        "kl-k3v3-q4",
        _GAINS,
        Text(
            "KL divergence at K3V3 (3.2 bits), compact with the mean key peeled, over that of "
            "llama.cpp's q4_0 (4.5 bits)",
            "K3V3(3.2 比特)紧凑模式减均值的 KL 散度与 llama.cpp q4_0(4.5 比特)之比",
        ),
        1.0,
    ),
    _ratio(
        "kl-k2v2-q4",
        _GAINS,
        Text(
            "KL divergence at K2V2 (2.2 bits), compact with the mean key peeled, over that of "
            "llama.cpp's q4_0 (4.5 bits)",
            "K2V2(2.2 比特)紧凑模式减均值的 KL 散度与 llama.cpp q4_0(4.5 比特)之比",
        ),
        1.0,
    ),
    Claim(
        id="needles-over-uniform",
        quote=_NEEDLES,
        statement=Text(
            "Needles found at K2V2, compact with the mean key peeled, over those that uniform "
            "TQ-MSE finds, in points of a hundred",
            "K2V2 大海捞针命中率:紧凑模式减均值,比均匀 TQ-MSE 高出的百分点",
        ),
        unit="points",
        direction=Direction.AT_LEAST,
        target=50,
        paper_value=Text("26.8 points", "26.8 个百分点"),
        trial=RETRIEVAL,
    ),
    Claim(
        id="needles-kept",
        quote=_NEEDLES,
        statement=Text(
            "Needles found at K2V2, compact with the mean key peeled, over those of the "
            "unquantised model, in points of a hundred",
            "K2V2 大海捞针命中率:紧凑模式减均值,与未量化模型相差的百分点",
        ),
        unit="points",
        direction=Direction.AT_LEAST,
        target=-10,
        trial=RETRIEVAL,
    ),
    Claim(
        id="compression",
        quote=_SMALLER,
        statement=Text(
            "Bytes of an fp16 cache over those of a packed K3V3 one, norms and open tiles counted, "
            "heads of 64 dimensions",
            "fp16 缓存与 K3V3 打包缓存的字节数之比,计入范数与未满块,头维度 64",
        ),
        unit="x",
        direction=Direction.AT_LEAST,
        target=4.2,
        paper_value="3.24x",
        trial=COMPRESSION,
    ),
    Claim(
        id="compression-wide",
        quote=_SMALLER,
        statement=Text(
            "The same for a whole decoder whose heads have 256 dimensions (Gemma 3 270M)",
            "同上,头维度 256 的完整解码器(Gemma 3 270M)",
        ),
        unit="x",
        direction=Direction.AT_LEAST,
        target=4.8,
        paper_value="3.24x",
        trial=COMPRESSION,
    ),
    Claim(
        id="decode",
        quote=_FASTER,
        statement=Text(
            "Tokens per second of a whole decoder with the packed K3V3 cache against the dense "
            "fp16 one, after 8,192 tokens at full budget",
            "完整解码器每秒词元数:K3V3 打包缓存对比稠密 fp16 缓存,完整预算下已有 8,192 词元",
        ),
        unit="x",
        direction=Direction.AT_LEAST,
        target=1.0,
        trial=DECODING,
    ),
    _faster(
        "attention-half",
        Text(
            "Packed decode attention against our own dense fp16 kernel at the longest context "
            "(128K at full budget), seven query heads to a KV head, two threads",
            "最长上下文(完整预算 128K)打包注意力对比自研稠密 fp16 内核,七查询头共一 KV 头,两线程",
        ),
        1.34,
        Text("1.34x on a GPU", "GPU 上 1.34 倍"),
    ),
    _faster(
        "attention-float",
        Text(
            "Packed decode attention against our own dense fp32 kernel, otherwise the same",
            "打包解码注意力对比自研稠密 fp32 内核,其余相同",
        ),
        1.5,
    ),
    _faster(
        "attention-torch",
        Text(
            "Packed decode attention against torch's fastest form in fp32, otherwise the same",
            "打包解码注意力对比 torch 最快的 fp32 形式,其余相同",
        ),
        3.0,
    ),
    Claim(
        id="peak-memory",
        quote=_PEAK,
        statement=Text(
            "Growth of peak memory of a process that holds an fp16 cache over that of one that "
            "holds a packed K3V3 one: 256K tokens of Qwen2.5-0.5B's shapes at full budget",
            "持有 fp16 缓存的进程与持有 K3V3 打包缓存的进程峰值内存增长之比:完整预算 256K 词元",
        ),
        unit="x",
        direction=Direction.AT_LEAST,
        target=2.8,
        paper_value="2.84x",
        trial=MEMORY,
    ),
    Claim(
        id="fits-where-dense-fails",
        quote=_FITS,
        statement=Text(
            "Under a limit on address space the packed cache takes a step and the fp16 one cannot "
            "be allocated (1 is: so it is)",
            "限制地址空间时打包缓存可完成一步解码而 fp16 缓存无法分配(1 即成立)",
        ),
        unit="of 1",
        direction=Direction.AT_LEAST,
        target=1,
        trial=MEMORY,
    ),
)
