"""The launcher: forks shims on request of one agent, and ends with it.

Run as `python -m worker_agent.launcher --fd N --segments DIR --sockets DIR --cgroup PREFIX`, where N is one
end of a socket pair. It is small and single-threaded on purpose: forking next to threads or to
gRPC kills children at random, and forking a fat process is slow. It has no state: shims survive
it, and the next agent starts its own.

This process copies its environment once: it is the base environment of every job. The settings of
the worker itself (names with HOSTLER_, and what it tells its own gRPC) are not for jobs and are left out.
Limits: standard library only, never grpc.
"""

import gc
import os
import signal
import socket
import sys
import traceback
from typing import Any

from worker_agent.cgroups import Containment
from worker_agent.confinement import Confinement
from worker_agent.process_tree import become_subreaper, read_stat
from worker_agent.shim_process import shim_main
from worker_agent.shim_protocol import SOCKET_PATH_BYTES_MAX, Decoder, ProtocolError, encode

_OURS = (b"HOSTLER_", b"GRPC_ENABLE_FORK_SUPPORT", b"GRPC_EXPERIMENTS")


class Launcher:
    """The loop of the launcher process."""

    def __init__(
        self, control: socket.socket, *, segments: str, sockets: str, cgroup_prefix: str, containment: Containment
    ) -> None:
        self._control = control
        self._segments = segments
        self._sockets = sockets
        self._cgroup_prefix = cgroup_prefix
        self._containment = containment
        self._program_mask = int(os.environb.get(b"HOSTLER_UMASK", b"77"), 8)
        self._base_env = {k: v for k, v in os.environb.items() if not k.startswith(_OURS)}

    def run(self) -> None:
        """Serve until the agent closes its end."""
        decoder = Decoder()
        while True:
            try:
                content = self._control.recv(65536)
                messages = decoder.feed(content)
            except (OSError, ProtocolError):
                return
            if not content:
                return
            for message in messages:
                try:
                    self._control.sendall(encode(self._fork(message)))
                except OSError:
                    return

    def _fork(self, message: dict[str, Any]) -> dict[str, Any]:
        shim = int(message["shim"])
        path = os.path.join(self._sockets, f"shim-{shim}.sock")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
                raise OSError(f"socket path too long: {path}")
            # Bound before the fork, so that an agent that has our answer can connect at once,
            # and an agent that comes later finds every shim that could have an order.
            listener.bind(path)
            listener.listen(16)
            pid = os.fork()
        except OSError as error:
            listener.close()
            return {"type": "not_forked", "shim": shim, "error": str(error)}
        if pid == 0:
            self._be_shim(shim, message, listener)
        listener.close()
        stat = read_stat(pid)
        return {"type": "forked", "shim": shim, "pid": pid, "start_ticks": stat.start_ticks if stat else 0}

    def _be_shim(self, shim: int, message: dict[str, Any], listener: socket.socket) -> None:
        code = 1
        try:
            self._control.close()
            # Programs run with the mask that the worker was started with; what a shim writes itself says its mode.
            os.umask(self._program_mask)
            shim_main(
                shim=shim,
                nonce=str(message["nonce"]),
                listener=listener,
                segments=self._segments,
                cgroup_name=f"{self._cgroup_prefix}-{shim}",
                containment=self._containment,
                base_env=self._base_env,
                confinement=Confinement.from_json(message.get("confined")),
            )
            code = 0
        except BaseException:
            # The owner of the process: whatever went wrong is told here, and nothing of the launcher may run on.
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)


def main() -> None:
    """Read the arguments and serve."""
    # Without argparse, which would stay in every shim: only the agent gives us arguments, always as pairs.
    arguments = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    fd = int(arguments["--fd"])
    os.umask(0o077)
    # Dead shims leave no zombie, and orphans of a killed shim are adopted and reaped here.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    become_subreaper("hostler-launch")
    gc.collect()
    gc.freeze()
    os.set_inheritable(fd, False)
    control = socket.socket(fileno=fd)
    Launcher(
        control,
        segments=arguments["--segments"],
        sockets=arguments["--sockets"],
        cgroup_prefix=arguments["--cgroup"],
        containment=Containment(arguments.get("--containment", Containment.AUTO)),
    ).run()


if __name__ == "__main__":
    main()
