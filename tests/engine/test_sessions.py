"""What a control stream keeps of the attempts of its worker, and how its silence is noticed."""

import asyncio
import math

import pytest

from coordinator.effects import SendSignal
from coordinator.sessions import SIGNALS_MAX, Note, Session, Silence
from hostler.errors import NotRunning, Overloaded, Unavailable
from hostler.jobs import Advance, Usage
from tests.support.builders import W1, a_key


async def test_nothing_is_kept_of_an_attempt_that_is_settled() -> None:
    """A sample or a note that came between its end and our word about it would stay for as long as the stream."""
    session = Session(W1, "session-1")
    for number in (1, 2):
        session.samples[a_key(number)] = Usage()
        session.notes[a_key(number)] = Note("", Advance(), ())

    session.acknowledge(a_key(1))

    assert list(session.samples) == list(session.notes) == [a_key(2)]
    assert session.take().acknowledged == [a_key(1)]


async def test_silence_is_noticed_and_neither_a_word_nor_a_long_decision_is_silence() -> None:
    """It counts from when the worker was listened to last, and not while what it said is worked on."""
    session, loop = Session(W1, "session-1"), asyncio.get_running_loop()
    silence = Silence(session, 0.2)
    try:
        await asyncio.sleep(0.5)  # nobody listens: the coordinator is busy with what was said
        assert session.listening_since_s == math.inf
        assert not silence.too_long.done()

        said_s = session.listening_since_s = loop.time()
        await asyncio.wait_for(silence.too_long, 10)
        assert loop.time() - said_s >= 0.2
    finally:
        silence.close()


async def test_a_silence_that_is_closed_looks_no_more() -> None:
    """Its stream is over."""
    session = Session(W1, "session-1")
    session.listening_since_s = 0.0
    silence = Silence(session, 0.05)
    silence.close()
    await asyncio.sleep(0.2)
    assert silence.too_long.cancelled()


def signal_to(session: Session) -> asyncio.Future[None]:
    """Ask for a signal to be passed on."""
    reply: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    session.signal(SendSignal(W1, a_key(1), 10, False, reply))
    return reply


async def test_each_signal_has_its_own_answer() -> None:
    """In whatever order they come; one that comes twice, or for none that was asked, is passed over."""
    session = Session(W1, "session-1")
    first, second = signal_to(session), signal_to(session)
    (one, _), (two, _) = session.take().signals

    session.signalled(two, passed=True)
    assert (first.done(), second.done()) == (False, True)
    for number in (one, one, two, 99):
        session.signalled(number, passed=False)

    with pytest.raises(NotRunning, match="the signal was not passed on"):
        await first
    await second


async def test_no_signal_outlives_its_stream_without_an_answer() -> None:
    """Its caller is told that it is not known."""
    session = Session(W1, "session-1")
    answered, waiting = signal_to(session), signal_to(session)
    session.signalled(session.take().signals[0][0], passed=True)

    session.close()

    await answered
    with pytest.raises(Unavailable, match="whether the signal has arrived is not known"):
        await waiting


async def test_signals_that_nobody_answers_do_not_gather() -> None:
    """More are refused, until callers have gone."""
    session = Session(W1, "session-1")
    waiting = [signal_to(session) for _ in range(SIGNALS_MAX)]
    with pytest.raises(Overloaded):
        await signal_to(session)

    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    gone.cancel()
    session.signal(SendSignal(W1, a_key(1), 10, False, gone))  # whoever has gone is not to be told

    waiting[5].cancel()
    await asyncio.sleep(0)
    again = signal_to(session)
    session.close()
    with pytest.raises(Unavailable):
        await again
    for one in waiting:
        assert one.cancelled() or one.exception()
