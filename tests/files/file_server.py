"""``python -m tests.files.file_server SOCKET DIRECTORY``: serve the service Files until standard input ends."""

import asyncio
import sys
from pathlib import Path

import grpc
import grpc.aio

from coordinator.blobs import BlobStore
from coordinator.rpc.context import Gatekeeper, duplex, streaming, unary
from coordinator.rpc.files_service import FilesService
from coordinator.rpc.outputs_service import OutputsService
from hostler.client import CHANNEL_OPTIONS


def add_files(server: grpc.aio.Server, files: FilesService) -> None:
    """Mount the service Files as the coordinator does."""
    gate = Gatekeeper()
    methods = {"Put": duplex(gate, files.put), "Read": streaming(gate, files.read)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("hostler.v1.Files", methods),))


def add_outputs(server: grpc.aio.Server, outputs: OutputsService) -> None:
    """Mount the methods of outputs as the coordinator does."""
    gate = Gatekeeper()
    jobs = {
        "ListOutputs": unary(gate, outputs.list_outputs),
        "ReadOutput": streaming(gate, outputs.read_output),
        "ReadArchive": streaming(gate, outputs.read_archive),
    }
    workers = {"SendOutput": duplex(gate, outputs.send_output)}
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("hostler.v1.Jobs", jobs),
            grpc.method_handlers_generic_handler("hostler.v1.Workers", workers),
        )
    )


async def serve(socket: str, directory: Path) -> None:
    """Say ``ready`` once it listens."""
    blobs = BlobStore(directory, reserve_bytes=0)
    blobs.open()
    server = grpc.aio.server(options=list(CHANNEL_OPTIONS))
    add_files(server, FilesService(blobs))
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2])))
