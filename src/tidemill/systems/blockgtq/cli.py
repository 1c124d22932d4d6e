"""``tidemill blockgtq``: calibrate a model, look at plans, evaluate and time them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from tidemill.errors import InputError
from tidemill.systems.blockgtq import workloads
from tidemill.systems.blockgtq.calibration import Calibration
from tidemill.systems.blockgtq.config import Mode

if TYPE_CHECKING:
    from tidemill.bench import Context
    from tidemill.bench.claim import Json

app = typer.Typer(help="Block-GTQ: KV caches of two to three bits.", no_args_is_help=True)

ModelName = Annotated[str, typer.Argument(help="A model of `tidemill models list`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
KBits = Annotated[float, typer.Option("--k-bits", "-k", help="Bits per dimension of a key, 1-8.")]
VBits = Annotated[
    int, typer.Option("--v-bits", "-v", help="Bits per dimension of a value, 1-4 or 8.")
]
ModeOption = Annotated[Mode, typer.Option(help="How the bits are spent.")]


@app.command()
def calibrate(
    model: ModelName,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write (safetensors).")],
    text: Annotated[Path | None, typer.Option(help="A text file; default: WikiText-2.")] = None,
    tokens: Annotated[int, typer.Option(help="Tokens to look at.")] = 2048,
    as_json: AsJson = False,
) -> None:
    """Look at a model's queries, keys and values over a text, and keep what plans need."""
    from tidemill.systems.blockgtq.capture import calibrate as run

    words = workloads.text("train") if text is None else _read(text)
    loaded, tokenizer = workloads.load_model(model)
    made = run(loaded, tokenizer, words, n_tokens=tokens)
    made.save(out)
    heads, size = len(made.layers[0].key_mean), out.stat().st_size
    facts: dict[str, Json] = {"layers": len(made.layers), "kv_heads": heads}
    facts |= {"tokens": made.n_tokens, "fingerprint": made.fingerprint[:16]}
    _tell(facts | {"file": str(out), "bytes": size}, as_json)


@app.command()
def plan(
    calibration: Annotated[Path, typer.Argument(help="What `calibrate` wrote.")],
    *,
    k_bits: KBits = 3.0,
    v_bits: VBits = 3,
    mode: ModeOption = Mode.COMPACT,
    mean_peel: Annotated[bool, typer.Option(help="Take the mean key off (compact).")] = True,
    as_json: AsJson = False,
) -> None:
    """Show the allocation that follows from a calibration: widths by layer, bits, bytes."""
    made = Calibration.load(calibration)
    peel = mean_peel and mode is not Mode.PAPER
    found = made.plan(k_bits, v_bits, mode, mean_peel=peel)
    if as_json:
        widths = [[[*head.widths] for head in layer] for layer in found.heads]
        facts = {"bits_per_number": found.bits_per_number, "bytes_per_token": found.bytes_per_token}
        typer.echo(json.dumps(facts | {"widths": widths}))
        return
    typer.echo(f"{found.bits_per_number:.3f} bits a number, {found.bytes_per_token:.0f} B a token")
    typer.echo("layer head  blocks of each width        key bits  expected error")
    for i, layer in enumerate(found.heads):
        for h, head in enumerate(layer):
            counts = " ".join(f"{b}:{n}" for b, n in sorted(Counter(head.widths).items()))
            statistics = made.layers[i]
            energy = statistics.residual_energy if peel else statistics.key_energy
            lost = head.distortion(energy[h])
            typer.echo(f"{i:5} {h:4}  {counts:<27} {head.key_bits:8}  {lost:.4f}")


@app.command(name="eval")
def evaluate(
    model: ModelName = "smollm2-135m",
    *,
    windows: Annotated[int, typer.Option(min=1, help="Windows of test text.")] = 2,
    tokens: Annotated[int, typer.Option(min=64, help="Tokens of a window.")] = 256,
    as_json: AsJson = False,
) -> None:
    """Perplexity and KL divergence of every way to cache, on WikiText-2 test."""
    from tidemill.systems.blockgtq.quality import Greedy, Scale, perplexity

    scale = Scale(model, 1024, windows, tokens, (), Greedy(1, 64, 1))
    found = next(iter(perplexity(_context(2), scale))).detail["scores"]
    if as_json:
        typer.echo(json.dumps(found))
        return
    typer.echo(f"{'cache':<20}{'bits':>7}{'perplexity':>12}{'KL':>9}{'top-1':>8}")
    for name, row in cast("dict[str, dict[str, float]]", found).items():
        typer.echo(
            f"{name:<20}{row['bits']:7.2f}{row['perplexity']:12.2f}{row['kl']:9.3f}"
            f"{row['top1']:8.2f}"
        )


@app.command()
def bench(
    *,
    tokens: Annotated[int, typer.Option(min=64, help="Tokens of context.")] = 32768,
    group: Annotated[int, typer.Option(min=1, help="Query heads to a KV head.")] = 7,
    threads: Annotated[int, typer.Option(min=1, help="Threads.")] = 2,
    as_json: AsJson = False,
) -> None:
    """Quick race of packed and dense decode attention here; `tidemill claims` is careful."""
    from tidemill.systems.blockgtq.speed import Scale, attention

    scale = Scale((tokens,), tokens, 4, (group,), 5, tokens, 1)
    for found in attention(_context(threads), scale):
        facts: dict[str, Json] = {
            "claim": found.claim,
            "ratio": round(found.value, 3),
            "subject": found.subject,
            "baseline": found.baseline,
        }
        _tell(facts, as_json)


def _context(threads: int) -> Context:
    from tidemill.bench import Budget
    from tidemill.bench import Context as Made
    from tidemill.bench.trial import Progress
    from tidemill.systems.blockgtq.config import BlockGTQConfig

    return Made(BlockGTQConfig(), Budget.QUICK, Progress(), threads)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} — {error}; must be a readable UTF-8 text file.") from error


def _tell(facts: dict[str, Json], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        typer.echo(f"{name:<12}  {value}")
