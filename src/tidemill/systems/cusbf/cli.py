"""``tidemill cusbf``: filters from sequence files, and sequence files through filters."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.errors import ConfigError
from tidemill.systems.cusbf import SuperBloom, storage
from tidemill.systems.cusbf.blocked import BlockedBloom
from tidemill.systems.cusbf.cardinality import estimate_kmers
from tidemill.systems.cusbf.kmer_filter import KmerFilter
from tidemill.systems.cusbf.reports import AddReport
from tidemill.systems.cusbf.screening import Copy
from tidemill.systems.cusbf.sequences import read_batches
from tidemill.systems.cusbf.workloads import random_genome

if TYPE_CHECKING:
    from tidemill.bench.claim import Json

app = typer.Typer(help="Super Bloom filters of k-mers: build, query, screen.", no_args_is_help=True)

Inputs = Annotated[list[str], typer.Argument(help="FASTA/FASTQ files, .gz/.xz/.bz2/.zst, or -.")]
FilterPath = Annotated[Path, typer.Argument(help="A filter that `build` wrote.")]
Output = Annotated[Path, typer.Option("--out", "-o", help="File to write.")]
Threads = Annotated[int, typer.Option(min=1, max=1024, help="Threads.")]
Threshold = Annotated[float, typer.Option(help="Share of a record's k-mers that must be found.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command()
def build(  # noqa: PLR0913 - one parameter per option
    inputs: Inputs,
    *,
    out: Output,
    bits: Annotated[int | None, typer.Option(help="Size in bits.")] = None,
    fpr: Annotated[float, typer.Option(help="Wanted false-positive rate, without --bits.")] = 1e-4,
    k: Annotated[int, typer.Option("-k", help="Bases of a k-mer.")] = 31,
    s: Annotated[int, typer.Option("-s", help="Bases of an s-mer.")] = 28,
    m: Annotated[int, typer.Option("-m", help="Bases of a minimizer.")] = 16,
    hashes: Annotated[int, typer.Option(help="Bits per s-mer: 4, 8, 12, 16.")] = 4,
    canonical: Annotated[bool, typer.Option(help="One k-mer for both strands.")] = True,
    seed: Annotated[int, typer.Option(help="Only filters of equal seeds merge.")] = 0,
    threads: Threads = 2,
    as_json: AsJson = False,
) -> None:
    """Build a filter over all k-mers of the files."""
    _keep_inputs(out, inputs)
    storage.check_target(out)
    if bits is None:
        if "-" in inputs:
            raise ConfigError(
                "build from standard input without --bits — its k-mers cannot be counted first; "
                "give --bits (about 20 per k-mer)."
            )
        count = max(1, estimate_kmers(inputs, k, canonical=canonical))
        made = SuperBloom.for_kmers(
            count, fpr=fpr, k=k, s=s, m=m, hashes=hashes, canonical=canonical, seed=seed
        )
    else:
        made = SuperBloom(bits, k=k, s=s, m=m, hashes=hashes, canonical=canonical, seed=seed)
    total = AddReport()
    begin = time.perf_counter()
    for path in inputs:
        with _bar(path) as told:
            total += made.insert_file(path, threads=threads, on_bytes=told)
    seconds = time.perf_counter() - begin
    made.save(out)
    facts = _facts(made) | {
        "file": str(out),
        "records": total.records,
        "bases": total.bases,
        "kmers": total.kmers,
        "skipped": total.skipped,
        "seconds": seconds,
    }
    _tell(facts, as_json)


@app.command()
def query(
    index: FilterPath,
    inputs: Inputs,
    *,
    threshold: Threshold = 0.5,
    threads: Threads = 2,
    as_json: AsJson = False,
) -> None:
    """Print, for each record, name, k-mers, those found, and whether it is classified.

    Tab-separated, or with --json one object per line.
    """
    made = load(index)
    for path in inputs:
        with _bar(path) as told:
            for r in made.query_file(path, threshold=threshold, threads=threads, on_bytes=told):
                row = {"name": r.name, "kmers": r.kmers, "hits": r.hits, "found": r.classified}
                typer.echo(
                    json.dumps(row)
                    if as_json
                    else f"{r.name}\t{r.kmers}\t{r.hits}\t{'yes' if r.classified else 'no'}"
                )


@app.command()
def screen(
    index: FilterPath,
    inputs: Inputs,
    *,
    out: Output,
    keep: Annotated[
        bool, typer.Option("--keep/--drop", help="Keep, or drop, the records found.")
    ] = True,
    threshold: Threshold = 0.5,
    threads: Threads = 2,
    as_json: AsJson = False,
) -> None:
    """Copy the records that the filter knows (or, with --drop, does not): host-read removal."""
    if not 0 <= threshold <= 1:
        raise ConfigError.of("threshold", threshold, "in 0-1", "share of a record's k-mers")
    _keep_inputs(out, [*inputs, index])
    made = load(index)
    read = 0
    with Copy(out) as copy:
        for path in inputs:
            with _bar(path) as told:
                for batch in read_batches(path, told):
                    kmers, hits = made.count_hits(batch, threads=threads)
                    for record, total, found in zip(batch.records, kmers, hits, strict=True):
                        read += 1
                        if (total > 0 and found >= threshold * total) is keep:
                            copy.write(record, path)
    _tell({"file": str(out), "records_read": read, "records_written": copy.written}, as_json)


@app.command()
def info(index: FilterPath, *, as_json: AsJson = False) -> None:
    """Show a filter's parameters, load and expected false-positive rates."""
    _tell(_facts(load(index)), as_json)


@app.command()
def merge(
    indices: Annotated[list[Path], typer.Argument(help="Two or more filters built alike.")],
    *,
    out: Output,
    as_json: AsJson = False,
) -> None:
    """Write the union of filters that were built with equal parameters."""
    if len(indices) < 2:
        raise ConfigError.of("merge", f"{len(indices)} filter", "two or more filters")
    _keep_inputs(out, indices)
    storage.check_target(out)
    first, *rest = indices
    made = load(first, mmap=False)
    for path in rest:
        made.merge(load(path))
    made.save(out)
    _tell(_facts(made) | {"file": str(out)}, as_json)


@app.command()
def bench(
    *,
    mib: Annotated[int, typer.Option(min=1, max=65536, help="Size of the filters, MiB.")] = 256,
    bases: Annotated[int, typer.Option(min=1000, help="Random bases.")] = 20_000_000,
    threads: Threads = 1,
    as_json: AsJson = False,
) -> None:
    """Quick throughput of Super Bloom against blocked Bloom here; `tidemill claims` is careful."""
    from tidemill.bench.compare import Side, compare

    sequence = random_genome(bases, seed=0).sequence
    filters = [made(mib << 23) for made in (SuperBloom, BlockedBloom)]
    rates: dict[str, Json] = {"mib": mib, "bases": bases, "threads": threads}
    for verb in ("insert", "contains"):
        sides = [
            Side(
                type(made).__name__,
                partial(getattr(made, verb), sequence, threads=threads),
                work=bases / 1e6,
                prepare=partial(made.words.fill, 0) if verb == "insert" else None,
            )
            for made in filters
        ]
        raced = compare(*sides, repeats=5)
        for side in sides:
            rates[f"{verb}_{side.name}_mkmers_per_s"] = round(raced.rate(side.name).median, 1)
        rates[f"{verb}_ratio"] = round(raced.ratio(sides[1].name).value, 3)
    _tell(rates, as_json)


def _keep_inputs(out: Path, inputs: Iterable[str | Path]) -> None:
    """Refuse to write over what is read, under whatever name."""
    for path in inputs:
        if out.exists() and Path(path).exists() and out.samefile(path):
            raise ConfigError.of("out", str(out), f"another file than {path}, which is read")


def load(path: Path, *, mmap: bool = True) -> KmerFilter:
    """The filter in ``path``, of whichever kind it is."""
    blocked = storage.read_header(path).kind == BlockedBloom.kind
    return (BlockedBloom if blocked else SuperBloom).load(path, mmap=mmap)


def _facts(made: KmerFilter) -> dict[str, Json]:
    facts: dict[str, Json] = {
        "kind": type(made).__name__,
        "bits": made.bits,
        "k": made.k,
        "s": made.s,
        "m": made.m,
        "hashes": made.hashes,
        "canonical": made.canonical,
        "seed": made.seed,
        "inserted_kmers": made.inserted_kmers,
        "load_factor": made.load_factor,
        "expected_fpr": made.expected_fpr(),
    }
    if isinstance(made, SuperBloom):
        facts["expected_near_fpr"] = made.expected_near_fpr()
    return facts


def _tell(facts: dict[str, Json], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(facts))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        shown = f"{value:,}" if isinstance(value, int) and value is not True else str(value)
        typer.echo(f"{name:<{width}}  {f'{value:.4g}' if isinstance(value, float) else shown}")


@contextmanager
def _bar(path: str) -> Generator[Callable[[int], None]]:
    """A progress bar over the bytes of ``path`` on a terminal's standard error."""
    from rich.console import Console
    from rich.progress import Progress

    size = Path(path).stat().st_size if path != "-" and Path(path).is_file() else None
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(Path(path).name, total=size)
        yield lambda done: progress.update(task, completed=done)
