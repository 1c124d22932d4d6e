"""Memory: processes that each hold a long context and take one step, free and under a limit.

Each is a child of its own, so that its peak and a limit on its address space are its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tidemill.bench import Context, Measurement
from tidemill.bench.claim import Json
from tidemill.errors import ClaimError, OutOfPool
from tidemill.models.hf_rope import rotate
from tidemill.systems.blockgtq import speed, workloads
from tidemill.systems.blockgtq.baselines import DenseCells
from tidemill.systems.blockgtq.store import PackedStore, Window

KV_HEADS, GROUP = 2, 7
"""Shapes of Qwen2.5-0.5B."""
_SLACK = 64 << 20


def main(kind: str, shape: dict[str, int]) -> None:
    """Fill ``layers`` layers of ``tokens`` tokens, take a step over each, print what it took.

    Args:
        kind: "packed" or "dense" (fp16).
        shape: tokens, layers and limit (bytes of address space beyond the start; 0 for none).
    """
    plan = speed.sample_plan(layers=shape["layers"], heads=KV_HEADS)
    for head in plan.heads[0]:
        _ = head.codec  # made before memory is counted, as the model's weights would be
    before = _status("VmRSS")
    if shape["limit"]:
        room = _status("VmSize") + shape["limit"]
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
    start = _status("VmSize")
    run = _packed if kind == "packed" else _dense
    try:
        norm, kept = run(plan, shape["tokens"])
        ok = bool(np.isfinite(norm) and norm > 0)
    except (MemoryError, OutOfPool):
        norm, kept, ok = 0.0, 0, False
    found: dict[str, Json] = {
        "ok": ok,
        "norm": norm,
        "grown_bytes": _status("VmHWM") - before,
        "address_bytes": _status("VmPeak") - start + _SLACK,
        "kept_bytes": kept,
    }
    sys.stdout.write(json.dumps(found))


def _packed(plan: speed.Plan, tokens: int) -> tuple[float, int]:

    sample = workloads.captured("test")
    stores = [PackedStore(heads, Window()) for heads in plan.heads]
    for start in range(0, tokens, _PIECE):
        keys, values = _piece(sample, start, min(_PIECE, tokens - start))
        for store in stores:
            store.append(keys, values)
    queries = speed.queries_of(sample, KV_HEADS, GROUP).reshape(1, KV_HEADS * GROUP, 1, -1)
    made = [store.attend(queries, sample.keys.shape[-1] ** -0.5, threads=2) for store in stores]
    return float(np.linalg.norm(made[-1])), sum(store.nbytes for store in stores)


def _dense(plan: speed.Plan, tokens: int) -> tuple[float, int]:

    sample = workloads.captured("test")
    dim, kept = sample.keys.shape[-1], 0
    queries = speed.queries_of(sample, KV_HEADS, GROUP)
    out, layers = np.empty_like(queries), list[DenseCells]()
    for _ in plan.heads:
        layers.append(
            DenseCells(
                np.zeros((KV_HEADS, tokens // 32, dim * 32), np.uint16),
                np.zeros((KV_HEADS, tokens, dim), np.uint16),
                tokens,
            )
        )
    for start in range(0, tokens, _PIECE):
        keys, values = _piece(sample, start, min(_PIECE, tokens - start))
        cells = DenseCells.of(keys[0], values[0], np.float16)
        for layer in layers:
            layer.keys[:, start // 32 : start // 32 + cells.keys.shape[1]] = cells.keys
            layer.values[:, start : start + cells.values.shape[1]] = cells.values
    for layer in layers:
        layer.attend(queries, out, dim**-0.5, 2)
        kept += layer.keys.nbytes + layer.values.nbytes
    return float(np.linalg.norm(out)), kept


_PIECE = 8192


def _piece(
    sample: workloads.Captured, start: int, count: int
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float32]], ...]:
    """Keys at positions ``start``… and values, 1 x KV heads x count x dim."""
    at = np.arange(start, start + count)
    order = at % sample.keys.shape[1]
    keys = rotate(sample.keys[:, order], sample.frequencies, at)
    return tuple(
        np.ascontiguousarray(x[None].repeat(KV_HEADS, axis=1))
        for x in (keys, sample.values[:, order])
    )


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0


def memory(context: Context, scale: speed.Scale | None = None) -> Iterator[Measurement]:
    """A long context of all layers in child processes: peak memory, and what a limit lets pass."""
    scale = scale or speed.SCALES[context.budget]
    shape = {"tokens": scale.limit_tokens, "layers": scale.limit_layers, "limit": 0}
    found: dict[str, dict[str, Any]] = {}
    for kind in ("packed", "dense"):
        context.progress.stage(
            f"{kind}: {scale.limit_tokens:,} tokens, {scale.limit_layers} layers"
        )
        found[kind] = _child(kind, shape)
    limit = found["packed"]["address_bytes"] * 5 // 4
    context.progress.stage(f"the same within {limit / 2**20:.0f} MiB of address space")
    limited = {kind: _child(kind, shape | {"limit": limit}) for kind in ("packed", "dense")}
    ratio = found["dense"]["grown_bytes"] / found["packed"]["grown_bytes"]
    details: dict[str, Json] = {"limit_bytes": limit, "free": {**found}, "limited": {**limited}}
    yield Measurement.exact(
        "peak-memory",
        ratio,
        subject=f"packed: peak grows by {found['packed']['grown_bytes'] / 2**20:.0f} MiB",
        baseline=f"dense fp16: by {found['dense']['grown_bytes'] / 2**20:.0f} MiB",
        detail=details,
    )
    stands = float(limited["packed"]["ok"] and not limited["dense"]["ok"])
    yield Measurement.exact(
        "fits-where-dense-fails",
        stands,
        subject=f"packed: {'one step, checked' if limited['packed']['ok'] else 'no memory'}",
        baseline=f"dense fp16: {'one step' if limited['dense']['ok'] else 'no memory'}",
        detail=details,
    )


def _child(kind: str, shape: dict[str, int]) -> dict[str, Any]:
    code = (
        f"from tidemill.systems.blockgtq.footprint import main; main({kind!r}, {json.dumps(shape)})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=1800
    )
    if done.returncode != 0:
        tail = done.stderr.strip().splitlines()[-1:]
        raise ClaimError(f"memory — the {kind} process ended with {done.returncode}: {tail}")
    return json.loads(done.stdout)
