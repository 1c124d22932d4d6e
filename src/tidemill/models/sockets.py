"""Where a system's parts join a decoder: the sockets ``weights`` and ``kv-cache``.

A system offers a ``Plug`` for a socket; the user names it, as in ``--weights grinqh:3.0``. This
room imports no system: ``tidemill.bench.system`` finds the plugs. What ``Plug.make(options)`` gives
must be a ``WeightPlug`` or a ``KVPlug``; the native objects behind them are C++ classes derived
from ``Linear`` (linear.hpp) and ``KVCache`` (kv.hpp).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

from tidemill.errors import ConfigError, MissingCapability

if TYPE_CHECKING:
    from tidemill.bench.system import Plug
    from tidemill.models.model_file import ModelFile

WEIGHTS = "weights"
KV_CACHE = "kv-cache"


class NativeLinear(Protocol):
    """A packed matrix: an instance of a C++ class derived from ``Linear``."""

    @property
    def rows(self) -> int:
        """Outputs."""
        ...

    @property
    def cols(self) -> int:
        """Inputs."""
        ...

    @property
    def bytes(self) -> int:
        """Bytes that a product with one token reads."""
        ...


class NativeKVCache(Protocol):
    """Keys and values of one sequence: an instance of a C++ class derived from ``KVCache``."""

    @property
    def length(self) -> int:
        """Tokens that it holds."""
        ...

    @property
    def bytes(self) -> int:
        """Bytes that it takes now."""
        ...

    def truncate(self, length: int) -> None:
        """Forget the tokens from ``length`` on."""
        ...


@runtime_checkable
class MappedKVCache(NativeKVCache, Protocol):
    """One whose pages somebody else gives out, so that sequences may share a beginning."""

    def map(self, table: Sequence[int], length: int) -> None:
        """Use the pages of ``table``, which hold ``length`` tokens; what is new goes behind them.

        Raises:
            InputError: the table is too short, or names a page that is not there.
        """
        ...


class NativePool(Protocol):
    """The threads that share the work of a step."""

    @property
    def threads(self) -> int:
        """How many, the caller among them."""
        ...


class WeightPlug(Protocol):
    """What a plug of the socket ``weights`` makes."""

    def pack(
        self, model: ModelFile, role: str, layer: int | None, pool: NativePool
    ) -> NativeLinear | None:
        """The matrix of ``role`` in its own format; None to leave it as the file has it.

        Called once per matrix (``role`` of ``tidemill.models.roles``; ``layer`` is None for
        ``embedding`` and ``output``), in the order of the decoder. ``model.weight(role, layer)``
        gives the float32 weights, ``model.raw`` the bytes of the file.
        """
        ...


class KVPool(Protocol):
    """Memory that the sequences of one decoder share."""

    def sequence(self) -> NativeKVCache:
        """A new, empty sequence."""
        ...


class KVPlug(Protocol):
    """What a plug of the socket ``kv-cache`` makes."""

    def pool(self, model: ModelFile, tokens: int) -> KVPool:
        """Room for ``tokens`` tokens in all sequences together.

        ``model.config`` has the sizes; a plug that must be fitted to a model may run it here.
        """
        ...


@dataclass(frozen=True, slots=True)
class SocketSpec:
    """A plug as users write it: ``name`` or ``name:options``."""

    name: str
    options: str = ""

    @classmethod
    def parse(cls, text: str, socket: str) -> SocketSpec:
        """Read ``grinqh:3.0``; the options are the plug's own business.

        Raises:
            ConfigError: there is no name.
        """
        name, _, options = text.strip().partition(":")
        if not name:
            raise ConfigError.of(socket, text, "name or name:options", "as in grinqh:3.0")
        return cls(name, options)

    def __str__(self) -> str:
        return f"{self.name}:{self.options}" if self.options else self.name


def weight_plug(text: str) -> WeightPlug:
    """The plug that ``text`` names, made with its options.

    Raises:
        ConfigError: no usable system offers it, or it refuses the options.
    """
    return cast("WeightPlug", _made(text, WEIGHTS, "pack"))


def kv_plug(text: str) -> KVPlug:
    """As ``weight_plug``, for the socket ``kv-cache``."""
    return cast("KVPlug", _made(text, KV_CACHE, "pool"))


def _made(text: str, socket: str, method: str) -> object:
    spec = SocketSpec.parse(text, socket)
    plugs = {plug.name: plug for plug in _offered(socket)}
    if spec.name not in plugs:
        known = ", ".join(sorted(plugs)) or "none: no installed system offers one"
        raise ConfigError.of(socket, text, f"a plug that is installed ({known})")
    made = plugs[spec.name].make(spec.options)
    if not callable(getattr(made, method, None)):
        raise MissingCapability(
            f"{socket}={text!r} — the plug of {spec.name} has no {method}(); "
            "it was made for another version of tidemill."
        )
    return made


def _offered(socket: str) -> list[Plug]:
    from tidemill.bench.system import usable

    return [plug for system in usable() for plug in system.plugs if plug.socket == socket]
