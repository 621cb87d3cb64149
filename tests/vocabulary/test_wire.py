"""Values to protobuf and back: nothing is lost, whatever the values."""

from pathlib import Path
from typing import Any, TypeVar

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from hostler.errors import InvalidRequest
from hostler.ids import AttemptKey, JobId
from hostler.jobs import (
    End,
    EndedProcess,
    Job,
    JobEvent,
    JobPage,
    JobQuery,
    JobSpec,
    LogStatus,
    Progress,
    Receipt,
    SentSignal,
    Usage,
    Work,
)
from hostler.lifecycle import Outcome, State
from hostler.v1 import jobs_pb2, types_pb2
from hostler.wire import ends as end_wire
from hostler.wire import jobs as wire
from hostler.wire import work as work_wire
from hostler.wire import workers as worker_wire
from hostler.workers import Worker, WorkerState

M = TypeVar("M", bound=Message)

TEXTS = st.text(max_size=8)
BIG = st.integers(0, (1 << 64) - 1)
SMALL = st.integers(0, (1 << 32) - 1)
SECONDS = st.floats(allow_nan=False)
MAPS = st.dictionaries(TEXTS, TEXTS, max_size=3)
EXIT_CODES = st.none() | st.integers(-(1 << 31), (1 << 31) - 1)

WORKS = st.builds(
    Work,
    argv=st.lists(TEXTS, max_size=3).map(tuple),
    env=MAPS,
    cwd=TEXTS,
    timeout_s=SECONDS,
    grace_s=SECONDS,
    output_bytes_max=BIG,
    leftovers_wait=st.booleans(),
    stdin=st.booleans(),
)
SPECS = st.builds(
    JobSpec,
    work=WORKS,
    name=TEXTS,
    owner=TEXTS,
    family=st.text(min_size=1, max_size=8),
    key=TEXTS,
    worker=TEXTS,
    labels=MAPS,
    priority=st.integers(-(1 << 31), (1 << 31) - 1),
    slots=SMALL,
    principal=TEXTS,
)
PROCESSES = st.lists(st.builds(EndedProcess, pid=SMALL, name=TEXTS), max_size=3).map(tuple)
RECEIPTS = st.builds(
    Receipt,
    signals=st.lists(st.builds(SentSignal, signal=TEXTS, at_us=BIG, processes=SMALL), max_size=3).map(tuple),
    ended=PROCESSES,
    survivors=PROCESSES,
    verified_by=TEXTS,
    verified_at_us=BIG,
)
USAGES = st.builds(Usage, cpu_user_s=SECONDS, cpu_system_s=SECONDS, memory_bytes_max=BIG, processes=SMALL)
ENDS = st.builds(
    End,
    started_at_us=BIG,
    ended_at_us=BIG,
    exit_code=EXIT_CODES,
    signal=TEXTS,
    core_dumped=st.booleans(),
    cause=TEXTS,
    evidence=TEXTS,
    error=TEXTS,
    receipt=RECEIPTS,
    usage=USAGES,
    out_bytes=BIG,
    err_bytes=BIG,
    dropped_bytes=BIG,
    ledger_bytes=BIG,
)
JOBS = st.builds(
    Job,
    id=TEXTS,
    spec=SPECS,
    state=st.sampled_from(State),
    outcome=st.sampled_from(Outcome),
    phase=TEXTS,
    stage=SMALL,
    attempt=SMALL,
    worker=TEXTS,
    end=st.none() | ENDS,
    queued_at_us=BIG,
    assigned_at_us=BIG,
    started_at_us=BIG,
    finished_at_us=BIG,
    log_bytes=BIG,
    log_position=BIG,
    log_status=st.sampled_from(LogStatus),
    log_lost_bytes=BIG,
    pending_reasons=st.lists(TEXTS, max_size=3).map(tuple),
    version=BIG,
    usage=st.none() | USAGES,
)
EVENTS = st.builds(
    JobEvent, number=BIG, job=TEXTS, kind=TEXTS, at_us=BIG, stage=SMALL, attempt=SMALL, worker=TEXTS, detail=TEXTS
)
PROGRESS = st.builds(
    Progress,
    id=TEXTS,
    state=st.sampled_from(State),
    outcome=st.sampled_from(Outcome),
    exit_code=EXIT_CODES,
    signal=TEXTS,
    cause=TEXTS,
    error=TEXTS,
)
QUERIES = st.builds(
    JobQuery,
    states=st.lists(st.sampled_from(State), max_size=3).map(tuple),
    name=TEXTS,
    owner=TEXTS,
    family=TEXTS,
    worker=TEXTS,
    limit=st.integers(1, 1000),
    after=TEXTS,
)
WORKERS = st.builds(
    Worker,
    id=TEXTS,
    name=TEXTS,
    state=st.sampled_from(WorkerState),
    slots=SMALL,
    labels=MAPS,
    version=TEXTS,
    running=SMALL,
    seen_at_us=BIG,
    host=TEXTS,
)


def travelled(message: M) -> M:
    """The message as it comes out at the other end."""
    return type(message).FromString(message.SerializeToString())


@given(TEXTS, SMALL, SMALL)
def test_an_attempt_s_name_comes_back(job: str, stage: int, attempt: int) -> None:
    """Of every message about running things."""
    key = AttemptKey(JobId(job), stage, attempt)

    assert work_wire.key_from_proto(travelled(work_wire.key_to_proto(key))) == key


@given(SPECS)
def test_a_spec_comes_back(spec: JobSpec) -> None:
    """With zero slots told from none given."""
    assert wire.spec_from_proto(travelled(wire.spec_to_proto(spec))) == spec


@given(WORKS)
def test_work_comes_back_from_its_bytes(work: Work) -> None:
    """The form in which the coordinator keeps and sends it."""
    assert work_wire.work_from_bytes(work_wire.work_to_bytes(work)) == work


@given(ENDS)
def test_an_end_comes_back_from_its_bytes(end: End) -> None:
    """With its receipt and usage; exit code 0 told from none."""
    assert end_wire.end_from_bytes(end_wire.end_to_bytes(end)) == end


@given(JOBS)
@settings(max_examples=50)
def test_a_job_comes_back(job: Job) -> None:
    """Everything a reader gets."""
    assert wire.job_from_proto(travelled(wire.job_to_proto(job))) == job


@given(st.lists(JOBS, max_size=2), TEXTS)
@settings(max_examples=20)
def test_a_page_comes_back(jobs: list[Job], following: str) -> None:
    """In order."""
    page = JobPage(jobs=tuple(jobs), next=following)

    assert wire.page_from_proto(travelled(wire.page_to_proto(page))) == page


@given(EVENTS)
def test_an_event_comes_back(event: JobEvent) -> None:
    """Its number is what a watcher resumes from."""
    assert wire.event_from_proto(travelled(wire.event_to_proto(event))) == event


@given(PROGRESS)
def test_progress_comes_back(progress: Progress) -> None:
    """Exit code 0 is told from none."""
    assert wire.progress_from_proto(travelled(wire.progress_to_proto(progress))) == progress


@given(QUERIES, TEXTS)
def test_a_query_comes_back(query: JobQuery, principal: str) -> None:
    """And says who asks."""
    message = travelled(wire.query_to_proto(query, principal))

    assert wire.query_from_proto(message) == query
    assert message.principal == principal


@given(USAGES)
def test_usage_comes_back(usage: Usage) -> None:
    """Of samples while a job runs."""
    assert end_wire.usage_from_proto(travelled(end_wire.usage_to_proto(usage))) == usage


@given(WORKERS)
def test_a_worker_comes_back(worker: Worker) -> None:
    """Its state is a word on the wire."""
    assert worker_wire.worker_from_proto(travelled(worker_wire.worker_to_proto(worker))) == worker


def test_a_client_that_sets_only_argv_asks_for_an_ordinary_job() -> None:
    """Empty fields mean what the contract says: one slot, the native family."""
    spec = wire.spec_from_proto(types_pb2.JobSpec(work=types_pb2.Work(argv=["true"])))

    assert (spec.slots, spec.family, spec.work.argv) == (1, "native", ("true",))


@pytest.mark.parametrize(
    ("work", "rest", "field", "wanted"),
    [
        ({"argv": "true"}, {}, "argv", "tuple[str, ...]"),
        ({"argv": ("echo", 1)}, {}, "argv", "tuple[str, ...]"),
        ({"argv": ("ls",), "cwd": Path("/")}, {}, "cwd", "str"),
        ({"argv": ("env",), "env": {"N": 1}}, {}, "env", "dict[str, str]"),
        ({"argv": ("ls",)}, {"name": 5}, "name", "str"),
        ({"argv": ("ls",)}, {"stages": ("one",)}, "stages", "tuple[hostler.jobs.Stage, ...]"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_field(
    work: dict[str, Any], rest: dict[str, Any], field: str, wanted: str
) -> None:
    """A text as argv would be run letter by letter."""
    with pytest.raises(InvalidRequest) as refused:
        wire.spec_to_proto(JobSpec(work=Work(**work), **rest))

    assert (refused.value.field, refused.value.message) == (field, f"{field} has to be of the type {wanted}")


def test_a_list_without_a_limit_asks_for_a_hundred() -> None:
    """A default of the contract."""
    assert wire.query_from_proto(jobs_pb2.ListRequest()).limit == 100


@pytest.mark.parametrize("kind", [State, Outcome, LogStatus])
def test_every_word_has_a_number_in_the_contract(kind: type[State] | type[Outcome] | type[LogStatus]) -> None:
    """And the contract has no number without a word of ours, but "unspecified"."""
    name = {State: "State", Outcome: "Outcome", LogStatus: "LogStatus"}[kind]
    numbers = {value.number for value in types_pb2.DESCRIPTOR.enum_types_by_name[name].values}

    assert numbers == {int(word) for word in kind} | {0}
