"""What programs leave in a workspace: every kind of name and file is found, opened and removed; no link is followed."""

import errno
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hostler.jobs import Advance, Failure, OutputFile
from worker_agent import output_files
from worker_agent.notes import Notes
from worker_agent.output_files import NotRegular, open_regular, survey
from worker_agent.progress_file import PIECE_BYTES, ProgressFile
from worker_agent.results import read_file
from worker_agent.runtimes import python
from worker_agent.workspace import Workspace

PATHS_OUTSIDE = ["", "/", "/etc/passwd", "..", "../x", "a/../b", "./a", "a//b", "a/", "a/.", "x\0y"]


@pytest.fixture
def workspace(place: Path) -> Workspace:
    """A workspace that was made."""
    made = Workspace(place / "job.0.1")
    made.make({})
    return made


@pytest.fixture
def outputs(workspace: Workspace) -> Path:
    """Its output directory."""
    return workspace.path / "outputs"


@pytest.mark.parametrize("path", PATHS_OUTSIDE)
def test_no_path_leads_out_of_the_output_directory(workspace: Workspace, path: str) -> None:
    """Absolute ones, those with "..", and those with empty parts name nothing."""
    with pytest.raises((ValueError, OSError)):
        workspace.open_output(path)


@pytest.mark.parametrize("path", PATHS_OUTSIDE)
def test_no_file_is_made_outside_the_workspace(workspace: Workspace, path: str) -> None:
    """Whatever a message says."""
    with pytest.raises(OSError, match="outside"):
        workspace.create(path)


def test_links_are_followed_nowhere(workspace: Workspace, outputs: Path, place: Path) -> None:
    """Not as the file, not on the way, and not in place of the output directory."""
    (place / "secret").mkdir()
    (place / "secret/file").write_text("secret")
    (outputs / "link").symlink_to(place / "secret/file")
    (outputs / "folder").symlink_to(place / "secret")
    (outputs / "loop").symlink_to("loop")

    for path in ("link", "folder/file", "loop"):
        with pytest.raises(OSError, match=r"Too many levels|Not a directory"):
            workspace.open_output(path)
    found = workspace.survey()
    assert found.files == ()
    assert {text.partition(": ")[2] for text in found.missing} == {"a symbolic link, not a regular file"}

    outputs.rename(workspace.path / "moved")
    outputs.symlink_to(place / "secret")
    assert workspace.survey().missing == ("outputs: not a directory",)
    assert workspace.list_outputs() == ()


def test_only_regular_files_are_kept_and_the_rest_is_named(workspace: Workspace, outputs: Path) -> None:
    """A pipe without a writer blocks nobody."""
    (outputs / "ok").write_bytes(b"12345")
    os.mkfifo(outputs / "pipe")
    os.mknod(outputs / "device", 0o600 | 0o020000, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(outputs / "socket"))
        found = workspace.survey()

    assert [(file.path, file.size_bytes) for file in found.files] == [(b"ok", 5)]
    assert sorted(found.missing) == [
        "device: a device, not a regular file",
        "pipe: a pipe, not a regular file",
        "socket: a socket, not a regular file",
    ]
    with pytest.raises(NotRegular):
        workspace.open_output("pipe")


def test_names_that_are_no_text_are_named_with_backslashes(workspace: Workspace, outputs: Path) -> None:
    """A line feed in a name is kept in the path and escaped for people; what is no UTF-8 cannot be kept."""
    for name in (b"ok\nfile", "ä".encode(), b"bad\xff", b"\xf0\x9f\x90\xb4"):
        (outputs / os.fsdecode(name)).write_text("x")
    (outputs / "two\nlines").mkdir()
    (outputs / "two\nlines/link").symlink_to("x")

    found = workspace.survey()

    assert {file.path.decode() for file in found.files} == {"ok\nfile", "ä", "🐴"}
    assert sorted(found.missing) == [
        "bad\\xff: its name is no UTF-8",
        "two\\nlines/link: a symbolic link, not a regular file",
    ]


def test_a_path_may_be_1000_characters_long(workspace: Workspace, outputs: Path) -> None:
    """A longer one is named; a tree that is deeper than any path is not gone into for ever."""
    at = os.open(outputs, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 199, dir_fd=at)
        below = os.open("d" * 199, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
        for name in ("f" * 200, "g" * 199):
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=at))
    os.close(at)

    found = workspace.survey()

    assert max(len(file.path) for file in found.files) == 1000
    assert len(found.files) == 8
    assert all("more than 1000 characters" in text for text in found.missing)
    workspace.remove()
    assert not workspace.path.exists()


def test_ten_thousand_files_are_kept_and_the_others_are_counted(workspace: Workspace, outputs: Path) -> None:
    """At most a thousand are named as missing."""
    for number in range(10_001):
        os.mknod(outputs / f"{number:05}")
    found = workspace.survey()
    assert (len(found.files), found.missing) == (10_000, ("10000: more than 10000 files",))
    assert len(workspace.list_outputs()) == 1_000

    found = survey_with(outputs, files_max=10)

    assert len(found.files) == 10
    assert len(found.missing) == output_files.MISSING_MAX
    assert found.missing[-1] == "and 8992 more"


def survey_with(directory: Path, *, files_max: int) -> output_files.Survey:
    """Survey a directory with another limit."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        return survey(fd, files_max)
    finally:
        os.close(fd)


def test_the_number_of_entries_that_are_looked_at_has_an_end(outputs: Path) -> None:
    """The place where it ended is said."""
    for number in range(5):
        (outputs / f"{number}").touch()
    fd = os.open(outputs, os.O_RDONLY)
    try:
        seen = list(output_files.walk(fd, 3))
    finally:
        os.close(fd)

    assert len(seen) == 4
    assert seen[-1][1] is None


def test_what_the_agent_may_not_read_is_named(workspace: Workspace, outputs: Path, place: Path) -> None:
    """Seen as another user, because root may read everything."""
    (outputs / "closed").mkdir()
    (outputs / "closed/x").touch()
    (outputs / "file").touch()
    for path in (place, workspace.path, outputs):
        path.chmod(0o755)
    (outputs / "closed").chmod(0o700)
    (outputs / "file").chmod(0o600)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path;"
        "from worker_agent.workspace import Workspace; w = Workspace(Path(sys.argv[2])); print(w.survey().missing)\n"
        "try: w.open_output('file')\n"
        "except OSError as error: print(error.strerror)"
    )
    arguments = [sys.executable, "-c", code, str(Path(__file__).parents[2]), str(workspace.path)]
    ended = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert ended.stdout.splitlines() == ["('closed: permission denied',)", "Permission denied"], ended.stderr


@pytest.mark.parametrize(
    ("content", "result", "problem"),
    [
        (b'{"a": [1, "x"]}\n', b'{"a": [1, "x"]}', ""),
        (b"", b"", ""),
        (b'"' + b"x" * (256 * 1024 - 2) + b'"', b'"' + b"x" * (256 * 1024 - 2) + b'"', ""),
        (b'"' + b"x" * (256 * 1024 - 1) + b'"', b'"' + b"x" * (256 * 1024 - 1) + b'"', ""),
        (b'"' + b"x" * (256 * 1024 - 1) + b"\n", b"", "result.json: "),
        (b'"' + b"\xff" * (256 * 1024) + b'"', b"", "result.json: "),
        (b"[" * (256 * 1024) + b"]" * (256 * 1024), b"", "result.json: "),
        (b" " * (64 * 1024 * 1024 + 1), b"", "result.json: it has 67108865 bytes; at most 67108864 are kept"),
        (b"{", b"", "result.json: "),
        (b"NaN", b"", "result.json: NaN is no JSON"),
        (b"\xff\xfe1", b"", "result.json: "),
        (b"[" * 200_000, b"", "result.json: "),
    ],
)
def test_a_result_is_json_of_at_most_64_mib(workspace: Workspace, content: bytes, result: bytes, problem: str) -> None:
    """Else it is named as missing, with the reason."""
    (workspace.path / "result.json").write_bytes(content)

    found, reason, _ = read_file(workspace)

    assert found == result
    assert reason.startswith(problem)
    assert bool(reason) == bool(problem)


def test_a_result_or_a_failure_that_is_a_link_is_not_read(workspace: Workspace, place: Path) -> None:
    """A program must not make us read what it may not."""
    (place / "secret").write_text('{"type": "secret"}')
    for name in ("result.json", "failure.json", "progress"):
        (workspace.path / name).symlink_to(place / "secret")

    assert read_file(workspace).content == b""
    assert read_file(workspace).missing.startswith("result.json: ")
    assert workspace.read_failure() is None
    assert not ProgressFile(workspace).read_more()


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("", None),
        ("{}", None),
        ("[]", None),
        ('{"type": "E", "module": 3, "message": "\\ud800"}', Failure(type="E", module="", message="?")),
    ],
)
def test_a_failure_of_any_form_is_read(workspace: Workspace, text: str, failure: Failure | None) -> None:
    """What is no failure is none; texts can be sent."""
    (workspace.path / "failure.json").write_text(text)

    assert workspace.read_failure() == failure


def test_what_lies_in_script_can_be_executed_and_nobody_else_may_read(workspace: Workspace) -> None:
    """Directories 0700, files 0600, scripts 0700."""
    made = Workspace(workspace.path.parent / "other.0.1")
    made.make({"script/run": b"#!/bin/sh\n", "inputs/a/b": b"x", "params.json": b"{}"})

    modes = {str(p.relative_to(made.path)): p.stat().st_mode & 0o777 for p in made.path.rglob("*")}
    assert modes == {
        "inputs": 0o700,
        "outputs": 0o700,
        "script": 0o700,
        "script/run": 0o700,
        "inputs/a": 0o700,
        "inputs/a/b": 0o600,
        "params.json": 0o600,
    }


@pytest.mark.parametrize("make", [lambda p: p.chmod(0), lambda p: p.chmod(0o500), lambda p: (p / "x").chmod(0)])
def test_directories_without_rights_are_removed(
    workspace: Workspace, outputs: Path, make: Callable[[Path], None]
) -> None:
    """Whatever a program did to its own directories."""
    (outputs / "d/x").mkdir(parents=True)
    (outputs / "d/x/file").touch()
    make(outputs / "d")

    workspace.remove()

    assert not workspace.path.exists()


def test_what_cannot_be_removed_stays_alone(
    workspace: Workspace, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an immutable file does: everything else goes, and the error is the owner's to tell."""
    (outputs / "d").mkdir()
    for path in ("d/fixed", "d/other", "other"):
        (outputs / path).touch()
    unlink = os.unlink

    def refuse(name: bytes, *, dir_fd: int) -> None:
        if name == b"fixed":
            raise PermissionError(errno.EPERM, "Operation not permitted")
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(PermissionError):
        workspace.remove()

    assert [path.name for path in workspace.path.rglob("*") if path.is_file()] == ["fixed"]
    monkeypatch.undo()
    workspace.remove()


def test_a_tree_deeper_than_any_path_is_removed(workspace: Workspace, outputs: Path, place: Path) -> None:
    """Neither recursion nor the number of descriptors nor the length of a path ends it; links are only unlinked."""
    (place / "kept").mkdir()
    (place / "kept/file").touch()
    deepest = os.open(outputs, os.O_RDONLY)
    for _ in range(3_000):
        os.mkdir("d", dir_fd=deepest)
        below = os.open("d", os.O_RDONLY, dir_fd=deepest)
        os.close(deepest)
        deepest = below
    os.symlink(place / "kept", "link", dir_fd=deepest)
    os.close(deepest)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 20, before[1]))
    try:
        workspace.remove()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

    assert not workspace.path.exists()
    assert (place / "kept/file").exists()


def test_what_a_program_mounted_is_not_emptied(
    workspace: Workspace, outputs: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount below a workspace may be anything of the host's: nothing at all is removed."""
    mounts = place / "mountinfo"
    mounts.write_text(f"36 35 98:0 / {outputs}/sub rw,noatime - ext3 /dev/root rw\n")
    monkeypatch.setattr("worker_agent.workspace._MOUNTS", mounts)
    (outputs / "file").touch()

    with pytest.raises(OSError, match="mounted"):
        workspace.remove()

    assert (outputs / "file").exists()


def test_the_progress_file_is_read_as_it_grows_and_from_the_start_when_it_shrinks(workspace: Workspace) -> None:
    """A piece at a time; what was there before is only told once all of it is read."""
    path = workspace.path / "progress"
    filler = b"x" * 99 + b"\n"
    path.write_bytes(filler * 700 + b'{"percent": 10}\n')
    assert path.stat().st_size > PIECE_BYTES
    progress = ProgressFile(workspace)

    assert [progress.read_more(), progress.read_more(), progress.read_more()] == [False, True, False]
    assert progress.advance().percent == 10
    with path.open("ab") as file:
        file.write(b'{"percent": 20')
        file.flush()
        progress.read_more()
        assert progress.advance().percent == 10
        file.write(b"}\n")
    assert progress.read_more()
    assert progress.advance().percent == 20
    path.write_bytes(b'{"percent": 5}\n')
    assert progress.read_more()
    assert progress.advance().percent == 5


def test_notes_say_what_has_changed_and_everything_on_a_new_stream() -> None:
    """A phase that is over before anybody was told is not told."""
    notes = Notes()
    notes.phase("a", "preparing")
    notes.phase("a", "")
    assert notes.take() == []
    files = (OutputFile(path="o", size_bytes=1, modified_at_us=2),)
    assert notes.outputs("a", files)
    assert not notes.outputs("a", files)
    notes.advance("a", Advance(percent=3))
    assert [(n.advance.percent, n.outputs) for n in notes.take()] == [(3, files)]
    notes.phase("a", "collecting")
    assert [(n.phase, n.advance.percent, n.outputs) for n in notes.take()] == [("collecting", 3, None)]
    assert not notes
    notes.connected()
    assert [(n.phase, n.outputs) for n in notes.take()] == [("collecting", files)]
    notes.drop("a")
    notes.connected()
    assert not notes


def test_a_file_is_opened_only_as_what_it_was_found_to_be(outputs: Path) -> None:
    """Between the two a program may have put something else in its place."""
    (outputs / "x").mkdir()
    fd = os.open(outputs, os.O_RDONLY)
    try:
        with pytest.raises(NotRegular):
            open_regular(fd, b"x")
    finally:
        os.close(fd)


def test_the_folder_of_scripts_is_made_by_many_at_once(place: Path) -> None:
    """The first scripts of a worker may come together: each finds every file, whole, and none falls over another."""
    for number in range(10):
        folder = place / str(number)
        with ThreadPoolExecutor(8) as threads:
            made = list(threads.map(python.install, [folder] * 8))
        assert set(made) == {folder}
        assert {str(path.relative_to(folder)) for path in folder.rglob("*.*")} == set(python.SOURCES)
