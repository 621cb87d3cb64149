"""outputs ls and outputs get, against a fake cluster that may be malicious."""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hostler.errors import Unavailable
from hostler.jobs import JobSpec, OutputFile, Outputs, Work
from hostler.shape import outputs_shape
from tests.cli.conftest import Answer
from tests.cli.fake_cluster import NOON_US, FakeCluster, exited

Hostler = Callable[..., Answer]
CONTENTS = {"a.txt": b"alpha", "mesh/b.bin": bytes(range(256)), "mesh/deep/c": b""}


def put_out(fake: FakeCluster, contents: dict[str, bytes], *, live: bool = False) -> str:
    """A job that has put out files."""
    job = fake.add(None if live else exited(0), spec=JobSpec(work=Work(argv=("x",))))
    fake.contents = contents
    fake.outputs[job] = Outputs(
        files=tuple(
            OutputFile(
                path=path,
                size_bytes=len(content),
                modified_at_us=NOON_US,
                digest="" if live else hashlib.sha256(content).hexdigest(),
            )
            for path, content in contents.items()
        ),
        live=live,
    )
    return job


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by path."""
    return {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


def test_ls_lists_them(hostler: Hostler, fake: FakeCluster) -> None:
    """Sizes and paths; as JSON all that is known."""
    job = put_out(fake, CONTENTS)

    lines = hostler("outputs", "ls", job).out.splitlines()

    assert [line.split()[-1] for line in lines] == ["PATH", *CONTENTS]
    outputs = fake.outputs[job]
    assert isinstance(outputs, Outputs)
    assert json.loads(hostler("outputs", "ls", job, "--json").out) == outputs_shape(outputs)


def test_get_writes_every_file_as_it_is(hostler: Hostler, fake: FakeCluster, tmp_path: Path) -> None:
    """Folders are made, times are kept, nothing else is left behind."""
    job = put_out(fake, CONTENTS)

    answer = hostler("outputs", "get", job, "--into", str(tmp_path / "new/dir"))

    assert (answer.code, answer.err) == (0, "")
    assert files_below(tmp_path / "new/dir") == CONTENTS
    assert (tmp_path / "new/dir/a.txt").stat().st_mtime_ns == NOON_US * 1000


def test_get_takes_files_and_folders_by_name(hostler: Hostler, fake: FakeCluster, tmp_path: Path) -> None:
    """What is not there is code 3, and nothing is written then."""
    job = put_out(fake, CONTENTS)

    assert hostler("outputs", "get", job, "a.txt", "nope", "--into", str(tmp_path)).code == 3
    assert files_below(tmp_path) == {}
    answer = hostler("outputs", "get", job, "mesh/", "--into", str(tmp_path), "--json")
    assert set(files_below(tmp_path)) == {"mesh/b.bin", "mesh/deep/c"}
    first = json.loads(answer.out)["files"][0]
    assert first["path"] == "mesh/b.bin" and first["file"] == str(tmp_path / "mesh/b.bin")
    assert first["digest"] == hashlib.sha256(CONTENTS["mesh/b.bin"]).hexdigest()


def test_an_empty_path_is_refused(hostler: Hostler, fake: FakeCluster, tmp_path: Path) -> None:
    """It is no file, and no folder with all in it."""
    job = put_out(fake, CONTENTS)

    answer = hostler("outputs", "get", job, "", "--into", str(tmp_path))

    assert (answer.code, answer.out) == (2, "") and "a PATH is empty" in answer.err
    assert files_below(tmp_path) == {}


def test_nothing_is_overwritten_unless_forced(hostler: Hostler, fake: FakeCluster, tmp_path: Path) -> None:
    """Found before anything moves."""
    job = put_out(fake, CONTENTS)
    (tmp_path / "mesh").mkdir()
    (tmp_path / "mesh/b.bin").write_text("mine")

    answer = hostler("outputs", "get", job, "--into", str(tmp_path))

    assert answer.code == 2 and "--force" in answer.err
    assert files_below(tmp_path) == {"mesh/b.bin": b"mine"}
    assert hostler("outputs", "get", job, "--into", str(tmp_path), "--force").code == 0
    assert files_below(tmp_path) == CONTENTS


@pytest.mark.parametrize("path", ["../evil", "/evil", "a/../../evil", "a//b", "", ".", "a/./b", "x\0y"])
def test_no_server_can_write_outside_the_directory(
    path: str, hostler: Hostler, fake: FakeCluster, tmp_path: Path
) -> None:
    """A path that leads outside is refused, whatever it leads to."""
    (tmp_path / "in").mkdir()
    job = put_out(fake, {path: b"evil"})

    assert hostler("outputs", "get", job, "--into", str(tmp_path / "in"), "--force").code == 1
    assert files_below(tmp_path) == {}


def test_links_are_not_followed(hostler: Hostler, fake: FakeCluster, tmp_path: Path) -> None:
    """Neither for a folder nor for the file itself."""
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (outside / "b.bin").write_text("precious")
    (inside / "mesh").symlink_to(outside)
    (inside / "a.txt").symlink_to(outside / "b.bin")
    job = put_out(fake, {"mesh/b.bin": b"evil", "a.txt": b"alpha"})

    answer = hostler("outputs", "get", job, "mesh", "--into", str(inside), "--force")
    assert answer.code == 1 and "links are not followed" in answer.err
    assert hostler("outputs", "get", job, "a.txt", "--into", str(inside)).code == 2
    assert hostler("outputs", "get", job, "a.txt", "--into", str(inside), "--force").code == 0
    assert (outside / "b.bin").read_text() == "precious"
    assert not (inside / "a.txt").is_symlink()


def test_spoiled_bytes_are_not_kept(hostler: Hostler, fake: FakeCluster, tmp_path: Path) -> None:
    """The digest is compared before the file gets its name."""
    job = put_out(fake, CONTENTS)
    fake.spoils = True

    answer = hostler("outputs", "get", job, "--into", str(tmp_path))

    assert answer.code == 1 and "did not arrive" in answer.err
    assert files_below(tmp_path) == {}


def test_files_of_a_running_job_can_be_fetched(hostler: Hostler, fake: FakeCluster, tmp_path: Path) -> None:
    """They have no digest yet."""
    job = put_out(fake, {"a.txt": b"half"}, live=True)

    assert hostler("outputs", "get", job, "--into", str(tmp_path)).code == 0
    assert files_below(tmp_path) == {"a.txt": b"half"}


def test_an_archive_is_one_file(hostler: Hostler, fake: FakeCluster, tmp_path: Path) -> None:
    """It must be a whole one, and does not replace another."""
    job = put_out(fake, CONTENTS)
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("a.txt", "alpha")
    target = str(tmp_path / "all.zip")

    fake.archive = written.getvalue()[:-5]
    assert hostler("outputs", "get", job, "--archive", target).code == 1
    assert files_below(tmp_path) == {}
    fake.archive = written.getvalue()
    assert hostler("outputs", "get", job, "--archive", target) == Answer(0, f"{target}\n", "")
    assert files_below(tmp_path) == {"all.zip": written.getvalue()}
    assert hostler("outputs", "get", job, "--archive", target).code == 2
    assert hostler("outputs", "get", job, "a.txt", "--archive", target, "--force").code == 2


def test_what_was_removed_or_could_not_be_kept_is_said(hostler: Hostler, fake: FakeCluster, tmp_path: Path) -> None:
    """Loss is never silent."""
    job = fake.add(exited(0), spec=JobSpec(work=Work(argv=("x",))))

    fake.outputs[job] = Outputs(expired=True)
    assert hostler("outputs", "get", job, "--into", str(tmp_path)).code == 3
    assert "removed" in hostler("outputs", "ls", job).err
    fake.outputs[job] = Outputs(missing=("big.bin: the disk was full",))
    assert "big.bin: the disk was full" in hostler("outputs", "get", job, "--into", str(tmp_path)).err
    assert hostler("outputs", "ls", "aaaabbbb-1111-4111-8111-111111111111").code == 3


def test_what_nobody_knows_while_a_worker_is_away_is_not_said_to_be_nothing(
    hostler: Hostler, fake: FakeCluster, tmp_path: Path
) -> None:
    """The worker's absence is named, and it is not taken for the coordinator's."""
    job = put_out(fake, {}, live=True)
    fake.outputs[job] = Unavailable("the worker that runs the job is not connected", field="worker")

    for command in (("ls", job), ("get", job, "--into", str(tmp_path))):
        answer = hostler("outputs", *command)
        assert (answer.code, answer.out) == (1, "")
        assert "the worker that runs the job is not connected" in answer.err
        assert "hostler workers shows which are connected" in answer.err
