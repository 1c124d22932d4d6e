"""Block-GTQ: a KV cache of 2-3 bits that knows which RoPE blocks of a key matter.

Under RoPE an attention logit is a sum over two-dimensional frequency blocks, and an error in block
i moves it by at most |q_i||e_i| at any distance. The paper (arXiv 2606.24033) therefore gives each
block of each layer and KV head its own bit width, greedily by energy; blocks of equal width are
quantised together by TurboQuant-MSE (random rotation, Lloyd–Max codes, one norm). It reports
32-80 % less logit error than uniform widths, near-fp16 retrieval at K2V2, and packed K3V3 attention
1.34x as fast as FlashAttention-2 at 128K. Here keys and values are bit-packed in tiles of 32 tokens
and attended to in integer arithmetic with AVX2, as a transformers cache or without. ``compact``
mode counts the norms in the budget and takes the mean key off first, which gains most.

    from tidemill.systems import blockgtq
    calibration = blockgtq.calibrate(model, tokenizer, text, n_tokens=2048)
    cache = blockgtq.BlockGTQCache(calibration.plan(k_bits=3, v_bits=3))
    model.set_attn_implementation(blockgtq.ATTENTION)  # attends without unpacking
    model.generate(**inputs, past_key_values=cache)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tidemill.bench import Context, Paper, Report, System, Text
from tidemill.bench.system import Plug
from tidemill.systems.blockgtq.allocator import allocate, allocate_within
from tidemill.systems.blockgtq.calibration import Calibration
from tidemill.systems.blockgtq.claims import CLAIMS
from tidemill.systems.blockgtq.config import BlockGTQConfig, Mode
from tidemill.systems.blockgtq.plan import HeadPlan, Plan
from tidemill.systems.blockgtq.statistics import LayerStatistics
from tidemill.systems.blockgtq.store import PackedStore, Window

if TYPE_CHECKING:
    import typer

    from tidemill.systems.blockgtq.cache import BlockGTQCache
    from tidemill.systems.blockgtq.capture import calibrate

ATTENTION = "tidemill_blockgtq"
"""Name of the packed attention, for ``model.set_attn_implementation``; see `cache`."""

__all__ = [
    "ATTENTION",
    "SYSTEM",
    "BlockGTQCache",
    "BlockGTQConfig",
    "Calibration",
    "HeadPlan",
    "LayerStatistics",
    "Mode",
    "PackedStore",
    "Plan",
    "Window",
    "allocate",
    "allocate_within",
    "calibrate",
]


def __getattr__(name: str) -> Any:
    """What needs torch is imported when it is asked for."""
    if name == "BlockGTQCache":
        from tidemill.systems.blockgtq.cache import BlockGTQCache

        return BlockGTQCache
    if name == "calibrate":
        from tidemill.systems.blockgtq.capture import calibrate

        return calibrate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _run(context: Context) -> Report:
    from tidemill.systems.blockgtq.run import run

    return run(context)


def _cli() -> typer.Typer:
    from tidemill.systems.blockgtq.cli import app

    return app


def _kv(options: str) -> object:
    from tidemill.systems.blockgtq.plug import BlockGTQPlug

    return BlockGTQPlug.parse(options)


SYSTEM = System(
    name="blockgtq",
    paper=Paper.beside(__file__),
    summary=Text(
        en="A transformers KV cache of two to three bits a number, attended to without unpacking.",
        zh="每数两到三比特的 transformers KV 缓存,无需解包即可计算注意力。",
    ),
    config=BlockGTQConfig,
    run=_run,
    claims=CLAIMS,
    plugs=(
        Plug(
            "kv-cache",
            "blockgtq",
            Text(
                "Keys and values of two to three bits, as blockgtq:k3v3.",
                "两到三比特的键与值,如 blockgtq:k3v3。",
            ),
            _kv,
        ),
    ),
    cli=_cli,
)
