"""What a control stream keeps of the attempts of its worker."""

from coordinator.sessions import Note, Session
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
