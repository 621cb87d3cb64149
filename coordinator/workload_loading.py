"""Registers the workloads that are there at every start: those of the package, and those of a directory.

A definition that somebody applied or removed stays as they left it (`coordinator.workload_decisions`).
"""

import asyncio
import hashlib
from importlib import resources
from pathlib import Path

from coordinator.blobs import BlobStore, Lane
from coordinator.rpc.workloads_service import WorkloadsService
from hostler import logs
from hostler.errors import Unavailable
from hostler.workload_files import Definition, read_directory, with_script
from hostler.workloads import Origin, Workload


async def register_found(service: WorkloadsService, blobs: BlobStore, *, shipped: bool, directory: Path | None) -> None:
    """Register what ships with the package, then what *directory* holds.

    Raises:
        InvalidRequest: a definition in the directory cannot be used; the text names file and key.
    """
    found: list[Workload] = []
    if shipped:
        with resources.as_file(resources.files("hostler").joinpath("shipped")) as path:
            definitions = await asyncio.to_thread(read_directory, path, Origin.SHIPPED)
            try:
                found += [await _stored(d, blobs) for d in definitions]
            except Unavailable as error:
                # The samples can wait; what runs and what is stored cannot.
                logs.get().warning("workload.not_applied", reason=error.message)
    if directory is not None:
        names = {workload.name: place for place, workload in enumerate(found)}
        for definition in await asyncio.to_thread(read_directory, directory, Origin.DIRECTORY):
            workload = await _stored(definition, blobs)
            if workload.name in names:
                found[names[workload.name]] = workload
            else:
                found.append(workload)
    for applied in await service.register(found):
        if applied.changed:
            logs.get().info("workload.applied", name=applied.name, version=applied.version)


async def _stored(definition: Definition, blobs: BlobStore) -> Workload:
    workload = definition.workload
    if definition.script_source is not None:
        source = definition.script_source
        digest = hashlib.sha256(source).hexdigest()
        # Nearly always it is there already, and then a full disk does not matter.
        if await blobs.touch((digest,)):
            async with blobs.receive(len(source), Lane.SMALL) as incoming:
                await incoming.write(source)
                await incoming.commit()
        workload = with_script(definition, digest)
    return workload
