"""A small model in parts, each in a wheel that pip takes, and ways to fetch them."""

from __future__ import annotations

import hashlib
import random
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tidemill.errors import MissingCapability
from tidemill.models.catalog import CatalogEntry, Part

SIZES = (5000, 7000, 3000, 1)


def pieces() -> list[bytes]:
    return [random.Random(i).randbytes(size) for i, size in enumerate(SIZES)]


def entry(name: str = "tiny") -> CatalogEntry:
    """The catalogue's entry of the model that ``wheels`` writes."""
    parts = tuple(
        Part(
            f"tidemill-test-part{i}",
            "1.0",
            f"tidemill_test_part{i}/data/part.bin",
            len(piece),
            hashlib.sha256(piece).hexdigest(),
        )
        for i, piece in enumerate(pieces())
    )
    whole = b"".join(pieces())
    return CatalogEntry(
        name=name,
        title="Tiny",
        licence="MIT",
        licence_url="https://example.org",
        source="https://example.org",
        nbytes=len(whole),
        sha256=hashlib.sha256(whole).hexdigest(),
        parts=parts,
    )


def wheels(folder: Path) -> Path:
    """Write a valid wheel per part into ``folder``."""
    folder.mkdir(exist_ok=True)
    for part, piece in zip(entry().parts, pieces(), strict=True):
        wheel(folder, part, piece)
    return folder


def wheel(folder: Path, part: Part, piece: bytes) -> Path:
    stem = f"{part.package.replace('-', '_')}-{part.version}"
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(part.member, piece)
        info = f"{stem}.dist-info"
        archive.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: {part.package}\nVersion: {part.version}\n",
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", f"{part.member},,\n")
    return path


class FolderFetch:
    """Fetches parts from a folder of wheels; counts them, and can be told to fail at one."""

    def __init__(self, folder: Path, *, fail_at: int | None = None) -> None:
        self.folder = folder
        self.fail_at = fail_at
        self.fetched: list[str] = []

    def __call__(self, part: Part, folder: Path, watch: Callable[[], None]) -> Path:
        if self.fail_at == len(self.fetched):
            raise MissingCapability("the line is dead")
        self.fetched.append(part.package)
        name = f"{part.package.replace('-', '_')}-{part.version}-py3-none-any.whl"
        target = folder / name
        target.write_bytes((self.folder / name).read_bytes())
        watch()
        return target


def changed(**fields: object) -> CatalogEntry:
    return replace(entry(), **fields)  # type: ignore[arg-type]
