"""What ``/v1`` answers, as schemas for the OpenAPI document. Pure.

The values are made in `hostler.shape` and `http_gateway.job_json`; a test compares them with these.
"""

from http_gateway.operations import (
    ANY,
    COUNT,
    NUMBER,
    OBJECT,
    TEXT,
    TRUTH,
    UUID,
    WHOLE,
    described,
    either,
    fields,
    listed,
    mapped,
    one_of,
    or_null,
)

TIME = described(or_null(TEXT), "ISO 8601 in UTC")
STATE = one_of("queued", "assigned", "running", "stopping", "finished")
OUTCOME = or_null(one_of("succeeded", "failed", "stopped", "timed_out", "lost", "rejected"))
LIMITS = or_null(fields(memory_bytes=COUNT, cpus=NUMBER, pids=COUNT))
_PROCESS = fields(pid=COUNT, name=TEXT)
_STEP = fields(text=TEXT, duration_s=or_null(NUMBER))

PROGRESS = fields(id=UUID, state=STATE, outcome=OUTCOME, exit_code=or_null(WHOLE), signal=or_null(TEXT))
ITEM_ERROR = fields(error=fields(code=TEXT, message=TEXT, field=or_null(TEXT)))
SUBMITTED = fields(jobs=listed(either(fields(id=UUID), PROGRESS, ITEM_ERROR)))

RECEIPT = fields(
    signals=listed(fields(signal=TEXT, at=TIME, processes=COUNT)),
    ended=listed(_PROCESS),
    survivors=listed(_PROCESS),
    verified_by=or_null(TEXT),
    verified_at=TIME,
)
STAGE = fields(
    workload=TEXT,
    version=COUNT,
    state=TEXT,
    outcome=OUTCOME,
    attempt=or_null(COUNT),
    worker=or_null(TEXT),
    result=ANY,
    result_bytes=COUNT,
)
JOB = fields(
    id=UUID,
    name=TEXT,
    state=STATE,
    outcome=OUTCOME,
    phase=or_null(TEXT),
    exit_code=or_null(WHOLE),
    signal=or_null(TEXT),
    worker=or_null(TEXT),
    stage=COUNT,
    attempt=COUNT,
    cause=or_null(fields(label=TEXT, evidence=TEXT)),
    receipt=or_null(RECEIPT),
    log=fields(
        bytes=COUNT,
        status=one_of("arriving", "complete", "lost", "expired"),
        dropped_bytes=COUNT,
        lost_bytes=COUNT,
    ),
    usage=or_null(fields(cpu_user_s=NUMBER, cpu_system_s=NUMBER, memory_bytes_max=or_null(COUNT), processes=COUNT)),
    times=fields(queued=TIME, assigned=TIME, started=TIME, finished=TIME),
    owner=TEXT,
    family=TEXT,
    labels=mapped(TEXT),
    where=or_null(TEXT),
    tags=mapped(TEXT),
    retry_of=or_null(UUID),
    priority=WHOLE,
    argv=listed(TEXT),
    cwd=TEXT,
    pending=listed(TEXT),
    workload=or_null(TEXT),
    workload_version=or_null(COUNT),
    progress=or_null(fields(percent=or_null(NUMBER), steps=listed(_STEP))),
    result=described(ANY, "any JSON that the program has left, or null"),
    result_bytes=COUNT,
    failure=or_null(fields(type=TEXT, module=TEXT, message=TEXT, traceback=or_null(TEXT))),
    retried=COUNT,
    retries=COUNT,
    start_within=NUMBER,
    limits=LIMITS,
    merge=TRUTH,
    loss_policy=or_null(TEXT),
    on_lost=or_null(TEXT),
    lost_after=or_null(NUMBER),
    crash_limit=COUNT,
    retry_on=listed(TEXT),
    worker_asked=or_null(TEXT),
    slots=COUNT,
    key=or_null(TEXT),
    timeout=NUMBER,
    grace=NUMBER,
    output_bytes_max=COUNT,
    output_stop=TRUTH,
    leftovers=one_of("kill", "wait"),
    start_path=or_null(TEXT),
    stdin=TRUTH,
    stdin_path=or_null(TEXT),
    terminal=or_null(fields(rows=COUNT, columns=COUNT, term=TEXT)),
    python=or_null(fields(path=TEXT, entrypoint=TEXT, interpreter=TEXT)),
    inputs=COUNT,
    workspace=TRUTH,
    variables=listed(TEXT),
    secrets=mapped(TEXT),
    due=TIME,
    outputs=or_null(fields(files=COUNT, missing=listed(TEXT))),
    stages=or_null(listed(STAGE)),
)
RETRIED = fields(id=UUID, retry_of=UUID)
EXPLANATION = fields(
    id=UUID,
    state=STATE,
    outcome=OUTCOME,
    asked=listed(TEXT),
    waited=listed(TEXT),
    pending=or_null(
        fields(
            reasons=listed(fields(code=TEXT, text=TEXT, workers=COUNT)),
            nearest=or_null(fields(worker=TEXT, name=TEXT, missing=listed(TEXT))),
            before=COUNT,
            before_more=TRUTH,
        )
    ),
    attempts=listed(
        fields(
            stage=COUNT,
            attempt=or_null(COUNT),
            worker=or_null(TEXT),
            chosen=or_null(TEXT),
            outcome=OUTCOME,
            cause=or_null(TEXT),
            evidence=or_null(TEXT),
            error=or_null(TEXT),
            exit_code=or_null(WHOLE),
            signal=or_null(TEXT),
            receipt=or_null(RECEIPT),
            sentences=listed(TEXT),
            again=or_null(TEXT),
        )
    ),
    next=listed(TEXT),
    times=fields(now=TIME, due=TIME, start_by=TIME, away_since=TIME, lost_at=TIME, drain_by=TIME),
)
PAGE = fields(jobs=listed(JOB), next=or_null(TEXT))
WAITED = fields(jobs=listed(PROGRESS), pending=listed(UUID))
WORKER = fields(
    id=TEXT,
    name=TEXT,
    state=one_of("connected", "draining", "drained", "unreachable", "gone", "quarantined", "revoked"),
    slots=COUNT,
    running=COUNT,
    labels=mapped(TEXT),
    host=TEXT,
    version=TEXT,
    seen=TIME,
    runtimes=listed(TEXT),
    workloads=listed(TEXT),
    abilities=listed(TEXT),
    reason=or_null(TEXT),
    drain_by=TIME,
    policy=or_null(TEXT),
)
CLUSTER = fields(version=TEXT, epoch=COUNT, workers=COUNT, queued=COUNT, running=COUNT, started=TIME, data_dir=TEXT)
OUTPUTS = fields(
    files=listed(fields(path=TEXT, size_bytes=COUNT, modified=TIME, digest=or_null(TEXT))),
    live=TRUTH,
    expired=TRUTH,
    missing=listed(TEXT),
)
STORED = fields(digest=described(TEXT, "the SHA-256 of the bytes in hex"), size_bytes=COUNT)
WORKLOAD = fields(
    name=TEXT,
    version=COUNT,
    documentation=TEXT,
    runtime=TEXT,
    argv=listed(TEXT),
    script=or_null(fields(file=TEXT, digest=or_null(TEXT), size_bytes=COUNT)),
    entrypoint=or_null(TEXT),
    interpreter=or_null(TEXT),
    params_schema=ANY,
    stdin=or_null(TEXT),
    result=or_null(TEXT),
    container=or_null(OBJECT),
    service=or_null(OBJECT),
    env=mapped(TEXT),
    cwd=or_null(TEXT),
    timeout_s=NUMBER,
    grace_s=NUMBER,
    output_bytes_max=COUNT,
    output_stop=TRUTH,
    merge=TRUTH,
    limits=LIMITS,
    loss_policy=or_null(TEXT),
    on_lost=or_null(TEXT),
    crash_limit=COUNT,
    start_path=or_null(TEXT),
    retries=COUNT,
    retry_on=listed(TEXT),
    labels=mapped(TEXT),
    slots=COUNT,
    secrets=mapped(TEXT),
    external=TRUTH,
    families=listed(TEXT),
    allowed_networks=listed(TEXT),
    proofs=TRUTH,
    resources=or_null(OBJECT),
    applied=TIME,
    origin=TEXT,
)
WORKLOADS = fields(workloads=listed(WORKLOAD))
APPLIED = fields(workloads=listed(fields(name=TEXT, version=COUNT, changed=TRUTH)))
