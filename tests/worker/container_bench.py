"""A podman of its own for tests, with an image of busybox, and the search that proves that nothing of it is left."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from worker_agent.podman import look, options_for

IMAGE = "localhost/hostler-test:1"
WITHIN_S = 60.0


class PodmanBench:
    """Where a podman keeps what it has, below one temporary directory."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.options = (
            f"--root={place}/root",
            f"--runroot={place}/run",
            f"--tmpdir={place}/tmp",
            "--storage-driver=overlay",
        )

    def call(self, *arguments: str) -> str:
        """Run podman to its end and return what it says."""
        always, _ = options_for(look())
        argv = ["podman", *always, *self.options, *arguments]
        return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=WITHIN_S).stdout

    def make_image(self) -> None:
        """Make an image of busybox alone."""
        root = self.place / "image"
        (root / "bin").mkdir(parents=True)
        (root / "tmp").mkdir()
        (root / "tmp").chmod(0o1777)
        shutil.copy("/bin/busybox", root / "bin")
        names = subprocess.run(["/bin/busybox", "--list"], check=True, capture_output=True, text=True).stdout.split()
        for name in set(names) - {"busybox"}:
            (root / "bin" / name).symlink_to("busybox")
        archive = self.place / "image.tar"
        subprocess.run(["tar", "-C", str(root), "-cf", str(archive), "."], check=True, timeout=WITHIN_S)
        self.call("import", str(archive), IMAGE)

    def containers(self) -> list[dict[str, Any]]:
        """Every container there is."""
        return list(json.loads(self.call("ps", "--all", "--format", "json")))

    def left(self) -> list[str]:
        """What containers have left: themselves, mounts, their helpers, their states and cgroups."""
        found = [f"container {each['Names']}" for each in self.containers()]
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        # The first mount makes podman's own folder a mount point, for good.
        found += [line for line in mounts if f"{self.place}/" in line and not line.split()[4].endswith("/overlay")]
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = process.read_bytes()
            except OSError:
                continue
            if b"conmon\0" in command and os.fsencode(self.place) in command:
                found.append(f"conmon {process.parent.name}")
        for state in Path("/run/runc").glob("*/state.json"):
            if str(self.place) in state.read_text():
                found.append(f"state {state.parent.name}")
        return found

    def wait_for_nothing(self) -> None:
        """Fail unless nothing is left, soon."""
        until = time.monotonic() + WITHIN_S
        while left := self.left():
            assert time.monotonic() < until, f"left over: {left}"
            time.sleep(0.2)


@contextmanager
def a_podman() -> Iterator[PodmanBench]:
    """A podman with the image; afterwards its mounts and files are removed."""
    made = PodmanBench(Path(tempfile.mkdtemp(prefix="hp-")))
    try:
        made.make_image()
        yield made
    finally:
        subprocess.run(["umount", f"{made.place}/root/overlay"], capture_output=True, timeout=WITHIN_S)
        shutil.rmtree(made.place)


def file_bytes(path: Path) -> Callable[[], bytes]:
    """Return a look at a file's content; empty while it is not there."""
    return lambda: path.read_bytes() if path.exists() else b""
