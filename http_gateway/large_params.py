"""Parameters of jobs that may be larger than what travels with a job."""

from dataclasses import replace

from hostler.client import Client
from hostler.job_checks import PARAMS_PATH
from hostler.jobs import INLINE_BYTES_MAX, File, JobSpec

# Up to here they travel with the job. A workload may want them twice, as parameters and, with the job's id, as
# standard input, and both together have the limit of what travels with a job.
PARAMS_BYTES_MAX = INLINE_BYTES_MAX // 2 - 4096


async def with_params(client: Client, spec: JobSpec, raw: bytes, *, principal: str) -> JobSpec:
    """The same job with *raw*, JSON, as its parameters; what is too large is stored as its file ``params.json``.

    Raises:
        HostlerError: it could not be stored.
    """
    if len(raw) <= PARAMS_BYTES_MAX:
        return replace(spec, params=raw.decode())
    stored = await client.files.put_bytes(raw, principal=principal)
    file = File(path=PARAMS_PATH, digest=stored.digest, size_bytes=stored.size_bytes)
    return replace(spec, work=replace(spec.work, files=(*spec.work.files, file)))
