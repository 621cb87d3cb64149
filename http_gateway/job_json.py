"""What ``/v1`` answers besides the shapes it shares with the command line (`hostler.shape`). Pure."""

from hostler.client import Cluster
from hostler.errors import HostlerError
from hostler.jobs import JobPage, Progress
from hostler.shape import job_shape, time_shape

Json = dict[str, object]


def progress_json(progress: Progress) -> Json:
    """Show of a job only where it has come to."""
    return {
        "id": progress.id,
        "state": progress.state.word,
        "outcome": progress.outcome.word or None,
        "exit_code": progress.exit_code,
        "signal": progress.signal or None,
    }


def page_json(page: JobPage) -> Json:
    """Show one page of a list."""
    return {"jobs": [job_shape(job) for job in page.jobs], "next": page.next or None}


def answer_json(answer: str | Progress | HostlerError) -> Json:
    """Show what became of one item of a submission."""
    if isinstance(answer, HostlerError):
        return error_json(answer)
    return {"id": answer} if isinstance(answer, str) else progress_json(answer)


def error_json(error: HostlerError) -> Json:
    """Show what is wrong with one item of a submission."""
    return {"error": {"code": error.code.value, "message": error.message, "field": error.field or None}}


def cluster_json(cluster: Cluster) -> Json:
    """Show what the coordinator says of itself."""
    return {
        "version": cluster.version,
        "epoch": cluster.epoch,
        "workers": cluster.workers,
        "queued": cluster.queued,
        "running": cluster.running,
        "started": time_shape(cluster.started_at_us),
        "data_dir": cluster.data_dir,
    }
