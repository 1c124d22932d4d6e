"""Small snapshots of made-up guests, and what each of their pages must read as."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from tidemill.systems.aquifer import GuestLimits, Snapshot
from tidemill.systems.aquifer.snapshot import PAGE

SHARE = {"zero": 0.7, "hot": 0.1}


def image_of(nonzero: NDArray[np.bool_], seed: int = 0) -> NDArray[np.uint8]:
    """(pages, 4096) random bytes where not zero; a page of one last byte among them."""
    generator = np.random.default_rng(seed)
    image = np.zeros((nonzero.size, PAGE), np.uint8)
    image[nonzero] = generator.integers(0, 256, (int(nonzero.sum()), PAGE), np.uint8)
    image[nonzero, -1] |= 1
    if nonzero.any():
        image[np.flatnonzero(nonzero)[-1], :-1] = 0
    return image


def snapshot_of(image: NDArray[np.uint8], state: bytes = b"state of a processor") -> Snapshot:
    nonzero = image.any(axis=1)
    return Snapshot(
        state, nonzero.astype(np.uint8), image[nonzero], ("/usr",), GuestLimits(cpu_s=7)
    )


def random_guest(pages: int, seed: int) -> tuple[NDArray[np.uint8], list[list[int]]]:
    """An image and three recordings over it, zero pages among those touched."""
    generator = np.random.default_rng(seed)
    image = image_of(generator.random(pages) > SHARE["zero"], seed)
    touched = [np.flatnonzero(generator.random(pages) < 0.3).tolist() for _ in range(3)]
    return image, touched


guests = st.builds(random_guest, st.integers(1, 1300), st.integers(0, 1 << 30))
