"""Pools that are cut, damaged or none at all: a clear error each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tidemill.errors import ConfigError, CorruptFile, InputError, ResourceError
from tidemill.systems.aquifer import CxlPool
from tidemill.systems.aquifer.snapshot import PAGE

from .pools import MIB, packed


def test_a_pool_that_is_cut_while_mapped_is_an_error_and_no_signal(tmp_path: Path) -> None:
    path = CxlPool.create(tmp_path / "pool", 2 * MIB, hosts=2, slots=2)
    with CxlPool.attach(path, 0) as owner, CxlPool.attach(path, 1, incoherent=1) as reader:
        owner.publish("fn", packed(1))
        os.truncate(path, 0)
        for act in (owner.names, lambda: owner.publish("fn", packed(2)), reader.names):
            with pytest.raises(ResourceError, match="its file was cut to 0 bytes while mapped"):
                act()


def test_what_is_no_pool_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pool"
    with pytest.raises(InputError, match="No such file"):
        CxlPool.attach(path, 0)
    path.write_bytes(b"AQCX")
    with pytest.raises(CorruptFile, match="shorter than its superblock"):
        CxlPool.attach(path, 0)
    path.write_bytes(bytes(2 * PAGE))
    with pytest.raises(CorruptFile, match="begins with"):
        CxlPool.attach(path, 0)
    with pytest.raises(InputError, match="File exists"):
        CxlPool.create(path, 2 * MIB)
    with pytest.raises(InputError, match="No such file"):
        CxlPool.create(tmp_path / "none" / "pool", 2 * MIB)
    for settings_, error in (
        ({"size": 1000}, "size=1000 — must be at least"),
        ({"size": MIB, "hosts": 0}, "hosts=0 — must be in 1-64"),
        ({"size": MIB, "slots": 5000}, "slots=5000"),
    ):
        with pytest.raises(ConfigError, match=error):
            CxlPool.create(tmp_path / "new", **settings_)
    path.unlink()
    CxlPool.create(path, 2 * MIB, hosts=2, slots=2)
    whole = path.read_bytes()
    for host in (-1, 2):
        with pytest.raises(ConfigError, match=r"host=.* — must be in 0-1"):
            CxlPool.attach(path, host)
    path.write_bytes(whole[:-PAGE])
    with pytest.raises(CorruptFile, match="bytes long instead of"):
        CxlPool.attach(path, 0)
    path.write_bytes(whole[:16] + b"\1" + whole[17:])
    with pytest.raises(CorruptFile, match="superblock is damaged"):
        CxlPool.attach(path, 0)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["pool"]


def test_a_pool_of_a_descriptor_cannot_be_cut(tmp_path: Path) -> None:
    fd = CxlPool.create_memfd(2 * MIB, hosts=2, slots=2)
    try:
        with CxlPool.attach(f"/proc/self/fd/{fd}", 0) as pool:
            pool.publish("fn", packed(1))
            with pytest.raises(PermissionError):
                os.ftruncate(fd, 0)
            facts = pool.facts()
            assert facts["bytes"] == os.fstat(fd).st_size
            assert "fn" in str(facts["published"])
    finally:
        os.close(fd)
