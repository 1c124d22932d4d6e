"""Engines as Ray actors, on whichever node has room: Ray places them, the socket is the same.

A node needs the same version of tidemill, and the model's name or path must mean the same there.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import importlib
import secrets
import socket
import sys
from collections.abc import Sequence
from typing import Any

from tidemill.errors import ResourceError
from tidemill.serve.engine_process import MakeCore, serve_engine
from tidemill.serve.links import Launch, Link, Receive, SocketLink
from tidemill.serve.messages import EngineSpec

OPEN_CORE = "tidemill.serve.model_engine:open_core"
_TOKEN_BYTES = 32
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Actor:
    """What a node does."""

    def serve(self, address: tuple[str, int], token: bytes, make: str, path: Sequence[str]) -> None:
        sys.path += [entry for entry in path if entry not in sys.path]
        module, _, function = make.partition(":")
        make_core: MakeCore = getattr(importlib.import_module(module), function)
        with socket.create_connection(address) as link:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link.sendall(token)
            serve_engine(link, make_core)


class _Placed:
    """An actor, as the process at the other end of a socket."""

    def __init__(self, ray: Any, actor: Any, work: Any) -> None:
        self._ray, self._actor, self._work = ray, actor, work

    def kill(self) -> None:
        self._ray.kill(self._actor)

    async def wait(self) -> str:
        try:
            await asyncio.wrap_future(self._work.future())
        except self._ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            return f"was lost with its actor ({type(cause).__name__})"
        self.kill()
        return "was stopped"


def launch_ray(spec: EngineSpec, ray: Any, make: str = OPEN_CORE) -> Launch:
    """Engines on the cluster that ``ray`` is connected to.

    Args:
        spec: Each takes its ``threads`` of a node's CPUs, or one.
        ray: The module, connected.
        make: Where the function stands that makes an engine's core on a node.
    """

    async def launch(receive: Receive) -> Link:
        here = ray.util.get_node_ip_address()
        token = secrets.token_bytes(_TOKEN_BYTES)
        async with _Door(token, here) as door:
            options: dict[str, Any] = {
                "name": f"tidemill-engine-{secrets.token_hex(4)}",
                "num_cpus": spec.threads or 1,
                "scheduling_strategy": "SPREAD",
            }
            actor = ray.remote(**options)(_Actor).remote()
            work = actor.serve.remote(door.address, token, make, sys.path)
            peer = _Placed(ray, actor, work)
            ended = asyncio.ensure_future(peer.wait())
            came = asyncio.ensure_future(door.streams())
            try:
                await asyncio.wait({ended, came}, return_when=asyncio.FIRST_COMPLETED)
            except BaseException:
                peer.kill()
                raise
            finally:
                ended.cancel()
            if not came.done():
                came.cancel()
                raise ResourceError(
                    f"engine — {ended.result()} before it said a word; `ray status` may say why."
                )
        return await SocketLink(came.result(), peer).open(spec, receive)

    return launch


class _Door:
    """Lets in the first who knows the token."""

    def __init__(self, token: bytes, host: str) -> None:
        self._token, self._host = token, host
        self._streams: asyncio.Future[Streams] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> _Door:
        self._server = await asyncio.start_server(self._knock, self._host, 0)
        self.address: tuple[str, int] = self._server.sockets[0].getsockname()[:2]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def streams(self) -> Streams:
        return await self._streams

    async def _knock(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        token = b""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            token = await asyncio.wait_for(reader.readexactly(_TOKEN_BYTES), 10)
        if hmac.compare_digest(token, self._token) and not self._streams.done():
            self._streams.set_result((reader, writer))
        else:
            writer.close()
