"""What was asked of a job beyond what it runs, as lines of `show`: only what differs from what every job gets."""

from collections.abc import Iterable

from hostler.asked import USUAL, limits_text
from hostler.jobs import JobSpec, Work
from hostler.log_losses import bytes_text
from hostler.wording import counted, listed


def asked_lines(spec: JobSpec) -> Iterable[tuple[str, str]]:
    """A label and its text for each; of variables and secrets the names."""
    work = spec.work
    for label, parts in (
        ("directory", [work.cwd] if work.cwd else []),
        ("tags", [" ".join(f"{name}={value}" for name, value in sorted(spec.tags.items()))] if spec.tags else []),
        ("key", [spec.key_given] if spec.key_given else []),
        ("wants", list(_wanted(spec))),
        ("limits", list(_limits(work))),
        ("program", list(_program(work))),
        ("streams", list(_streams(work))),
        ("files", [listed([file.path for file in work.files])] if work.files else []),
        ("variables", [listed(sorted(work.env))] if work.env else []),
        ("secrets", [f"{variable} is {secret}" for variable, secret in sorted(spec.secrets.items())]),
        ("losses", list(_losses(spec))),
    ):
        if parts:
            yield label, ", ".join(parts)


def _wanted(spec: JobSpec) -> Iterable[str]:
    if spec.worker:
        yield f"worker {spec.worker}"
    yield from (f"{name}={value}" for name, value in sorted(spec.labels.items()))
    if spec.where:
        yield spec.where
    if spec.slots != 1:
        yield counted(spec.slots, "slot", "slots") if spec.slots else "no slot"
    if spec.priority:
        yield f"priority {spec.priority}"
    if spec.start_within_s:
        yield f"start within {spec.start_within_s:g} s"
    if spec.work.timeout_s:
        yield f"timeout {spec.work.timeout_s:g} s"
    if spec.work.grace_s != USUAL.grace_s:
        yield f"grace {spec.work.grace_s:g} s"


def _limits(work: Work) -> Iterable[str]:
    if text := limits_text(work.limits):
        yield text
    if work.output_bytes_max:
        yield f"{bytes_text(work.output_bytes_max)} of output{', and it is ended there' if work.output_stop else ''}"


def _program(work: Work) -> Iterable[str]:
    if work.start_path:
        yield f"start path {work.start_path}"
    if work.container is not None:
        yield f"a container of {work.container.image}"
    if work.service is not None:
        yield f"the service {work.service.name or work.service.url}"
    if work.workspace:
        yield "with a workspace"
    if work.leftovers_wait:
        yield "what it leaves running is waited for"


def _streams(work: Work) -> Iterable[str]:
    if work.terminal is not None:
        yield "a terminal of its own"
    if work.stdin:
        yield "standard input is fed to it"
    if work.stdin_path:
        yield f"standard input is {work.stdin_path}"
    if work.result_stdout:
        yield "standard output is its result"
    if work.merge:
        yield "standard error goes where standard output goes"


def _losses(spec: JobSpec) -> Iterable[str]:
    if spec.work.loss_policy:
        yield f"policy {spec.work.loss_policy}"
    if spec.on_lost:
        yield f"on_lost {spec.on_lost}"
    if spec.lost_after_s is not None:
        yield f"lost after {spec.lost_after_s:g} s" if spec.lost_after_s >= 0 else "never lost"
    if spec.crash_limit:
        yield f"crash limit {spec.crash_limit}"
