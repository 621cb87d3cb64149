"""What is known of why a job is as it is, to and from protobuf."""

from hostler.explanation import Explained
from hostler.pending import Code, Nearest, Pending, Reason
from hostler.v1 import jobs_pb2
from hostler.wire.jobs import event_from_proto, event_to_proto, job_from_proto, job_to_proto


def explained_to_proto(known: Explained) -> jobs_pb2.Explained:
    """Encode an answer of Explain."""
    nearest = known.pending.nearest
    return jobs_pb2.Explained(
        job=job_to_proto(known.job),
        events=[event_to_proto(event) for event in known.events],
        older=known.older,
        pending=[
            jobs_pb2.PendingReason(code=why.code, text=why.text, workers=why.workers) for why in known.pending.reasons
        ],
        nearest=None
        if nearest is None
        else jobs_pb2.NearestMiss(
            worker=nearest.worker, name=nearest.name, missing=nearest.missing, codes=nearest.codes
        ),
        before=known.pending.before,
        before_more=known.pending.before_more,
        names=known.names,
        start_by_us=known.start_by_us,
        away_since_us=known.away_since_us,
        lost_at_us=known.lost_at_us,
        drain_by_us=known.drain_by_us,
        now_us=known.now_us,
    )


def explained_from_proto(message: jobs_pb2.Explained) -> Explained:
    """Decode an answer of Explain; a code that is not known here stays the word it is."""
    near = message.nearest
    pending = Pending(
        reasons=tuple(
            Reason(code=Code(why.code) if why.code in _CODES else why.code, text=why.text, workers=why.workers)
            for why in message.pending
        ),
        nearest=Nearest(worker=near.worker, name=near.name, missing=tuple(near.missing), codes=tuple(near.codes))
        if message.HasField("nearest")
        else None,
        before=message.before,
        before_more=message.before_more,
    )
    return Explained(
        job=job_from_proto(message.job),
        events=tuple(event_from_proto(event) for event in message.events),
        older=message.older,
        pending=pending,
        names=dict(message.names),
        start_by_us=message.start_by_us,
        away_since_us=message.away_since_us,
        lost_at_us=message.lost_at_us,
        drain_by_us=message.drain_by_us,
        now_us=message.now_us,
    )


_CODES = frozenset(Code)
