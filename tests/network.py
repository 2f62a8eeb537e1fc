"""A network that tests can cut and mend: a proxy in front of a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from serve_app.transport.curve import CurveAddress


class Network:
    """A connection through a proxy that can be cut and mended."""

    def __init__(self) -> None:
        self._server: asyncio.Server
        self._to: CurveAddress
        self._writers: set[asyncio.StreamWriter] = set()
        self.is_cut = False

    @classmethod
    @asynccontextmanager
    async def to(cls, address: CurveAddress) -> AsyncIterator[tuple[Network, CurveAddress]]:
        """The network and the address that goes through it."""
        network = cls()
        network._to = address
        network._server = await asyncio.start_server(network._connect, "127.0.0.1", 0)
        port = network._server.sockets[0].getsockname()[1]
        try:
            yield network, CurveAddress(f"tcp://127.0.0.1:{port}", address.key)
        finally:
            network._server.close()
            network.cut()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut:
            writer.close()
            return
        host, _, port = self._to.endpoint.removeprefix("tcp://").rpartition(":")
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        self._writers |= {writer, far_writer}
        await asyncio.gather(self._pass_on(reader, far_writer), self._pass_on(far_reader, writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while content := await reader.read(1 << 16):
                writer.write(content)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()
            self._writers.discard(writer)

    def cut(self) -> None:
        self.is_cut = True
        for writer in list(self._writers):
            writer.transport.abort()

    def mend(self) -> None:
        self.is_cut = False
