"""Messages and events that are lost between an ingress and the gate, or cross."""

import asyncio
from contextlib import suppress

import pytest

from serve_app.admission.protocol import (
    Admitted,
    Ask,
    Close,
    Event,
    Granted,
    Join,
    Joined,
    Ping,
    Pong,
    Reason,
    Refused,
    Release,
    Tier,
    Unknown,
)
from serve_app.errors import OverloadedError
from tests.unit.admission.gates import Dialogue, client_of, gate_of, scripted_gate

DEFAULT = Tier.DEFAULT


@pytest.mark.usefixtures("quick_pings")
async def test_a_message_that_was_lost_is_noticed_by_the_gate() -> None:
    async with gate_of("a") as (server, admission), client_of(server) as (client, _):
        request = client.ask("", DEFAULT, 1)
        await request.admitted()
        assert client._link
        socket = client._link._socket
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket, "send", lambda _: None)
            request.close()
            await asyncio.sleep(0)  # it is sent in this round of the loop
        await admission.until(lambda: admission.num_joins == 2)
        assert admission.counts == (0, 0)


@pytest.mark.usefixtures("quick_pings")
async def test_an_event_that_was_lost_is_noticed_by_the_ingress(dialogue: Dialogue) -> None:
    gate = dialogue.gate
    request = await dialogue.ask("k", Tier.FLEX, 2)
    await gate.say(Admitted(0, {0: "a"}, None))
    await request.admitted()
    await gate.hear(Ping)
    await gate.say(Pong(2))  # one was `Granted`
    [known] = await dialogue.hear_join()
    assert (known.request, known.key, known.tier) == (0, "k", Tier.FLEX)
    assert (known.has_begun, known.sequences) == (True, {0: "a", 1: None})


@pytest.mark.usefixtures("quick_pings")
async def test_counts_begin_anew_with_each_join(dialogue: Dialogue) -> None:
    gate = dialogue.gate
    request = await dialogue.ask()
    await gate.say(Admitted(0, {0: "a"}, None), Unknown())
    await request.admitted()
    await gate.hear(Join)
    await gate.say(Joined())
    assert await gate.hear(Ping) == Ping(1)
    await gate.say(Pong(0))
    request.take_slot().release(5)
    # No `Join` in between: the counts of both have agreed.
    assert await gate.hear(Join, Release) == Release(0, 0, 5)


async def test_an_ingress_joins_once_for_all_that_the_gate_does_not_know_of(dialogue: Dialogue) -> None:
    """A thousand messages to a gate that has forgotten it are not answered with a thousand lists of all."""
    gate, client = dialogue.gate, dialogue.client
    request = await dialogue.ask()
    await gate.say(Admitted(0, {}, None), *[Unknown()] * 3, Joined(), Granted(0, 0, "a"))
    await request.admitted()
    assert await request.take_slot().granted() == "a"  # it has read all three
    client.ask("", DEFAULT, 1)
    await gate.hear(Join)
    assert await gate.hear(Join, Ask) == Ask(1, "", DEFAULT, 1)


async def test_what_was_said_before_a_join_was_read_does_not_hold_after_it(dialogue: Dialogue) -> None:
    """The gate refuses a request while the ingress tells it anew of that very request.

    To the gate it is open now. If the ingress took it for refused, it would never be closed there, and would
    keep the slot that it gets.
    """
    gate, client = dialogue.gate, dialogue.client
    request = await dialogue.ask()
    await gate.say(Admitted(0, {}, None), Unknown())
    assert [known.request for known in await dialogue.hear_join()] == [0]
    await gate.say(Refused(0, Reason.WAITED_TOO_LONG, 1.0, None), Joined(), Granted(0, 0, "a"))
    grant = request.take_slot()
    with suppress(OverloadedError):
        await grant.granted()
    grant.release(0)
    request.close()
    # Whichever it believed, the gate is told that it is over.
    last = client.ask("", DEFAULT, 1)
    assert await gate.hear(Close, Ask) == Close(0)
    last.close()


async def test_a_grant_from_before_a_join_is_not_believed_after_it(dialogue: Dialogue) -> None:
    """The gate grants the sequence anew after `Join`, maybe on another replica: that one counts."""
    gate = dialogue.gate
    request = await dialogue.ask()
    await gate.say(Admitted(0, {}, None), Unknown())
    await gate.hear(Join)  # which says that it waits
    await gate.say(Granted(0, 0, "old"), Joined(), Granted(0, 0, "new"))
    assert await request.take_slot().granted() == "new"


@pytest.mark.usefixtures("quick_pings")
async def test_a_grant_whose_admission_was_lost_is_dropped_and_the_request_asked_for_again(
    dialogue: Dialogue, caplog: pytest.LogCaptureFixture
) -> None:
    """When the ingress joins again the gate forgets what it has granted: it may grant another replica."""
    request = await dialogue.ask()
    await dialogue.gate.say(Granted(0, 0, "old"))
    await dialogue.gate.hear(Ping)
    await dialogue.gate.say(Pong(2))  # `Admitted` was the other
    assert await dialogue.hear_join() == []
    assert await dialogue.gate.hear(Ask) == request.ask
    await dialogue.gate.say(Joined(), Admitted(0, {0: "new"}, None))
    await request.admitted()
    assert request.take_slot().replica == "new"
    assert "an event of the gate was dropped: request 0 is ASKING and cannot become RUNNING" in caplog.text


@pytest.mark.usefixtures("quick_silence")
@pytest.mark.parametrize("pings_are", [Unknown(), Pong(0)])
async def test_a_join_that_was_lost_is_said_again(pings_are: Event) -> None:
    """Or its answer was: the gate says something, so it is not taken for dead, but nothing of it is believed.

    Either on the same connection or on a new one.
    """
    async with scripted_gate() as gate, client_of(None, "a") as (_, where):
        where.is_at(gate.address)
        await gate.hear(Ping)
        await gate.say(pings_are)
        await gate.hear(Join)
        where.is_asked.clear()

        async def hear_another() -> None:
            for _ in range(50):
                if isinstance(await gate.hear(Join, Ping), Join):
                    return
                await gate.say(pings_are)
            raise AssertionError("the gate answers, and will never be believed")

        heard = asyncio.create_task(hear_another())
        asked = asyncio.create_task(where.is_asked.wait())
        done, _ = await asyncio.wait([heard, asked], return_when=asyncio.FIRST_COMPLETED)
        if heard in done:
            asked.cancel()
            await heard
        else:
            heard.cancel()
