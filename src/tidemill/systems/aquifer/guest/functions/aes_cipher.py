"""AES-128 in counter mode, in plain Python: key schedule, rounds and a round trip."""

import itertools
import random
from typing import Any


def _times(a: int, b: int) -> int:
    product = 0
    while b:
        if b & 1:
            product ^= a
        a = (a << 1) ^ (0x11B if a & 0x80 else 0)
        b >>= 1
    return product


def _box() -> list[int]:
    box = [0x63]
    for value in range(1, 256):
        inverse = next(other for other in range(1, 256) if _times(value, other) == 1)
        turned = inverse
        for shift in range(1, 5):
            turned ^= (inverse << shift | inverse >> (8 - shift)) & 0xFF
        box.append(turned ^ 0x63)
    return box


BOX = _box()
DOUBLE = [_times(value, 2) for value in range(256)]
SHIFTED = [0, 5, 10, 15, 4, 9, 14, 3, 8, 13, 2, 7, 12, 1, 6, 11]


def _schedule(key: bytes) -> list[bytes]:
    words = [list(key[i : i + 4]) for i in range(0, 16, 4)]
    factor = 1
    for i in range(4, 44):
        word = words[-1]
        if i % 4 == 0:
            word = [BOX[b] for b in word[1:] + word[:1]]
            word[0] ^= factor
            factor = DOUBLE[factor]
        words.append([a ^ b for a, b in zip(words[-4], word, strict=True)])
    return [bytes(itertools.chain(*words[i : i + 4])) for i in range(0, 44, 4)]


def encrypt_block(keys: list[bytes], block: bytes) -> bytes:
    """One block of 16 bytes."""
    state = [a ^ b for a, b in zip(block, keys[0], strict=True)]
    for number in range(1, 11):
        state = [BOX[state[i]] for i in SHIFTED]
        if number < 10:
            mixed: list[int] = []
            for column in range(0, 16, 4):
                a = state[column : column + 4]
                all_four = a[0] ^ a[1] ^ a[2] ^ a[3]
                mixed += [a[i] ^ all_four ^ DOUBLE[a[i] ^ a[(i + 1) % 4]] for i in range(4)]
            state = mixed
        state = [a ^ b for a, b in zip(state, keys[number], strict=True)]
    return bytes(state)


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """``blocks`` blocks of a stream; the first block of FIPS 197 is checked along."""
    rng = random.Random(request["seed"])
    keys = _schedule(rng.randbytes(16))
    text = rng.randbytes(16 * request["blocks"])
    stream = b"".join(encrypt_block(keys, i.to_bytes(16, "big")) for i in range(request["blocks"]))
    sealed = bytes(a ^ b for a, b in zip(text, stream, strict=True))
    opened = bytes(a ^ b for a, b in zip(sealed, stream, strict=True))
    example = encrypt_block(
        _schedule(bytes(range(16))), bytes.fromhex("00112233445566778899aabbccddeeff")
    )
    return {"last": sealed[-16:].hex(), "same": opened == text, "fips197": example.hex()}
