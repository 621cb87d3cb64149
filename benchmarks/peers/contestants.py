"""Who is compared, what each needs to be installed, and how far ahead of it the product is to be."""

import os
import sys
from typing import Final, NamedTuple

from benchmarks.peers import installation


class Contestant(NamedTuple):
    """A peer."""

    key: str  # for --only
    name: str
    least: float  # the product's jobs a second over its own
    module: str = ""  # the program that drives it; empty: it is measured from here
    python: tuple[str, ...] = ()  # packages by name, in the peers' own environment
    debian: tuple[str, ...] = ()

    def argv(self, directory: str) -> list[str]:
        """The command that drives it."""
        interpreter = os.fspath(installation.PYTHON) if self.python else sys.executable
        return [interpreter, "-m", self.module, directory]


XARGS: Final = Contestant("xargs", "xargs -P2", 1.4)
CONTESTANTS: Final = (
    Contestant("hyperqueue", "HyperQueue's binding", 5.0, "benchmarks.peers.with_hyperqueue", ("hyperqueue",)),
    Contestant("ray", "Ray's remote functions", 3.0, "benchmarks.peers.with_ray", ("ray",)),
    Contestant(
        "celery", "Celery with redis", 5.0, "benchmarks.peers.with_celery", ("celery[redis]",), ("redis-server",)
    ),
    Contestant("dask", "Dask distributed", 4.5, "benchmarks.peers.with_dask", ("distributed",)),
    Contestant("gearman", "gearman", 1.6, "benchmarks.peers.with_gearman", (), ("gearman-job-server", "gearman-tools")),
    XARGS,
)
