"""Strangers and garbage at both ends of the connection."""

import asyncio

import pytest
import zmq
import zmq.asyncio
import zmq.utils.monitor

from serve_app.admission.protocol import (
    Admitted,
    Tier,
)
from tests.unit.admission.gates import Dialogue, client_of, gate_of

DEFAULT = Tier.DEFAULT


@pytest.mark.parametrize("knows", ["nothing", "another key"])
async def test_a_stranger_gets_nothing(knows: str) -> None:
    async with gate_of("a") as (server, admission):
        context = zmq.asyncio.Context()
        stranger = context.socket(zmq.DEALER)
        if knows == "another key":
            stranger.curve_publickey, stranger.curve_secretkey = zmq.curve_keypair()
            stranger.curve_serverkey, _ = zmq.curve_keypair()
        try:
            monitor = stranger.get_monitor_socket()
            stranger.connect(server.address.endpoint)
            stranger.send(b"anything")
            failed = {
                zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
                zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
                zmq.EVENT_DISCONNECTED,
            }
            while (await zmq.utils.monitor.recv_monitor_message(monitor))["event"] not in failed:
                pass
            async with client_of(server) as (client, _):
                await client.ask("", DEFAULT, 1).admitted()
            assert admission.num_joins == 1
            assert not await stranger.poll(0)
        finally:
            stranger.disable_monitor()
            context.destroy(linger=0)


async def test_keys_are_new_at_each_start() -> None:
    async with gate_of() as (first, _), gate_of() as (second, _):
        assert first.address.key != second.address.key


async def test_garbage_from_an_ingress_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    async with gate_of("a") as (server, _), client_of(server) as (client, _):
        assert client._link
        for garbage in (b"", b"\xc1", b"garbage"):
            client._link._socket.send(garbage)
        await client.ask("", DEFAULT, 1).admitted()
    assert "do all replicas run the same version?" in caplog.text


async def test_garbage_from_an_ingress_in_several_parts_does_not_end_the_gate() -> None:
    async with gate_of("a") as (server, admission), client_of(server) as (client, _):
        assert client._link
        client._link._socket.send_multipart([b"one", b"two"])
        client.ask("", DEFAULT, 1)
        taken = asyncio.create_task(admission.until(lambda: admission.counts == (1, 0)))
        await asyncio.wait([server.task, taken], return_when=asyncio.FIRST_COMPLETED)
        assert not server.task.done()


@pytest.mark.usefixtures("quick_silence")
async def test_garbage_from_a_gate_does_not_end_the_connection_for_good(dialogue: Dialogue) -> None:
    """As a gate of a newer version may send."""
    gate, client, where = dialogue.gate, dialogue.client, dialogue.where
    await gate.say(b"\xc1", b"")
    request = await dialogue.ask()
    await gate.say(Admitted(0, {0: "z"}, None))
    await request.admitted()
    assert request.take_slot().replica == "z"  # as the gate says
    asked = asyncio.create_task(where.is_asked.wait())  # after its silence
    await asyncio.wait([client.task, asked], return_when=asyncio.FIRST_COMPLETED)
    assert not client.task.done()
    asked.cancel()
