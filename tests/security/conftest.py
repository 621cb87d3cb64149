"""What the tests of security share: a coordinator in this process, and clusters of real processes."""

from tests.cluster.conftest import cluster
from tests.rpc.conftest import address, channel, client, coordinator, data_dir, make_worker, settings, worker

__all__ = ["address", "channel", "client", "cluster", "coordinator", "data_dir", "make_worker", "settings", "worker"]
