"""A shim's process, from the fork of the launcher to its end: what it is before its loop begins, and what it leaves.

Limits: standard library only, as the launcher.
"""

import contextlib
import gc
import os
import signal
import socket

from worker_agent.cgroups import Cgroup, Containment
from worker_agent.confinement import FREE, Confinement, settle
from worker_agent.ledger import SegmentIdentity, SegmentWriter
from worker_agent.limits import Limiter
from worker_agent.oom_scores import take_low
from worker_agent.process_tree import Tree, become_subreaper, boot_id, read_stat
from worker_agent.shim import Shim


def shim_main(
    *,
    shim: int,
    nonce: str,
    listener: socket.socket,
    segments: str,
    cgroup_name: str,
    containment: Containment,
    base_env: dict[bytes, bytes],
    confinement: Confinement = FREE,
) -> None:
    """Be a shim; called in the forked child of the launcher, returns when the shim's time is over."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    become_subreaper(f"shim-{shim}")
    take_low()
    gc.freeze()
    gc.set_threshold(50_000)  # an attempt leaves no cycles behind; do not look for them after every few
    cgroup = Cgroup.make(cgroup_name, containment)
    if cgroup is not None:
        cgroup.enter()
    elif confinement.cgroup:
        raise OSError("the worker's policy asks for a control group, and none can be made")
    user = confinement.user
    if user is not None:
        settle(user)
    stat = read_stat(os.getpid())
    identity = SegmentIdentity(
        shim=shim,
        boot_id=boot_id(),
        pid=os.getpid(),
        start_ticks=stat.start_ticks if stat else 0,
        nonce=nonce,
        cgroup=cgroup.directory if cgroup else "",
        freezer=cgroup.freezer if cgroup else False,
        uid=user.uid if user is not None else 0,
    )
    path = listener.getsockname()
    tree = Tree(cgroup)
    try:
        segment = SegmentWriter(segments, identity)
        served = Shim(
            identity=identity,
            segment=segment,
            tree=tree,
            listener=listener,
            base_env=base_env,
            limiter=Limiter(cgroup_name),
            confinement=confinement,
        )
        served.run()
        served.close()
    finally:
        tree.close()
        with contextlib.suppress(OSError):
            os.unlink(path)
