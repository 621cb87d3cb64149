"""How attempts end and what they leave, to and from protobuf."""

from hostler.jobs import (
    Advance,
    End,
    EndedProcess,
    Failure,
    OutputFile,
    Receipt,
    SentSignal,
    Step,
    Usage,
)
from hostler.v1 import types_pb2

NOTHING_SAID = Advance()


def receipt_to_proto(receipt: Receipt) -> types_pb2.Receipt:
    """Encode the proof of an end."""
    return types_pb2.Receipt(
        signals=[types_pb2.SentSignal(signal=s.signal, at_us=s.at_us, processes=s.processes) for s in receipt.signals],
        ended=[types_pb2.ReceiptProcess(pid=p.pid, name=p.name) for p in receipt.ended],
        survivors=[types_pb2.ReceiptProcess(pid=p.pid, name=p.name) for p in receipt.survivors],
        verified_by=receipt.verified_by,
        verified_at_us=receipt.verified_at_us,
    )


def processes_from_proto(messages: list[types_pb2.ReceiptProcess]) -> tuple[EndedProcess, ...]:
    """Decode the processes of a receipt."""
    return tuple(EndedProcess(pid=p.pid, name=p.name) for p in messages)


def receipt_from_proto(message: types_pb2.Receipt) -> Receipt:
    """Decode the proof of an end."""
    return Receipt(
        signals=tuple(SentSignal(signal=s.signal, at_us=s.at_us, processes=s.processes) for s in message.signals),
        ended=processes_from_proto(list(message.ended)),
        survivors=processes_from_proto(list(message.survivors)),
        verified_by=message.verified_by,
        verified_at_us=message.verified_at_us,
    )


def usage_to_proto(usage: Usage) -> types_pb2.Usage:
    """Encode what a tree used."""
    return types_pb2.Usage(
        cpu_user_s=usage.cpu_user_s,
        cpu_system_s=usage.cpu_system_s,
        memory_bytes_max=usage.memory_bytes_max,
        processes=usage.processes,
    )


def usage_from_proto(message: types_pb2.Usage) -> Usage:
    """Decode what a tree used."""
    return Usage(
        cpu_user_s=message.cpu_user_s,
        cpu_system_s=message.cpu_system_s,
        memory_bytes_max=message.memory_bytes_max,
        processes=message.processes,
    )


def advance_to_proto(advance: Advance) -> types_pb2.Advance:
    """Encode how far a program says it has come."""
    steps = [types_pb2.Step(text=s.text, duration_s=s.duration_s) for s in advance.steps]
    return types_pb2.Advance(percent=advance.percent, steps=steps)


def advance_from_proto(message: types_pb2.Advance) -> Advance:
    """Decode how far a program says it has come."""
    return Advance(
        percent=message.percent if message.HasField("percent") else None,
        steps=tuple(Step(text=s.text, duration_s=s.duration_s) for s in message.steps),
    )


def failure_to_proto(failure: Failure) -> types_pb2.Failure:
    """Encode the exception that ended a script."""
    return types_pb2.Failure(
        type=failure.type, module=failure.module, message=failure.message, traceback=failure.traceback
    )


def failure_from_proto(message: types_pb2.Failure) -> Failure:
    """Decode the exception that ended a script."""
    return Failure(type=message.type, module=message.module, message=message.message, traceback=message.traceback)


def output_to_proto(file: OutputFile) -> types_pb2.OutputFile:
    """Encode an output file."""
    return types_pb2.OutputFile(
        path=file.path, digest=file.digest, size_bytes=file.size_bytes, modified_at_us=file.modified_at_us
    )


def output_from_proto(message: types_pb2.OutputFile) -> OutputFile:
    """Decode an output file."""
    return OutputFile(
        path=message.path,
        digest=message.digest,
        size_bytes=message.size_bytes,
        modified_at_us=message.modified_at_us,
    )


def end_to_proto(end: End) -> types_pb2.End:
    """Encode how an attempt ended."""
    message = types_pb2.End(
        started_at_us=end.started_at_us,
        ended_at_us=end.ended_at_us,
        exit_code=end.exit_code,
        signal=end.signal,
        core_dumped=end.core_dumped,
        cause=end.cause,
        evidence=end.evidence,
        error=end.error,
        receipt=receipt_to_proto(end.receipt),
        usage=usage_to_proto(end.usage),
        out_bytes=end.out_bytes,
        err_bytes=end.err_bytes,
        dropped_bytes=end.dropped_bytes,
        ledger_bytes=end.ledger_bytes,
        result=end.result,
        outputs=end.outputs,
        outputs_missing=end.outputs_missing,
        result_digest=end.result_digest,
        result_bytes=end.result_bytes,
    )
    if end.failure is not None:
        message.failure.CopyFrom(failure_to_proto(end.failure))
    if end.advance != NOTHING_SAID:
        message.advance.CopyFrom(advance_to_proto(end.advance))
    return message


def end_from_proto(message: types_pb2.End) -> End:
    """Decode how an attempt ended."""
    return End(
        started_at_us=message.started_at_us,
        ended_at_us=message.ended_at_us,
        exit_code=message.exit_code if message.HasField("exit_code") else None,
        signal=message.signal,
        core_dumped=message.core_dumped,
        cause=message.cause,
        evidence=message.evidence,
        error=message.error,
        receipt=receipt_from_proto(message.receipt),
        usage=usage_from_proto(message.usage),
        out_bytes=message.out_bytes,
        err_bytes=message.err_bytes,
        dropped_bytes=message.dropped_bytes,
        ledger_bytes=message.ledger_bytes,
        result=message.result,
        failure=failure_from_proto(message.failure) if message.HasField("failure") else None,
        advance=advance_from_proto(message.advance) if message.HasField("advance") else NOTHING_SAID,
        outputs=message.outputs,
        outputs_missing=tuple(message.outputs_missing),
        result_digest=message.result_digest,
        result_bytes=message.result_bytes,
    )


def end_from_bytes(data: bytes) -> End:
    """Decode a serialized End, the form in which the coordinator keeps it."""
    return end_from_proto(types_pb2.End.FromString(data))


def end_to_bytes(end: End) -> bytes:
    """Encode an end as the bytes the coordinator keeps."""
    return end_to_proto(end).SerializeToString()
