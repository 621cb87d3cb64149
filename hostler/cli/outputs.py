"""The commands about outputs: list the files that jobs put out, fetch them."""

import asyncio
import os
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hostler.cli.connect import cluster, resolve_job
from hostler.cli.failures import NOT_FOUND, OK, Failure, usage_failure
from hostler.cli.options import Place
from hostler.cli.progress import Transfers, transfers
from hostler.cli.render import moment_text, print_json, print_line, print_table, say
from hostler.cli.transfer import exists, folder_of, receive
from hostler.client import Client
from hostler.errors import ErrorCode
from hostler.jobs import OutputFile, Outputs
from hostler.shape import outputs_shape

SAID_MAX = 20  # files named at the end of `submit --follow`


def list_outputs(place: Place, text: str) -> int:
    """Print the files that a job has put out."""

    async def act() -> int:
        async with cluster(place) as client:
            job = await resolve_job(client, text)
            outputs = await client.files.outputs(job)
        if place.as_json:
            print_json(outputs_shape(outputs))
            return OK
        if outputs.files:
            rows = [(f"{file.size_bytes:,}", moment_text(file.modified_at_us), file.path) for file in outputs.files]
            print_table(("bytes", "modified", "path"), rows)
        else:
            say("it has put out no files" + (" yet" if outputs.live else ""))
        _say_what_is_not_there(outputs)
        return OK

    return asyncio.run(act())


def get_outputs(place: Place, text: str, paths: Sequence[str], *, into: Path, archive: Path | None, force: bool) -> int:
    """Fetch files that a job has put out, or all of them, into a directory or into one archive."""
    if archive is not None and (paths or into != Path(".")):
        raise usage_failure("--archive takes all files; give no PATH and no --into with it")
    shown = transfers(as_json=place.as_json)

    async def act() -> int:
        async with cluster(place) as client:
            job = await resolve_job(client, text)
            if archive is not None:
                written = [await _get_archive(client, job, archive, shown, force=force)]
            else:
                outputs = await client.files.outputs(job)
                files = _chosen(job, outputs, paths)
                written = await _get_files(client, job, files, into, shown, force=force)
                if not place.as_json:
                    _say_what_is_not_there(outputs)
        if place.as_json:
            print_json({"files": written})
        else:
            for one in written:
                print_line(one["file"])
        return OK

    return asyncio.run(act())


def say_outputs(job: str, outputs: Outputs) -> None:
    """Name what a job has put out, for the person who followed it."""
    for file in outputs.files[:SAID_MAX]:
        say(f"output {file.path} ({file.size_bytes:,} bytes)")
    if len(outputs.files) > SAID_MAX:
        say(f"and {len(outputs.files) - SAID_MAX:,} more")
    _say_what_is_not_there(outputs)
    if outputs.files:
        say(f"fetch them with: hostler outputs get {job}")


def _chosen(job: str, outputs: Outputs, paths: Sequence[str]) -> list[OutputFile]:
    if outputs.expired:
        raise _not_found(f"the outputs of job {job} were removed when their time was over")
    chosen: dict[str, OutputFile] = {file.path: file for file in outputs.files} if not paths else {}
    for path in paths:
        if not path.strip():
            raise usage_failure("a PATH is empty", hint="name files or folders, or leave PATH out for all of them")
        folder = path.rstrip("/") + "/"
        found = [file for file in outputs.files if file.path == path or file.path.startswith(folder)]
        if not found:
            raise _not_found(f"job {job} has put out no file {path}")
        chosen.update((file.path, file) for file in found)
    return list(chosen.values())


async def _get_files(
    client: Client, job: str, files: Sequence[OutputFile], into: Path, shown: Transfers, *, force: bool
) -> list[dict[str, Any]]:
    if not force:
        _refuse_to_overwrite(into / file.path for file in files)
    written: list[dict[str, Any]] = []
    root = _open_folder(into)
    try:
        for file in files:
            with folder_of(root, file.path) as (folder, name), shown.file(file.path, file.size_bytes) as advanced:
                async with client.files.read_output(job, file.path) as reading:
                    size, digest = await receive(reading, folder, name, advanced, force=force)
            written.append({"path": file.path, "file": str(into / file.path), "size_bytes": size, "digest": digest})
    finally:
        os.close(root)
    return written


async def _get_archive(client: Client, job: str, archive: Path, shown: Transfers, *, force: bool) -> dict[str, Any]:
    if not archive.name:
        raise usage_failure(f"--archive {archive} is no file's name")
    if not force:
        _refuse_to_overwrite([archive])
    root = _open_folder(archive.parent)
    try:
        async with client.files.read_archive(job) as reading:
            with shown.file(archive.name, reading.size_bytes) as advanced:
                size, digest = await receive(reading, root, archive.name, advanced, force=force, check=_check_archive)
    finally:
        os.close(root)
    return {"path": None, "file": str(archive), "size_bytes": size, "digest": digest}


def _refuse_to_overwrite(targets: Iterable[Path]) -> None:
    # Seen before the first byte moves; what comes into being meanwhile is not overwritten either.
    for target in targets:
        if os.path.lexists(target):
            raise exists(str(target))


def _check_archive(descriptor: int) -> None:
    # An archive has no digest to compare; its own directory, at its end, shows that it is whole.
    with os.fdopen(os.dup(descriptor), "rb") as file:
        if not zipfile.is_zipfile(file):
            raise Failure("the archive did not arrive whole; it was not kept", hint="try again")


def _open_folder(path: Path) -> int:
    try:
        path.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise usage_failure(f"{path} cannot be used: {error.strerror}", hint="give another directory") from None


def _not_found(message: str) -> Failure:
    return Failure(
        message, hint="hostler outputs ls ID shows what there is", exit_code=NOT_FOUND, code=ErrorCode.FILE_NOT_FOUND
    )


def _say_what_is_not_there(outputs: Outputs) -> None:
    if outputs.expired:
        say("its files were removed when their time was over")
    for missing in outputs.missing:
        say(f"could not be kept: {missing}")
