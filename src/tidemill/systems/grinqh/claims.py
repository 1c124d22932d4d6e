"""What the paper claims and what is measured in its stead (how: quality, speed)."""

from __future__ import annotations

from tidemill.bench import Claim, Direction, Text, Trial
from tidemill.systems.grinqh import quality, scores, speed

__all__ = ["CLAIMS"]

_BEATS = (
    "GRINQH outperforms state-of-the-art fixed- and mixed-precision baselines at comparable 3- and "
    "4-bit settings"
)
_TWO = "even enabling effective 2-bit generation"
_FRONTIER = (
    "establishes a new state-of-the-art Pareto frontier for LLM generation, enabling a dynamic "
    "trade-off between generation quality and inference speed"
)
_FLEXIBLE = "enabling flexible average bit widths during decoding"
_SPEED = (
    "We experimentally verify theoretical speedups by leveraging a hierarchical nested memory "
    "layout for multi-precision storage in a custom GPU kernel"
)
_NESTED = "a hierarchical nested memory layout for multi-precision storage"
_STAGES = (
    "the asymmetry between the compute-bound prefill stage and the memory-bound decoding stage"
)
_DECODING = "a weight-only post-training quantization framework that accelerates decoding"

QUALITY = Trial(
    name="frontier",
    measure=quality.frontier,
    summary=Text(
        "KL divergence and perplexity against bits read on real models, every way beside GRINQH.",
        "真实模型上 KL 散度与困惑度随读取比特数的变化,各方法并列。",
    ),
    quick_s=600,
    full_s=4 * 3600,
    memory_mib=16384,
)
SECOND = Trial(
    name="second",
    measure=quality.second,
    summary=Text(
        "The same on Qwen2.5-Coder-0.5B, whose source is quantised more coarsely.",
        "在 Qwen2.5-Coder-0.5B 上的同样度量,其源权重量化更粗。",
    ),
    quick_s=None,
    full_s=2 * 3600,
    memory_mib=16384,
)
LLAMA = Trial(
    name="llama",
    measure=quality.llama,
    summary=Text(
        "KL divergence against what llama.cpp itself quantises the same file to.",
        "与 llama.cpp 对同一文件自行量化结果的 KL 散度比较。",
    ),
    quick_s=600,
    full_s=2 * 3600,
    memory_mib=16384,
)
PRODUCTS = Trial(
    name="products",
    measure=speed.products,
    summary=Text(
        "Time of matrix-vector products on cold matrices against the bits read.",
        "冷矩阵的矩阵向量乘时间随读取比特数的变化。",
    ),
    quick_s=180,
    full_s=540,
    memory_mib=8192,
)
DECODING = Trial(
    name="decoding",
    measure=speed.decoding,
    summary=Text(
        "Tokens per second of the native decoder at 2.5 and 4 bits, switched live.",
        "原生解码器在 2.5 与 4 比特间实时切换的每秒词元数。",
    ),
    quick_s=400,
    full_s=900,
    memory_mib=8192,
)
AGAINST_LLAMA = Trial(
    name="against-llama",
    measure=speed.against_llama,
    summary=Text(
        "Tokens per second at 3 bits against llama.cpp on the model's own file.",
        "3 比特解码速度与 llama.cpp 运行原文件之比。",
    ),
    quick_s=400,
    full_s=900,
    memory_mib=8192,
)
PREFILL = Trial(
    name="prefill",
    measure=speed.prefill,
    summary=Text(
        "A prompt at the full level against torch's linear layers; bytes stored and read.",
        "全精度预填充与 torch 线性层之比;存储与读取的字节数。",
    ),
    quick_s=400,
    full_s=900,
    memory_mib=16384,
)


def _against_fixed(bits: int, reach: scores.Reach, how: Text, *, second: bool = False) -> Claim:
    on = "Qwen2.5-Coder-0.5B" if second else "Gemma3-270M"
    return Claim(
        id=f"{'second-' * second}kl-{bits}-{reach.name.lower()}",
        quote=_BEATS,
        statement=Text(
            f"KL divergence from the source of {on} at {bits} bits read, outliers, scales and "
            f"padding included, over that of the best fixed or static way (RTN, one level for "
            f"all, static mix) with {bits} to {bits}.5 bits; {how.en}",
            f"{on} 读取 {bits} 比特(含离群值、尺度与填充)时与源模型的 KL 散度,"
            f"与 {bits} 至 {bits}.5 比特的最佳固定或静态方法之比;{how.zh}",
        ),
        unit="x",
        direction=Direction.AT_MOST,
        target=0.5,
        trial=SECOND if second else QUALITY,
    )


def _two_bits(*, second: bool = False) -> Claim:
    on = "Qwen2.5-Coder-0.5B" if second else "Gemma3-270M"
    return Claim(
        id="second-two-bits" if second else "two-bits",
        quote=_TWO,
        statement=Text(
            "Perplexity of a continuation decoded at 2 bits of codes (outliers and scales on top), "
            f"over that of the source of {on}",
            f"以 2 码字比特(另加离群值与尺度)解码续写时的困惑度与 {on} 源模型之比",
        ),
        unit="x",
        direction=Direction.AT_MOST,
        target=1.6,
        trial=SECOND if second else QUALITY,
    )


_DECODE = Text("prompt at the full level, continuation at few bits", "提示全精度,续写低比特")
_ALL = Text("every token at few bits", "所有词元均为低比特")

CLAIMS = (
    _against_fixed(3, scores.Reach.DECODE, _DECODE),
    _against_fixed(4, scores.Reach.DECODE, _DECODE),
    _against_fixed(3, scores.Reach.ALL, _ALL),
    _against_fixed(4, scores.Reach.ALL, _ALL),
    _against_fixed(3, scores.Reach.DECODE, _DECODE, second=True),
    _against_fixed(4, scores.Reach.DECODE, _DECODE, second=True),
    _against_fixed(3, scores.Reach.ALL, _ALL, second=True),
    _against_fixed(4, scores.Reach.ALL, _ALL, second=True),
    _two_bits(second=True),
    Claim(
        id="kl-llama",
        quote=_BEATS,
        statement=Text(
            "KL divergence at 3 bits read, every token, over that of the better of llama.cpp's own "
            "Q2_K and Q3_K_M of the same file, which take more bits",
            "所有词元读取 3 比特时的 KL 散度,与 llama.cpp 对同一文件生成的 Q2_K、Q3_K_M 中较优者"
            "之比,后者比特更多",
        ),
        unit="x",
        direction=Direction.AT_MOST,
        target=1.0,
        trial=LLAMA,
    ),
    _two_bits(),
    Claim(
        id="two-over-three",
        quote=_TWO,
        statement=Text(
            "KL divergence decoded at 2 bits of codes (outliers and scales on top), over that of "
            "the better uniform 3-bit way (RTN, nested codes)",
            "2 码字比特(另加离群值与尺度)解码时的 KL 散度,与较优的均匀 3 比特方法(RTN、嵌套码)之比",
        ),
        unit="x",
        direction=Direction.AT_MOST,
        target=1.0,
        trial=QUALITY,
    ),
    Claim(
        id="pareto",
        quote=_FRONTIER,
        statement=Text(
            "Baselines (fixed, static, skipping) that no point of the curve beats in both bits "
            "read and KL divergence, decoding",
            "解码时在读取比特数与 KL 散度上均未被曲线任一点超过的基线数(固定、静态、跳过)",
        ),
        unit="baselines",
        direction=Direction.AT_MOST,
        target=0,
        trial=QUALITY,
    ),
    Claim(
        id="monotone",
        quote=_FLEXIBLE,
        statement=Text(
            "Steps of the curve at which more bits do not lower the KL divergence, one stored copy "
            "switched live from 1.5 to 4.5 bits",
            "曲线上比特增加而 KL 散度未下降的步数,单一存储副本在 1.5 至 4.5 比特间实时切换",
        ),
        unit="steps",
        direction=Direction.AT_MOST,
        target=0,
        trial=QUALITY,
    ),
    Claim(
        id="products-fit",
        quote=_SPEED,
        statement=Text(
            "R² of a straight line through the time of a cold product against the bits it reads, "
            "4,096 outputs, levels chosen anew each time for eight channels at once, one thread",
            "冷矩阵乘积时间对读取比特数的线性拟合 R²,4,096 个输出,每次为八个相邻通道重新选择等级,"
            "单线程",
        ),
        unit="R²",
        direction=Direction.AT_LEAST,
        target=0.98,
        trial=PRODUCTS,
    ),
    Claim(
        id="products-ratio",
        quote=_SPEED,
        statement=Text(
            "How many times faster a cold product is at 2 bits than at 4, otherwise the same",
            "冷矩阵乘积 2 比特相对 4 比特的加速比,其余相同",
        ),
        unit="x",
        direction=Direction.AT_LEAST,
        target=1.8,
        trial=PRODUCTS,
    ),
    Claim(
        id="decode-speed",
        quote=_DECODING,
        statement=Text(
            "Tokens per second of the native decoder at 2.5 bits of codes over those at 4, the "
            "same weights in memory, the output matrix at as many bits",
            "原生解码器 2.5 码字比特与 4 码字比特每秒词元数之比,内存中同一份权重,"
            "输出矩阵比特数相同",
        ),
        unit="x",
        direction=Direction.AT_LEAST,
        target=1.3,
        trial=DECODING,
    ),
    Claim(
        id="decode-llama",
        quote=_DECODING,
        statement=Text(
            "Tokens per second of the native decoder at 3 bits over llama.cpp's on the Q4_K_M file "
            "of the same model, same threads",
            "原生解码器 3 比特与 llama.cpp 运行同一模型 Q4_K_M 文件的每秒词元数之比,线程数相同",
        ),
        unit="x",
        direction=Direction.AT_LEAST,
        target=1.0,
        trial=AGAINST_LLAMA,
    ),
    Claim(
        id="prefill-speed",
        quote=_STAGES,
        statement=Text(
            "Speed of a prompt through graded layers at the full level over torch's own float32 "
            "layers, whole model without its output matrix",
            "全精度等级下预填充速度与 torch float32 线性层之比,整个模型不含输出矩阵",
        ),
        unit="x",
        direction=Direction.AT_LEAST,
        target=0.9,
        trial=PREFILL,
    ),
    Claim(
        id="prefill-bits",
        quote=_STAGES,
        statement=Text(
            "Code bits that a traced prompt reads while decoding is set to 2.5",
            "解码设为 2.5 比特时,被追踪的提示所读取的码字比特数",
        ),
        unit="bits",
        direction=Direction.AT_LEAST,
        target=6,
        trial=PREFILL,
    ),
    Claim(
        id="stored",
        quote=_NESTED,
        statement=Text(
            "Bits per weight of all that is stored to be read at 2, 3, 4 or 6 bits, outliers, "
            "scales and padding included",
            "可按 2、3、4、6 比特读取的全部存储的每权重比特数,含离群值、尺度与填充",
        ),
        unit="bits",
        direction=Direction.AT_MOST,
        target=6.3,
        trial=PREFILL,
    ),
)
