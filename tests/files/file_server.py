"""``python -m tests.files.file_server SOCKET DIRECTORY``: serve the service Files until standard input ends."""

import asyncio
import sys
from pathlib import Path

import grpc
import grpc.aio

from coordinator.blobs import BlobStore
from coordinator.rpc.file_rights import FileRights
from coordinator.rpc.files_service import FilesService
from coordinator.rpc.gatekeeper import Gatekeeper
from coordinator.rpc.guard import Guard
from coordinator.rpc.key_ring import KeyRing
from coordinator.rpc.outputs_service import OutputsService
from coordinator.storage.sqlite import SqliteStore
from hostler.channel_options import CHANNEL_OPTIONS
from hostler.clock import SystemClock
from hostler.v1 import files_pb2, jobs_pb2


def guard() -> Guard:
    """Nobody has a key, and who comes by the unix socket is our user."""
    return Guard(Gatekeeper(KeyRing(dict, SystemClock(), lambda key: None)))


def add_files(server: grpc.aio.Server, files: FilesService) -> None:
    """Mount the service Files as the coordinator does."""
    guarding = guard()
    methods = {
        "Put": guarding.duplex("Files/Put", files_pb2.PutRequest, files.put),
        "Read": guarding.streaming("Files/Read", files_pb2.ReadFileRequest, files.read),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("hostler.v1.Files", methods),))


def add_outputs(server: grpc.aio.Server, outputs: OutputsService) -> None:
    """Mount the methods of outputs as the coordinator does."""
    guarding = guard()
    jobs = {
        "ListOutputs": guarding.unary("Jobs/ListOutputs", jobs_pb2.ListOutputsRequest, outputs.list_outputs),
        "ReadOutput": guarding.streaming("Jobs/ReadOutput", jobs_pb2.ReadOutputRequest, outputs.read_output),
        "ReadArchive": guarding.streaming("Jobs/ReadArchive", jobs_pb2.ReadArchiveRequest, outputs.read_archive),
    }
    workers = {"SendOutput": guarding.for_workers("Workers/SendOutput", outputs.send_output)}
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
    add_files(server, FilesService(blobs, FileRights(SqliteStore(":memory:"))))
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2])))
