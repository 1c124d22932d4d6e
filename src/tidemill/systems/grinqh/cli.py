"""``tidemill grinqh``: grade a model, evaluate it, draw its frontier, time products here."""

# torch and transformers leave parts of their interfaces untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidemill.systems.grinqh import workloads
from tidemill.systems.grinqh.selection import Mode

if TYPE_CHECKING:
    from tidemill.bench import Context
    from tidemill.bench.claim import Json

app = typer.Typer(
    help="GRINQH: weights in nested bits, read as each token asks.", no_args_is_help=True
)

ModelName = Annotated[str, typer.Argument(help="A model of `tidemill models list`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Windows = Annotated[int, typer.Option(min=1, help="Windows of test text.")]
Tokens = Annotated[int, typer.Option(min=16, max=256, help="Tokens predicted in a window.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads.")]


@app.command()
def quantize(
    model: ModelName,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
    calibration: Annotated[int, typer.Option(min=256, help="Tokens to calibrate on.")] = 1024,
    outlier: Annotated[float, typer.Option(help="Deviations beyond which weights are exact.")] = 3,
    head: Annotated[bool, typer.Option(help="Grade the output embedding too.")] = True,
    as_json: AsJson = False,
) -> None:
    """Grade a model of the catalogue and write it for `grinqh.from_pretrained`."""
    import torch

    from tidemill.systems.grinqh.torch_model.model import WINDOW
    from tidemill.systems.grinqh.torch_model.model import quantize as grade

    loaded = workloads.torch_model(model)
    ids = workloads.windows(model, "train", max(1, calibration // WINDOW), WINDOW)
    made = grade(loaded, calib=torch.tensor(ids), outlier=outlier, head=head)
    made.save_pretrained(out)
    facts: dict[str, Json] = {
        "folder": str(out),
        "layers": len(made.layers),
        "left out": ", ".join(f"{name} ({why})" for name, why in made.skipped.items()) or "nothing",
        "stored bits": round(made.stored_bits, 3),
        "of them outliers and scales": round(made.overhead_bits, 3),
        "source sha256": made.source_sha256,
    }
    _tell(facts, as_json)


@app.command(name="eval")
def evaluate(
    model: ModelName = "gemma-3-270m",
    *,
    bits: Annotated[float, typer.Option(help="Code bits per weight and token, 0-6.")] = 2.5,
    mode: Annotated[Mode, typer.Option(help="What keeps the average.")] = Mode.BUDGET,
    every: Annotated[bool, typer.Option("--all", help="Prompt at few bits too.")] = False,
    windows: Windows = 2,
    tokens: Tokens = 96,
    as_json: AsJson = False,
) -> None:
    """Perplexity and KL divergence at some bits, on WikiText-2 test."""
    from tidemill.systems.grinqh.scores import Reach, Sample
    from tidemill.systems.grinqh.selection import check_bits
    from tidemill.systems.grinqh.torch_model.scoring import Subject

    check_bits(bits)
    subject = Subject(model, Sample(windows, 64, tokens, 512))
    reach = Reach.ALL if every else Reach.DECODE
    score = subject.graded_score(f"GRINQH {bits:g}", subject.choices(bits, mode), reach)
    _table([subject.full.to_json(), score.to_json()], as_json)


@app.command()
def frontier(
    model: ModelName = "gemma-3-270m",
    *,
    windows: Windows = 2,
    tokens: Tokens = 96,
    as_json: AsJson = False,
) -> None:
    """Bits read against KL divergence: GRINQH and every other way, on WikiText-2 test."""
    from tidemill.systems.grinqh.quality import points
    from tidemill.systems.grinqh.scores import Reach, Sample
    from tidemill.systems.grinqh.torch_model.scoring import Subject

    subject = Subject(model, Sample(windows, 64, tokens, 512))
    bits = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5)
    found = points(_context(2), subject, Reach.DECODE, bits)
    rows = sorted([*found.values()], key=lambda score: score.bits)
    _table([subject.full.to_json(), *(score.to_json() for score in rows)], as_json)


@app.command()
def bench(
    *,
    rows: Annotated[int, typer.Option(min=1, help="Outputs of the matrix.")] = 4096,
    cols: Annotated[int, typer.Option(min=1, help="Inputs of the matrix.")] = 4096,
    copies: Annotated[int, typer.Option(min=1, help="Copies, used in turn.")] = 8,
    as_json: AsJson = False,
) -> None:
    """Time products against bits here, roughly; `tidemill claims grinqh` is careful."""
    from dataclasses import replace

    from tidemill.bench import Budget
    from tidemill.systems.grinqh.speed import SCALES, products

    scale = replace(SCALES[Budget.QUICK], rows=rows, cols=cols, copies=copies)
    found = next(iter(products(_context(1), scale)))
    series: Any = found.detail["series"]
    if as_json:
        typer.echo(json.dumps({"r2": found.value, "series": series}))
        return
    for name, points in series.items():
        typer.echo(f"{name}, {rows:,} x {cols:,}")
        for point in points:
            typer.echo(f"  {point['bits']:4.1f} bits  {point['us']:9.1f} us")
    typer.echo(f"straight line, block 1: R² {found.value:.4f} ({found.subject})")


def _context(threads: int) -> Context:
    from tidemill.bench import Budget, Context, Progress
    from tidemill.systems.grinqh.config import GrinqhConfig

    return Context(GrinqhConfig(), Budget.QUICK, Progress(), threads)


def _table(rows: list[dict[str, Json]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows))
        return
    typer.echo(f"{'way':<16}{'bits read':>10}{'perplexity':>13}{'KL':>10}")
    for row in rows:
        typer.echo(
            f"{row['name']:<16}{row['bits']:>10.2f}{row['perplexity']:>13.2f}{row['kl']:>10.4f}"
        )


def _tell(facts: dict[str, Json], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        typer.echo(f"{name:<28}  {value}")
