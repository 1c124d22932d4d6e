"""Mutate GGUF files and open them, for as long as asked: ``python fuzz_gguf.py --minutes 10``.

A mutation may be read or refused with a ``TidemillError``; anything else ends the run with the
file kept. The address space is limited, so that a hostile size cannot pass unseen.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from gguf_builder import Gguf, Tensor, llama, uint32, uint64

from tidemill.errors import TidemillError
from tidemill.models.config import DecoderConfig
from tidemill.models.ggml_types import GGMLType
from tidemill.models.gguf import GGUFFile
from tidemill.models.model_file import ModelFile
from tidemill.models.quants import DEQUANTIZERS

LIMIT_BYTES = 2 << 30
NUMBERS = (0, 1, 2, 7, 8, 9, 12, 13, 31, 32, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62)
NUMBERS += (2**63 - 1, 2**63, 2**64 - 1, 2**64 - 32, 10**9)


def seeds() -> list[bytes]:
    """Small valid files that reach every branch of the reader."""
    gemma = llama(layers=1)
    renamed = {
        str(key).replace("llama.", "gemma3."): found for key, found in gemma.metadata.items()
    }
    renamed |= {"general.architecture": "gemma3", "gemma3.attention.sliding_window": 4}
    every = [
        Tensor(kind.name, (kind.block_size, 2), bytes(2 * kind.block_bytes), kind=int(kind))
        for kind in DEQUANTIZERS
    ]
    return [
        llama(layers=1).build(),
        llama(
            layers=2, llama__rope__scaling__type="yarn", llama__rope__scaling__factor=2.0
        ).build(),
        Gguf(renamed, gemma.tensors).build(),
        Gguf({"general.alignment": 64, "x": True, "y": 1.5}, every, alignment=64).build(),
    ]


def mutations(*, seed: int, count: int | None = None) -> Iterator[bytes]:
    """Mutated files, for ever if no ``count`` is given."""
    rng = random.Random(seed)
    whole = seeds()
    done = 0
    while count is None or done < count:
        data = bytearray(rng.choice(whole))
        for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
            _mutate(data, rng)
        yield bytes(data)
        done += 1


def _mutate(data: bytearray, rng: random.Random) -> None:
    head = min(len(data), 2500) or 1
    at = rng.randrange(head)
    match rng.randrange(8):
        case 0 | 1:
            data[at : at + 1] = bytes([rng.randrange(256)])
        case 2:
            data[at : at + 1] = bytes([(data[at] if at < len(data) else 0) ^ 1 << rng.randrange(8)])
        case 3:
            data[at : at + 8] = uint64(rng.choice(NUMBERS))
        case 4:
            data[at : at + 4] = uint32(rng.choice(NUMBERS) % 2**32)
        case 5:
            del data[at : at + rng.choice((1, 4, 8, 64))]
        case 6:
            data[at:at] = data[at : at + rng.choice((1, 4, 8, 64))]
        case _:
            del data[rng.randrange(len(data) + 1) :]


def survives(path: Path) -> str:
    """Open ``path`` and read all that it has; what came of it."""
    try:
        with GGUFFile.open(path) as file:
            for name, info in file.tensors.items():
                assert info.offset + info.nbytes <= path.stat().st_size
                assert file.raw(name).shape == (info.nbytes,)
                if info.type in DEQUANTIZERS:
                    assert file.dequantize(name).shape == info.shape
                assert isinstance(info.type, GGMLType)
            config = DecoderConfig.from_gguf(file)
            for layer in (0, config.layers - 1):
                assert config.inverse_frequencies(layer).shape == (config.head_dim // 2,)
            with ModelFile(file, path=path, name="fuzzed") as model:
                model.weight("down", config.layers - 1)
    except TidemillError as error:
        return type(error).__name__
    return "read"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    warnings.simplefilter("error")
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    outcomes: Counter[str] = Counter()
    end = time.monotonic() + 60 * asked.minutes
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutated.gguf"
        for data in mutations(seed=asked.seed):
            path.write_bytes(data)
            start = time.monotonic()
            try:
                outcomes[survives(path)] += 1
            except BaseException as error:
                kept = Path(f"crash-{asked.seed}-{outcomes.total()}.gguf")
                kept.write_bytes(data)
                sys.stderr.write(f"{type(error).__name__} after {outcomes.total()}: {kept}\n")
                raise
            slowest = max(slowest, time.monotonic() - start)
            if time.monotonic() > end:
                break
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(f"{outcomes.total()} files, no crash: {dict(outcomes.most_common())}; ")
    sys.stdout.write(f"slowest {slowest:.3f} s, peak {peak:.0f} MiB\n")
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
