"""What the programs ask of gRPC about its sockets and threads."""

import subprocess
import sys

PROGRAM = """
import asyncio
from hostler.processes import choose_grpc_polling
choose_grpc_polling()
import grpc.aio

async def talk():
    server = grpc.aio.server()
    server.add_insecure_port("unix:" + {socket!r})
    await server.start()
    async with grpc.aio.insecure_channel("unix:" + {socket!r}) as channel:
        await asyncio.wait_for(channel.channel_ready(), 20)
    await server.stop(None)

asyncio.run(talk())
"""


def test_this_grpc_still_knows_the_words_that_spare_its_threads(tmp_path: object) -> None:
    """It would say on standard error that it does not; then every message costs a sixth more."""
    program = PROGRAM.format(socket=f"{tmp_path}/s")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
