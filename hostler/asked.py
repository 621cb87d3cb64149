"""What was asked of a job beyond what it runs, in sentences: only what differs from what every job gets.

Pure. Values of variables are not told, as some are secrets of somebody's own; of the cluster's secrets their names are.
"""

from collections.abc import Iterable, Mapping

from hostler.jobs import LOSS_POLICIES, NO_LIMITS, JobSpec, Limits, Work
from hostler.log_losses import bytes_text
from hostler.wording import counted, listed, times

USUAL = Work()


def asked_sentences(spec: JobSpec, names: Mapping[str, str]) -> Iterable[str]:
    """Everything that was asked for; *names* are those of workers, by their ids."""
    if spec.name:
        yield f"Its name is {spec.name}."
    yield from _of_its_program(spec)
    yield from _of_its_streams(spec.work)
    yield from _of_its_bounds(spec)
    wanted = [f"on worker {names.get(spec.worker, spec.worker)}"] if spec.worker else []
    wanted += [f"with {name}={value}" for name, value in sorted(spec.labels.items())]
    wanted += [f"where {spec.where}"] if spec.where else []
    slots = f"takes {counted(spec.slots, 'slot', 'slots')}" if spec.slots else "takes no slot"
    yield f"It runs {' and '.join(wanted) or 'on any worker'}, and {slots}."
    if spec.priority:
        yield f"Its priority is {spec.priority}."
    yield from _of_losses(spec)
    if spec.tags:
        yield f"Its tags are {', '.join(f'{name}={value}' for name, value in sorted(spec.tags.items()))}."
    if spec.key_given:
        yield f"Its idempotency key is {spec.key_given}."


def limits_text(limits: Limits) -> str:
    """What all processes of an attempt may use together; empty: there is no limit."""
    parts = [f"{bytes_text(limits.memory_bytes)} of memory"] if limits.memory_bytes else []
    parts += [counted(limits.cpus, "processor", "processors")] if limits.cpus else []
    parts += [counted(limits.pids, "process", "processes and threads")] if limits.pids else []
    return ", ".join(parts)


def _of_its_program(spec: JobSpec) -> Iterable[str]:
    work = spec.work
    if work.cwd:
        yield f"It runs in {work.cwd}."
    if work.container is not None:
        yield f"It runs in a container of {work.container.image}."
    if work.service is not None:
        yield f"It calls the service {work.service.name or work.service.url}."
    if work.start_path == "hardened":
        yield "It starts on the hardened path: in a PID namespace of its own, without new privileges."
    elif work.start_path:
        yield f"It starts on the {work.start_path} path."
    if work.env:
        yield f"Of its environment these were set: {listed(sorted(work.env))}."
    for variable, secret in sorted(spec.secrets.items()):
        yield f"Its variable {variable} is the cluster's secret {secret}."
    if work.files:
        yield f"It gets {counted(len(work.files), 'file', 'files')}: {listed([file.path for file in work.files])}."
    if work.workspace:
        yield "It has a workspace, and what it leaves in outputs/ is kept."


def _of_its_streams(work: Work) -> Iterable[str]:
    if work.terminal is not None:
        yield "It has a terminal of its own."
    if work.stdin:
        yield "Its standard input is fed to it."
    if work.stdin_path:
        yield f"Its standard input is the file {work.stdin_path}."
    if work.result_stdout:
        yield "Its standard output is its result."
    if work.merge:
        yield "Its standard error goes where its standard output goes."
    if work.output_bytes_max:
        more = "it is ended" if work.output_stop else "the rest is dropped"
        yield f"It may write {bytes_text(work.output_bytes_max)}; then {more}."


def _of_its_bounds(spec: JobSpec) -> Iterable[str]:
    work = spec.work
    grace = f"{work.grace_s:g} s between SIGTERM and SIGKILL"
    if work.timeout_s:
        yield f"It may run for {work.timeout_s:g} s; then it is ended, with {grace}."
    elif work.grace_s != USUAL.grace_s:
        yield f"When it is stopped, it has {grace}."
    if work.limits != NO_LIMITS:
        yield f"All its processes together may use {limits_text(work.limits)}."
    if work.leftovers_wait:
        yield "What its main process leaves running is waited for."
    if spec.start_within_s:
        yield f"It was to start within {spec.start_within_s:g} s of its submission."
    if spec.retries:
        causes = ", ".join(spec.retry_on) or "any failure"
        yield f"After {causes} it may be tried again, {times(spec.retries)}."


def _of_losses(spec: JobSpec) -> Iterable[str]:
    if (spec.work.loss_policy or LOSS_POLICIES[0]) == "stop":
        again = "it is tried again" if spec.on_lost == "retry" else "it is lost"
        yield f"When its worker is cut off, its supervisor ends it, and {again}."
    if spec.crash_limit:
        yield f"It is over at loss {spec.crash_limit} of its worker, whatever its on_lost says."
    if spec.lost_after_s is not None:
        lost = f"is lost {spec.lost_after_s:g} s later" if spec.lost_after_s >= 0 else "is waited for without end"
        yield f"When its worker leaves, it {lost}."
