"""What the paper claims and what is measured in its stead (how: accuracy, quality, speed)."""

from __future__ import annotations

from dataclasses import replace

from tidemill.bench import Claim, Direction, Text, Trial
from tidemill.systems.blockgtq import accuracy, decoding, footprint, quality, speed

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
_ON_GPU = Text("1.34x on a GPU", "GPU 上 1.34 倍")

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
        "KL divergence, perplexity and greedy texts of 2-3 bit caches without an fp16 window.",
        "无 fp16 窗口的 2–3 比特缓存的 KL 散度、困惑度与贪心续写。",
    ),
    quick_s=400,
    full_s=3600,
    memory_mib=10240,
)
RETRIEVAL = Trial(
    name="retrieval",
    measure=quality.retrieval,
    summary=Text(
        "Needles in WikiText-2 at K2V2: the only one of its kind, one of four, both of a key.",
        "WikiText-2 大海捞针(K2V2 缓存):同类唯一、四选一、一键两值。",
    ),
    quick_s=400,
    full_s=5400,
    memory_mib=10240,
)
SECOND = Trial(
    name="second",
    measure=quality.second,
    summary=Text(
        "The same perplexities and needles on SmolLM2-135M, whose keys have no biases.",
        "在键无偏置的 SmolLM2-135M 上重复困惑度与大海捞针。",
    ),
    quick_s=None,
    full_s=5400,
    memory_mib=10240,
)
ATTENTION = Trial(
    name="attention",
    measure=speed.attention,
    summary=Text(
        "Packed decode attention races dense fp16, dense fp32 and torch, 8K to 256K tokens.",
        "打包解码注意力对比稠密 fp16、fp32 与 torch,8K 至 256K 词元。",
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
AGAINST_LLAMA = Trial(
    name="against-llama",
    measure=decoding.against_llama,
    summary=Text(
        "The same against llama.cpp with its own quantised caches and flash attention.",
        "同上,对比使用自带量化缓存与 flash attention 的 llama.cpp。",
    ),
    quick_s=None,
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


def _least(
    trial: Trial,
    claim: str,
    quote: str,
    statement: Text,
    target: float,
    *,
    unit: str = "x",
    paper: Text | str = "",
) -> Claim:
    """A figure that must be no less than ``target``."""
    return Claim(
        id=claim,
        quote=quote,
        statement=statement,
        unit=unit,
        direction=Direction.AT_LEAST,
        target=target,
        paper_value=paper,
        trial=trial,
    )


def _cuts(claim: str, quote: str, targets: tuple[float, float], how: Text) -> tuple[Claim, ...]:
    """Of the logit error against uniform TQ-MSE: means at two and three bits, layers won."""
    paper = quote == _CUT
    means = [
        _least(
            LOGITS,
            f"{claim}-cut-{bits}",
            quote,
            Text(
                f"Cut of the mean per-layer logit error against uniform TQ-MSE at {bits} b/dim, "
                f"{how.en}: the model that gains least",
                f"{bits} b/dim 时逐层 logit 误差较均匀 TQ-MSE 的平均降幅,{how.zh}:取降幅最小的模型",
            ),
            targets[0],
            unit="%",
            paper="32-80 %" if paper else "",
        )
        for bits in (2, 3)
    ]
    won = Text(
        f"Layers whose logit error is below uniform TQ-MSE's at 2 and 3 b/dim, {how.en}",
        f"2 与 3 b/dim 时 logit 误差低于均匀 TQ-MSE 的层所占比例,{how.zh}",
    )
    of = Text("367 of 367", "367 层中的 367 层") if paper else ""
    return (
        *means,
        _least(LOGITS, f"{claim}-wins", quote, won, targets[1], unit="%", paper=of),
    )


_PEELED = Text("compact with the mean key peeled", "紧凑模式减均值")
_UNIFORM = Text("uniform TQ-MSE", "均匀 TQ-MSE")
_Q4 = Text("llama.cpp's q4_0 (4.5 bits)", "llama.cpp q4_0(4.5 比特)")


def _quality(prefix: str, on: Text, perplexity: Trial, needles: tuple[Trial, float]) -> list[Claim]:
    """What one model keeps of its perplexity and its needles."""

    def ratio(
        claim: str, quote: str, statement: Text, target: float, paper: Text | str = ""
    ) -> Claim:
        said = Text(f"{statement.en}{on.en}", f"{statement.zh}{on.zh}")
        made = _least(perplexity, f"{prefix}{claim}", quote, said, target, paper=paper)
        return replace(made, direction=Direction.AT_MOST)

    def divergence(bits: str, mode: Text, other: Text) -> Text:
        return Text(
            f"KL divergence from the unquantised model at {bits}, {mode.en}, over that of "
            f"{other.en}",
            f"{bits} 时与未量化模型的 KL 散度:{mode.zh},相对{other.zh}",
        )

    def found(claim: str, target: float, other: Text, paper: Text | str = "") -> Claim:
        said = Text(
            f"Needles found at K2V2, compact with the mean key peeled, over those of {other.en}, "
            f"in points of a hundred{on.en}",
            f"K2V2 大海捞针命中率:紧凑模式减均值,比{other.zh}高出的百分点{on.zh}",
        )
        name = f"{prefix}{claim}"
        return _least(needles[0], name, _NEEDLES, said, target, unit="points", paper=paper)

    kept = Text(
        "Perplexity at K3V3, compact with the mean key peeled, over the unquantised model's",
        "K3V3 困惑度(紧凑模式减均值)与未量化模型之比",
    )
    paper = Text("the paper's mode", "论文模式")
    written = Text(
        "Tokens written greedily at K3V2 up to the first that the unquantised model did not write, "
        f"128 at most at full budget: compact with the mean key peeled over uniform TQ-MSE{on.en}",
        "K3V2 贪心续写至首个与未量化模型不同的词元为止的长度(完整预算下上限 128):"
        f"紧凑模式减均值与均匀 TQ-MSE 之比{on.zh}",
    )
    return [
        _least(perplexity, f"{prefix}greedy-k3v2", _CLOSE, written, 2.0),
        ratio("kl-k2v2", _CLOSE, divergence("K2V2", _PEELED, _UNIFORM), 0.5),
        ratio("kl-k2v2-paper", _CLOSE, divergence("K2V2", paper, _UNIFORM), 0.5),
        ratio("ppl-k3v3", _SMALLER, kept, 1.05, Text("fp16-comparable", "与 fp16 相当")),
        ratio("kl-k3v3-q4", _GAINS, divergence("K3V3 (3.2 bits)", _PEELED, _Q4), 1.0),
        ratio("kl-k2v2-q4", _GAINS, divergence("K2V2 (2.2 bits)", _PEELED, _Q4), 1.0),
        found("needles-over-uniform", needles[1], _UNIFORM, Text("26.8 points", "26.8 个百分点")),
        found("needles-kept", -10, Text("the unquantised model", "未量化模型")),
    ]


CLAIMS = (
    *_cuts(
        "mae", _CUT, (32, 100), Text("code bits equal, the paper's mode", "码字比特相等,论文模式")
    ),
    *_cuts(
        "equal-bytes",
        _MATCHED,
        (30, 97.2),
        Text("bytes equal, norms counted, compact mode", "字节数相等、计入范数,紧凑模式"),
    ),
    *_quality("", Text("", ""), PERPLEXITY, (RETRIEVAL, 50)),
    *_quality("second-", Text(", SmolLM2-135M", ",SmolLM2-135M"), SECOND, (SECOND, 20)),
    _least(
        COMPRESSION,
        "compression",
        _SMALLER,
        Text(
            "Bytes of an fp16 cache over those of a packed K3V3 one, norms and open tiles counted, "
            "heads of 64 dimensions",
            "fp16 缓存与 K3V3 打包缓存的字节数之比,计入范数与未满块,头维度 64",
        ),
        4.2,
        paper="3.24x",
    ),
    _least(
        COMPRESSION,
        "compression-wide",
        _SMALLER,
        Text(
            "The same for a whole decoder whose heads have 256 dimensions (Gemma 3 270M)",
            "同上,头维度 256 的完整解码器(Gemma 3 270M)",
        ),
        4.8,
        paper="3.24x",
    ),
    _least(
        DECODING,
        "decode",
        _FASTER,
        Text(
            "Tokens per second of a whole decoder with the packed K3V3 cache against the dense "
            "fp16 one, after 8,192 tokens at full budget",
            "完整解码器每秒词元数:K3V3 打包缓存对比稠密 fp16 缓存,完整预算下已有 8,192 词元",
        ),
        1.0,
    ),
    _least(
        AGAINST_LLAMA,
        "decode-llama",
        _FASTER,
        Text(
            "The same against llama.cpp with flash attention, the faster of its q8_0 and q4_0 "
            "caches",
            "同上,对比 llama.cpp 的 flash attention,取 q8_0 与 q4_0 缓存中较快者",
        ),
        1.0,
    ),
    _least(
        ATTENTION,
        "attention-half",
        _FASTER,
        Text(
            "Packed decode attention against our own dense fp16 kernel at a long context "
            "(128K at full budget), seven query heads to a KV head, two threads",
            "长上下文(完整预算 128K)打包注意力对比自研稠密 fp16 内核,七查询头共一 KV 头,两线程",
        ),
        1.34,
        paper=_ON_GPU,
    ),
    _least(
        ATTENTION,
        "attention-groups",
        _FASTER,
        Text(
            "The same with four, three and one query heads to a KV head: the least of them",
            "同上,四、三、一个查询头共一 KV 头:取其中最小者",
        ),
        1.34,
        paper=_ON_GPU,
    ),
    _least(
        ATTENTION,
        "attention-float",
        _FASTER,
        Text(
            "Packed decode attention against our own dense fp32 kernel, seven query heads",
            "打包解码注意力对比自研稠密 fp32 内核,七查询头",
        ),
        1.5,
    ),
    _least(
        ATTENTION,
        "attention-torch",
        _FASTER,
        Text(
            "Packed decode attention against torch's fastest form in fp32, seven query heads",
            "打包解码注意力对比 torch 最快的 fp32 形式,七查询头",
        ),
        3.0,
    ),
    _least(
        MEMORY,
        "peak-memory",
        _PEAK,
        Text(
            "Growth of peak memory of a process that holds an fp16 cache over that of one that "
            "holds a packed K3V3 one: 256K tokens of Qwen2.5-0.5B's shapes at full budget",
            "持有 fp16 缓存的进程与持有 K3V3 打包缓存的进程峰值内存增长之比:完整预算 256K 词元",
        ),
        2.8,
        paper="2.84x",
    ),
    _least(
        MEMORY,
        "fits-where-dense-fails",
        _FITS,
        Text(
            "Under a limit on address space the packed cache takes a step and the fp16 one cannot "
            "be allocated (1 is: so it is)",
            "限制地址空间时打包缓存可完成一步解码而 fp16 缓存无法分配(1 即成立)",
        ),
        1,
        unit="of 1",
    ),
)
