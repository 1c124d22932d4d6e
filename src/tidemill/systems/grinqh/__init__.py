"""Weights stored once in nested bits; each token's input decides how many of them it reads.

The paper (GRINQH, arXiv, announced 2026-06-22) takes the size of an activation as a proxy for what
matters. In decoding, which is bound by memory, channels of the weights are read at different
precision, chosen anew for every token; precision 0 skips a channel, so quantisation and
sparsification are one scheme, and a nested layout serves all widths from one copy. Prefill reads
the widest level. It reports better quality than fixed and mixed precision at 3 and 4 bits, usable
generation at 2, and speed in proportion to the bits read. Here: bit-planes on huge pages, an AVX2
kernel whose work follows the bits, and torch models that change their bits between two tokens.

    from tidemill.systems import grinqh
    made = grinqh.quantize(model, calib=texts, tokenizer=tokenizer)
    model.set_bits(decode=2.5, prefill="full")  # live: from the next token on
    with grinqh.trace() as read:
        model.generate(**inputs)
    made.save_pretrained("graded")  # grinqh.from_pretrained("graded")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tidemill.bench import Context, Paper, Plug, Report, System, Text
from tidemill.systems.grinqh.claims import CLAIMS
from tidemill.systems.grinqh.codebook import LEVELS, Codebook
from tidemill.systems.grinqh.config import GrinqhConfig
from tidemill.systems.grinqh.graded_matrix import GradedMatrix
from tidemill.systems.grinqh.kernels import NativeMatrix, Selector, Threads
from tidemill.systems.grinqh.reading import Trace, trace

if TYPE_CHECKING:
    import typer

    from tidemill.systems.grinqh.plug import GrinqhWeights
    from tidemill.systems.grinqh.torch_model.model import GrinqhModel, quantize
    from tidemill.systems.grinqh.torch_model.pretrained import from_pretrained
    from tidemill.systems.grinqh.torch_model.quantizer import register

__all__ = [
    "LEVELS",
    "SYSTEM",
    "Codebook",
    "GradedMatrix",
    "GrinqhConfig",
    "GrinqhModel",
    "GrinqhWeights",
    "NativeMatrix",
    "Selector",
    "Threads",
    "Trace",
    "from_pretrained",
    "quantize",
    "register",
    "trace",
]


def __getattr__(name: str) -> Any:
    """What needs torch is imported when it is asked for."""
    if name in ("GrinqhModel", "quantize"):
        from tidemill.systems.grinqh.torch_model import model

        return getattr(model, name)
    if name == "GrinqhWeights":
        from tidemill.systems.grinqh.plug import GrinqhWeights

        return GrinqhWeights
    if name == "register":
        from tidemill.systems.grinqh.torch_model.quantizer import register

        return register
    if name == "from_pretrained":
        from tidemill.systems.grinqh.torch_model.pretrained import from_pretrained

        return from_pretrained
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _run(context: Context) -> Report:
    from tidemill.systems.grinqh.run import run

    return run(context)


def _cli() -> typer.Typer:
    from tidemill.systems.grinqh.cli import app

    return app


def _weights(options: str) -> object:
    from tidemill.systems.grinqh.plug import GrinqhWeights

    return GrinqhWeights.parse(options)


SYSTEM = System(
    name="grinqh",
    paper=Paper.beside(__file__),
    summary=Text(
        en="Weights stored once in nested bits; each token reads as many as its input needs.",
        zh="权重以嵌套比特存储一次,每个词元按其输入所需读取。",
    ),
    config=GrinqhConfig,
    run=_run,
    claims=CLAIMS,
    plugs=(
        Plug(
            "weights",
            "grinqh",
            Text(
                en="Nested bit-planes, read at as many bits as each token's input asks for.",
                zh="嵌套比特平面,按每个词元输入所需的比特数读取。",
            ),
            _weights,
        ),
    ),
    cli=_cli,
)
