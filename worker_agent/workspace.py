"""A workspace: the directory of one attempt, with what its program is given and what it leaves.

    inputs/ outputs/ script/    directories, made before the start
    params.json                 what the job was given, when it is among its files
    progress result.json failure.json    written by the program
    plan.json                   how it was started, for the agent that collects

It lies in the worker's data directory (mode 0700) under the attempt's key, and goes when the
coordinator has let the attempt go. Whatever the program did there is read without following its links.
Limits: blocking; what may take long belongs in a thread.
"""

import contextlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from hostler.job_checks import is_workspace_path
from hostler.jobs import INLINE_BYTES_MAX, Failure, OutputFile
from worker_agent import output_files
from worker_agent.output_files import Survey

INPUTS: Final = "inputs"
OUTPUTS: Final = "outputs"
SCRIPT: Final = "script"
PARAMS: Final = "params.json"
PROGRESS: Final = "progress"
RESULT: Final = "result.json"
FAILURE: Final = "failure.json"
PLAN: Final = "plan.json"
RESERVE_BYTES: Final = 64 * 1024 * 1024  # stays free on the worker's disk when files are fetched
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOUNTS: Final = Path("/proc/self/mountinfo")


class Plan(NamedTuple):
    """What is done after the end of an attempt, by how it was started."""

    container: bool = False  # it ran in a container, which is removed
    service: str = ""  # it called this service, which then has one call less
    result_stdout: bool = False  # its standard output is its result


class Workspace:
    """The directory of one attempt; nothing is touched before `make`."""

    def __init__(self, path: Path) -> None:
        """*path* is absolute."""
        self.path = path

    # -- before the start

    def make(self, contents: Mapping[str, bytes]) -> None:
        """Make the directories, and the files that came with their content. Raises OSError, also ENOSPC."""
        if self.path.exists():
            self.remove()
        self.path.mkdir(mode=0o700)
        for name in (INPUTS, OUTPUTS, SCRIPT):
            (self.path / name).mkdir(mode=0o700)
        for path, content in contents.items():
            fd = self.create(path)
            try:
                write_all(fd, content)
            finally:
                os.close(fd)

    def create(self, path: str) -> int:
        """Make a file and return its descriptor, for writing. What lies in script/ may be executed.

        Raises:
            OSError: it cannot be made.
        """
        if not is_workspace_path(path):
            raise OSError(f"{path!r} lies outside the workspace")
        made = self.path / path
        made.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = 0o700 if path.startswith(SCRIPT + "/") else 0o600
        return os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)

    def free_bytes(self) -> int:
        """The room for files: what is free on the disk, a reserve aside."""
        return shutil.disk_usage(self.path.parent).free - RESERVE_BYTES

    def write_plan(self, plan: Plan) -> None:
        """Keep how the attempt is started, for whoever collects it. Raises OSError."""
        fd = os.open(self.path / PLAN, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            write_all(fd, json.dumps(plan._asdict()).encode())
        finally:
            os.close(fd)

    def read_plan(self) -> Plan:
        """Return how the attempt was started. The program may have changed it, to its own harm only."""
        try:
            content = json.loads(self.read(PLAN, INLINE_BYTES_MAX))
            plan = Plan(**content)
        except (OSError, ValueError, TypeError, RecursionError):
            return Plan()
        return plan if all(type(mine) is type(its) for mine, its in zip(plan, Plan(), strict=True)) else Plan()

    def environment(self) -> dict[str, str]:
        """The variables from which a program learns its workspace."""
        at = self.path
        return {
            "HOSTLER_WORKSPACE": str(at),
            "HOSTLER_INPUT_DIR": str(at / INPUTS),
            "HOSTLER_OUTPUT_DIR": str(at / OUTPUTS),
            "HOSTLER_PROGRESS_FILE": str(at / PROGRESS),
            "HOSTLER_RESULT_FILE": str(at / RESULT),
            "HOSTLER_FAILURE_FILE": str(at / FAILURE),
            "HOSTLER_PARAMS_FILE": str(at / PARAMS),
        }

    # -- while it runs, and after

    def open_outputs(self) -> int:
        """Open the output directory; what took its place is not followed. Raises OSError."""
        with self._opened() as fd:
            return output_files.open_directory(fd, OUTPUTS)

    def open_output(self, path: str) -> tuple[int, os.stat_result]:
        """Open a regular file of the output directory by its path there.

        Raises:
            OSError: it is not there, or no regular file, or a link is on the way.
            ValueError: the path does not lead below the directory.
        """
        outputs = self.open_outputs()
        try:
            fd, status = output_files.open_regular(outputs, os.fsencode(path))
        finally:
            os.close(outputs)
        self._check_owner(fd, status)
        return fd, status

    def list_outputs(self) -> tuple[OutputFile, ...]:
        """Return what is in the output directory now (at most 1,000 files); nothing when it is not there."""
        try:
            outputs = self.open_outputs()
        except OSError:
            return ()
        try:
            return output_files.list_now(outputs)
        finally:
            os.close(outputs)

    def survey(self) -> Survey:
        """Return what the program left in its output directory."""
        try:
            outputs = self.open_outputs()
        except FileNotFoundError:
            return Survey()  # it removed the directory, and so left nothing
        except OSError as error:
            return Survey(missing=(f"{OUTPUTS}: {output_files.reason_of(error)}",))
        try:
            return output_files.survey(outputs)
        finally:
            os.close(outputs)

    def read_failure(self) -> Failure | None:
        """Return the exception that ended a script; None when it wrote none, or something else."""
        try:
            content = json.loads(self.read(FAILURE, INLINE_BYTES_MAX))
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(content, dict) or not content:
            return None
        texts = (_text(content.get(name)) for name in ("type", "module", "message", "traceback"))
        kind, module, message, traceback = texts
        return Failure(type=kind, module=module, message=message, traceback=traceback)

    def read(self, name: str, bytes_max: int) -> bytes:
        """Return the content of a file of the workspace. Raises OSError, and ValueError when it is larger."""
        with self._opened() as at:
            fd, status = output_files.open_regular(at, name.encode())
        self._check_owner(fd, status)
        with open(fd, "rb") as file:
            content = file.read(bytes_max + 1)
        if len(content) > bytes_max:
            raise ValueError(f"it has {status.st_size} bytes; at most {bytes_max} are kept")
        return content

    def size_of(self, name: str) -> int:
        """Return how many bytes a file of the workspace has now. Raises OSError."""
        with self._opened() as at:
            fd, status = output_files.open_regular(at, name.encode())
        os.close(fd)
        return status.st_size

    def _check_owner(self, fd: int, status: os.stat_result) -> None:
        """Take no file of somebody else's that a program of another user has linked to. Closes *fd* and raises OSError.

        What may lie in a workspace of root's is root's own affair, and that of the users inside its containers.
        """
        owner = os.stat(self.path, follow_symlinks=False).st_uid
        if owner not in (0, os.getuid(), status.st_uid):
            os.close(fd)
            raise output_files.NotRegular("a file of another user")

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        fd = os.open(self.path, _DIRECTORY)
        try:
            yield fd
        finally:
            os.close(fd)

    # -- the end

    def remove(self, go_on: Callable[[], bool] = lambda: True) -> None:
        """Remove everything; *go_on* is asked before each directory.

        Every directory that is found is moved up next to the first, so neither the depth of the tree nor the
        number of descriptors matters. A file system that the program mounted there is not ours to empty.

        Raises:
            OSError: something stays: it is immutable, or mounted. The rest is removed.
        """
        if self.path.is_symlink():
            self.path.unlink()  # the program put a link in its place: what it leads to is not ours
            return
        if _has_mounts(self.path):
            raise OSError(f"something is mounted in {self.path}")
        top = os.open(self.path, _DIRECTORY)
        failed: list[OSError] = []
        try:
            os.fchmod(top, 0o700)
            pending = _empty(top, top, failed)
            while pending and go_on():
                name = pending.pop()
                with _noted(failed):
                    _open_up(top, name)
                    fd = output_files.open_directory(top, os.fsdecode(name))
                    try:
                        pending += _empty(fd, top, failed)
                    finally:
                        os.close(fd)
                    os.rmdir(name, dir_fd=top)
        finally:
            os.close(top)
        try:
            self.path.rmdir()
        except OSError as error:
            raise (failed[0] if failed else error) from None


def write_all(fd: int, content: bytes) -> None:
    """Write everything. Raises OSError, also when the disk is full."""
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def _empty(fd: int, top: int, failed: list[OSError]) -> list[bytes]:
    """Unlink the files of an open directory and move its directories into *top*; return their names there."""
    with os.scandir(fd) as entries:
        names = [os.fsencode(each.name) for each in entries]
    directories = []
    for name in names:
        with _noted(failed):
            if not stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=fd)
                continue
            if fd != top:
                _open_up(fd, name)  # to move a directory is to write into it
                moved = f".{secrets.token_hex(16)}".encode()
                os.rename(name, moved, src_dir_fd=fd, dst_dir_fd=top)
                name = moved
            directories.append(name)
    return directories


def _open_up(parent: int, name: bytes) -> None:
    """Give its owner every right on a directory; /proc names the one that was found, whatever is put in its place."""
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _noted(failed: list[OSError]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        failed.append(error)


def _has_mounts(path: Path) -> bool:
    place = os.fsencode(path)
    for each in b"\\ \t\n":  # as the kernel writes them there
        place = place.replace(bytes([each]), b"\\%03o" % each)
    with contextlib.suppress(OSError):
        mounts = _MOUNTS.read_bytes()
        return b" " + place + b"/" in mounts or b" " + place + b" " in mounts
    return False


def _text(value: Any) -> str:
    """A text that can be sent: JSON may hold halves of surrogate pairs, UTF-8 may not."""
    text = value if isinstance(value, str) else ""
    return text.encode("utf-8", "replace").decode()
