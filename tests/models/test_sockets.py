"""The sockets: a system's weights and its KV cache in a decoder, found through entry points."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from plugs import Floats, OwnPages, Transposed, WrongShape

from tidemill.errors import ConfigError, InputError, MissingCapability
from tidemill.models.model_file import ModelFile, open_model
from tidemill.models.native_decoder import NativeDecoder, Part
from tidemill.models.sockets import SocketSpec, kv_plug, weight_plug

IDS = [2, 108, 9, 77, 1500, 42]
SYSTEM = """
from dataclasses import dataclass
from datetime import date
from tidemill.bench import Paper, Plug, System, Text
from plugs import Floats, OwnPages

TEXT = Text("a mill", "磨")

@dataclass(frozen=True, slots=True)
class Config:
    pass

SYSTEM = System(
    name="mill",
    paper=Paper("2606.00001", "Mills", date(2026, 6, 1), "They turn."),
    summary=TEXT,
    config=Config,
    run=lambda context: None,
    claims=(),
    plugs=(
        Plug("weights", "floats", TEXT, Floats),
        Plug("kv-cache", "pages", TEXT, OwnPages),
        Plug("weights", "silent", TEXT, lambda options: object()),
    ),
)
"""


@pytest.fixture(scope="module")
def model(model_path: Callable[[str], Path]) -> ModelFile:
    return open_model(model_path("gemma-3-270m"))


@pytest.fixture(scope="module")
def plain(model: ModelFile) -> NativeDecoder:
    return NativeDecoder(model, threads=2, context=64, kv_tokens=64)


def logits(decoder: NativeDecoder) -> np.ndarray:
    return decoder.step([Part(decoder.sequence(), IDS, len(IDS))])


def test_a_plug_packs_what_it_wants_and_leaves_the_rest(
    model: ModelFile, plain: NativeDecoder
) -> None:
    plug = Floats("down")
    found = logits(NativeDecoder(model, context=64, kv_tokens=64, weights=plug))
    assert plug.packed == [("down", layer) for layer in range(model.config.layers)]
    expected = logits(plain)
    assert not np.array_equal(found, expected)  # inputs of `down` are no longer rounded
    cosine = (found * expected).sum() / (np.linalg.norm(found) * np.linalg.norm(expected))
    assert cosine > 0.99
    untouched = Floats("no such role")
    assert np.array_equal(logits(NativeDecoder(model, context=64, weights=untouched)), expected)


def test_a_cache_of_a_plug_holds_the_tokens(model: ModelFile, plain: NativeDecoder) -> None:
    plug = OwnPages()
    decoder = NativeDecoder(model, context=64, kv_tokens=64, kv=plug)
    assert np.array_equal(logits(decoder), logits(plain))
    sequence = decoder.sequence()
    decoder.prefill(sequence, IDS)
    assert plug.arena.free_pages == plug.arena.pages - 1
    del sequence
    assert plug.arena.free_pages == plug.arena.pages


def test_plugs_that_do_not_fit_the_model_are_named(model: ModelFile) -> None:
    with pytest.raises(MissingCapability, match="2048 x 640 of down of layer 0"):
        NativeDecoder(model, context=64, weights=Transposed("down"))
    decoder = NativeDecoder(model, context=64, kv=WrongShape())
    with pytest.raises(InputError, match="another model"):
        logits(decoder)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that brings a system with plugs."""
    metadata = tmp_path / "mill-1.0.dist-info"
    metadata.mkdir()
    (tmp_path / "mill_package.py").write_text(SYSTEM, encoding="utf-8")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mill\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[tidemill.systems]\nmill = mill_package:SYSTEM\n")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("installed")
def test_plugs_of_an_installed_system_are_found_by_name(
    model: ModelFile, plain: NativeDecoder
) -> None:
    decoder = NativeDecoder(model, context=64, weights="floats:down", kv="pages")
    direct = NativeDecoder(model, context=64, weights=Floats("down"), kv=OwnPages())
    assert np.array_equal(logits(decoder), logits(direct))
    assert not np.array_equal(logits(decoder), logits(plain))
    with pytest.raises(ConfigError, match="floats"):
        weight_plug("no-such:3.0")
    with pytest.raises(ConfigError, match="pages"):
        kv_plug("floats")
    with pytest.raises(MissingCapability, match="another version"):
        weight_plug("silent")


def test_a_plug_is_written_as_a_name_with_options() -> None:
    assert SocketSpec.parse("grinqh:3.0:fast", "weights") == SocketSpec("grinqh", "3.0:fast")
    assert str(SocketSpec.parse(" blockgtq ", "kv-cache")) == "blockgtq"
    for wrong in ("", ":3.0", "  "):
        with pytest.raises(ConfigError, match="name:options"):
            SocketSpec.parse(wrong, "weights")
