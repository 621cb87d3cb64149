"""hostler.script's context: directories, input archives, and trying a script by hand."""

import io
import pickle
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from hostler import script
from hostler.script import Context, LocalContext
from tests.script.conftest import Place


def context(place: Place, **more: str) -> Context:
    """The context of a job in *place*."""
    return Context({"a": 1}, place.environment() | more)


def zipped(files: dict[str, str], path: Path) -> Path:
    """Make a zip of *files*."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(members: list[tuple[tarfile.TarInfo, bytes]], path: Path) -> Path:
    """Make a tar of *members*."""
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_a_context_is_a_dictionary_that_can_be_copied_and_pickled(place: Place) -> None:
    """The copies are of the same job, and their items are their own."""
    ctx = context(place, HOSTLER_COMPUTE_ONLY="1")

    other = ctx.clone(mine=2)
    pickled = pickle.loads(pickle.dumps(other))

    assert ctx.params == ctx["params"] == {"a": 1}
    assert "mine" not in ctx
    assert (other["mine"], other.workspace, other.job_id) == (2, place.workspace, "0d9f")
    assert (pickled, pickled.__dict__, type(pickled)) == (other, other.__dict__, Context)
    assert (ctx.is_local(), ctx.is_compute_only(), context(place).is_compute_only()) == (False, True, False)


def test_without_inputs_there_is_no_input_file(place: Place) -> None:
    """None, by either name."""
    ctx = context(place)

    assert (ctx.input_files, ctx.input_file, ctx.get_input_file()) == ([], None, None)


def test_directories_below_are_made_and_never_lead_out(place: Place) -> None:
    """The compatible names give text."""
    ctx = context(place)

    assert ctx.get_output_dir() == str(ctx.output_dir)
    assert ctx.get_output_dir("a/b") == str(ctx.output_dir / "a" / "b")
    assert (ctx.output_dir / "a" / "b").is_dir()
    assert ctx.get_input_dir("c") == str(ctx.input_dir / "c")
    for name in ("..", "a/../..", "/etc", "a\0b"):
        with pytest.raises(ValueError, match="leads out"):
            ctx.get_output_dir(name)


def test_execute_calls_a_function_or_another_script_here(place: Place) -> None:
    """With a copy of the context and, when given, other parameters."""
    other = place.put("script/other.py", "async def main(ctx, params):\n    return [params, ctx.job_id]")
    ctx = context(place)

    assert ctx.execute(lambda c, params: (c is ctx, params)) == (False, {"a": 1})
    assert ctx.execute(other, 5) == [5, "0d9f"]
    assert ctx.params == {"a": 1}


def test_by_hand_it_says_progress_and_uses_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Outside hostler, and with LocalContext everywhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.step").write_text("a")

    for ctx in (Context(), LocalContext({"x": 1})):
        ctx.total(2)
        ctx.step("one")
        ctx.percent(50.5)
        ctx.done()
        assert (ctx.is_local(), ctx.job_id, ctx.input_file) == (True, "local", tmp_path / "a.step")

    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == 2 * "progress: total 2\nprogress: step one\nprogress: percent 50\nprogress: stop True\n"
    assert LocalContext(output_dir=tmp_path / "o").output_dir == tmp_path / "o"


@pytest.mark.parametrize("name", ["scene.zip", "scene.TAR", "scene.tar.gz", "scene.tgz"])
def test_a_single_archive_is_unpacked_and_its_3d_file_is_the_input(name: str, place: Place) -> None:
    """The first in order of path, by its suffix, whatever its case; once; and `input_file` stays the archive."""
    files = {"readme.txt": "r", "b/wheel.CATPart": "wheel", "b/axle.prt.12": "axle", "z.stp": "z"}
    path = place.workspace / "inputs" / name
    if name.endswith(".zip"):
        zipped({"b/": "", **files}, path)
    else:
        tarred([(tarfile.TarInfo(f"./{one}"), text.encode()) for one, text in files.items()], path)
    ctx = context(place)

    found = ctx.get_input_file()

    assert found == str(place.workspace / "unpacked" / "b" / "axle.prt.12")
    assert Path(found).read_text() == "axle"
    assert (ctx.get_input_file(), context(place).get_input_file()) == (found, found)
    assert (ctx.input_file, ctx.input_files) == (path, [path])
    assert {one.name for one in place.workspace.iterdir()} == {"inputs", "outputs", "script", "unpacked"}


def test_the_root_file_is_the_one_that_the_job_names(place: Place) -> None:
    """Below the archive's root; one that is not there, or lies elsewhere, is an error."""
    zipped({"a.step": "a", "sub/b.txt": "b"}, place.workspace / "inputs" / "x.zip")

    found = context(place, HOSTLER_ROOT_FILE="sub/b.txt").get_input_file()

    assert found == str(place.workspace / "unpacked" / "sub" / "b.txt")
    with pytest.raises(FileNotFoundError, match=r"no file 'c\.step'"):
        context(place, HOSTLER_ROOT_FILE="c.step").get_input_file()
    with pytest.raises(ValueError, match="leads out"):
        context(place, HOSTLER_ROOT_FILE="../inputs/x.zip").get_input_file()


def test_an_archive_without_3d_files_gives_its_first_file_and_an_empty_one_none(place: Place) -> None:
    """The first in order of path."""
    archive = zipped({"b.txt": "b", "a.txt": "a"}, place.workspace / "inputs" / "x.zip")
    assert context(place).get_input_file() == str(place.workspace / "unpacked" / "a.txt")

    archive.unlink()
    zipped({}, place.workspace / "inputs" / "x.zip")
    assert LocalContext(input_dir=place.workspace / "inputs").get_input_file() is None


def test_an_archive_among_other_files_stays_an_archive(place: Place) -> None:
    """Only a single input is unpacked."""
    archive = zipped({"b.step": "b"}, place.workspace / "inputs" / "a.zip")
    place.put("inputs/c.step", "c")

    assert context(place).get_input_file() == str(archive)
    assert not (place.workspace / "unpacked").exists()


def link(kind: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    """A tar's member that is no file."""
    member = tarfile.TarInfo("odd")
    member.type, member.linkname = kind, "/etc/passwd"
    return [(tarfile.TarInfo("first"), b"first"), (member, b"")]


BAD_TARS = {
    "up": [(tarfile.TarInfo("a/../../up"), b"x")],
    "absolute": [(tarfile.TarInfo("/tmp/absolute"), b"x")],
    "symbolic": link(tarfile.SYMTYPE),
    "hard": link(tarfile.LNKTYPE),
    "character": link(tarfile.CHRTYPE),
    "block": link(tarfile.BLKTYPE),
    "fifo": link(tarfile.FIFOTYPE),
    "deep": [(tarfile.TarInfo("d/" * 120 + "x"), b"x")],
    "large": [(tarfile.TarInfo("large"), b"\0" * 5000)],
    "both": [(tarfile.TarInfo("one"), b"\0" * 2500), (tarfile.TarInfo("two"), b"\0" * 2500)],
    "many": [(tarfile.TarInfo(f"n{number}"), b"") for number in range(101)],
}


@pytest.mark.parametrize("name", BAD_TARS)
@pytest.mark.parametrize("suffix", ["zip", "tar.gz"])
def test_an_archive_that_is_not_safe_is_refused_and_leaves_nothing(
    name: str, suffix: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ways out, links, devices, more members or more bytes than allowed: with smaller limits here."""
    monkeypatch.setattr(script, "UNPACKED_BYTES_MIN", 4096)
    monkeypatch.setattr(script, "UNPACKED_RATIO_MAX", 1)
    monkeypatch.setattr(script, "MEMBERS_MAX", 100)
    path = place.workspace / "inputs" / f"x.{suffix}"
    if suffix == "zip":
        kinds = {tarfile.SYMTYPE: stat.S_IFLNK, tarfile.LNKTYPE: stat.S_IFLNK, tarfile.CHRTYPE: stat.S_IFCHR}
        kinds |= {tarfile.BLKTYPE: stat.S_IFBLK, tarfile.FIFOTYPE: stat.S_IFIFO}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in BAD_TARS[name]:
                entry = zipfile.ZipInfo(member.name)
                entry.external_attr = (kinds.get(member.type, stat.S_IFREG) | 0o644) << 16
                entry.compress_type = zipfile.ZIP_STORED if name == "many" else zipfile.ZIP_DEFLATED
                archive.writestr(entry, content)
        if name == "many":  # a central directory takes more than 4 KiB, and its ratio is not what is tested
            monkeypatch.setattr(script, "UNPACKED_RATIO_MAX", 100)
    else:
        tarred(BAD_TARS[name], path)

    with pytest.raises(ValueError, match=r"leads out|neither a file|more than"):
        context(place).get_input_file()

    assert {one.name for one in place.workspace.iterdir()} == {"inputs", "outputs", "script"}
    assert not (place.workspace.parent / "up").exists()


def test_a_zip_that_lies_about_its_sizes_is_stopped_by_what_comes_out(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A declared size of 1 byte lets 1 byte out, or the archive is refused; never the bomb."""
    monkeypatch.setattr(script, "UNPACKED_BYTES_MIN", 4096)
    path = zipped({"bomb": "\0" * 1_000_000}, place.workspace / "inputs" / "x.zip")
    content = path.read_bytes().replace((1_000_000).to_bytes(4, "little"), (1).to_bytes(4, "little"))
    path.write_bytes(content)

    with pytest.raises((ValueError, zipfile.BadZipFile)):
        context(place).get_input_file()

    assert {one.name for one in place.workspace.iterdir()} == {"inputs", "outputs", "script"}
