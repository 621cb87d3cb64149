"""The TLS files and the cluster key of a coordinator on another host, made by the commands of docs/several-hosts.md."""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).resolve().parents[2] / "docs" / "several-hosts.md"
_BLOCK = re.compile(r"<!-- files -->\n```sh\n(.*?)```", re.DOTALL)


class Files(NamedTuple):
    """Settings that name the files."""

    of_coordinator: dict[str, str]
    of_callers: dict[str, str]


def documented_commands() -> str:
    """The lines of the page that make the files, as a person would type them."""
    found = _BLOCK.search(PAGE.read_text())
    assert found is not None, f"{PAGE} shows no commands that make the files"
    return found.group(1)


def make_files(directory: Path, address: str) -> Files:
    """Run the documented commands for a coordinator at *address*, an IPv4 address, in a new directory."""
    directory.mkdir(mode=0o700)
    commands = documented_commands().replace("192.0.2.1", address)
    subprocess.run(["sh", "-euc", commands], cwd=directory, check=True, capture_output=True, timeout=60)
    key = {"cluster_key_file": str(directory / "cluster.key")}
    return Files(
        of_coordinator={
            "tls_certificate": str(directory / "coordinator.pem"),
            "tls_private_key": str(directory / "coordinator.key"),
            **key,
        },
        of_callers={"tls_ca": str(directory / "ca.pem"), **key},
    )
