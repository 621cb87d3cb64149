"""Why an attempt that was accepted is not started after all: three ways, and who is to try again differs."""


class NotPrepared(Exception):
    """The attempt cannot be prepared here, or not now; it never ran."""

    def __init__(self, refusal: str = "", *, disk_full: bool = False) -> None:
        """*refusal*: why no worker should try it again; empty: another one may."""
        super().__init__(refusal)
        self.refusal = refusal
        self.disk_full = disk_full


class NotStarted(Exception):
    """What the attempt's program needs could not be started: it ends so, and the job's retries decide."""

    def __init__(self, error: str) -> None:
        """*error* says why, for people."""
        super().__init__(error)
        self.error = error
