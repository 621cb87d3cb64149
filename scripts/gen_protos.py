"""Makes hostler/v1 from protos/hostler/v1: the only way its files come to be.

    scripts/gen_protos.py            write what has changed, remove what no .proto makes any more
    scripts/gen_protos.py --check    write nothing; exit status 1 and the names when something would change

Run it with the Python of .venv (scripts/check makes it). The generators are pinned exactly in pyproject.toml, so the
same .proto gives the same bytes everywhere.
"""

import argparse
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO_ROOT = ROOT / "protos"
PACKAGE = Path("hostler/v1")  # below the proto root and below ROOT: so the imports protoc writes are right as they are
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")
PROTOC_S = 120.0


class GenerationError(Exception):
    """protoc refused the contract, or a generator is missing; the text says what it printed."""


def generate(target: Path, proto_root: Path = PROTO_ROOT) -> dict[str, bytes]:
    """Generate from every .proto of *proto_root* below *target* and return the content by file name.

    Raises:
        GenerationError: no .proto was found, protoc failed, or the mypy-protobuf generator is not installed.
    """
    protos = sorted(path.relative_to(proto_root).as_posix() for path in (proto_root / PACKAGE).glob("*.proto"))
    if not protos:
        raise GenerationError(f"no .proto file in {proto_root / PACKAGE}")
    # protoc looks for its plugins on PATH, where an environment that is not activated has nothing.
    scripts = Path(sysconfig.get_path("scripts"))
    plugins = [f"--plugin={name}={scripts / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    options = [
        f"--proto_path={proto_root}",
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out=quiet:{target}",
        f"--mypy_grpc_out=quiet:{target}",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", *plugins, *options, *protos],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PROTOC_S,
        check=False,
    )
    if done.returncode != 0:
        raise GenerationError(f"protoc ended with status {done.returncode}:\n{done.stdout}{done.stderr}".rstrip())
    return read_generated(target / PACKAGE)


def read_generated(folder: Path) -> dict[str, bytes]:
    """Return the content of the generated files of *folder* by name; what a person wrote there is left out."""
    return {path.name: path.read_bytes() for pattern in GENERATED for path in sorted(folder.glob(pattern))}


def differences(wanted: dict[str, bytes], present: dict[str, bytes]) -> list[str]:
    """Return one line for each file that is missing, different, or made by no .proto, in order of name."""
    lines = []
    for name in sorted(wanted | present):
        if name not in present:
            lines.append(f"{PACKAGE}/{name}: missing")
        elif name not in wanted:
            lines.append(f"{PACKAGE}/{name}: no .proto makes it any more")
        elif wanted[name] != present[name]:
            lines.append(f"{PACKAGE}/{name}: differs from what the .proto makes")
    return lines


def write(wanted: dict[str, bytes], folder: Path) -> None:
    """Make the generated files of *folder* be *wanted*; files that are right already keep their times."""
    folder.mkdir(parents=True, exist_ok=True)
    present = read_generated(folder)
    for name in present.keys() - wanted.keys():
        (folder / name).unlink()
    for name, content in wanted.items():
        if present.get(name) != content:
            (folder / name).write_bytes(content)


def main() -> int:
    """Generate or check; see the module's own text."""
    parser = argparse.ArgumentParser(description="Make hostler/v1 from protos/hostler/v1.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when something would change")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            wanted = generate(Path(scratch))
        except GenerationError as error:
            print(f"gen_protos: {error}", file=sys.stderr)
            return 1
    changed = differences(wanted, read_generated(ROOT / PACKAGE))
    for line in changed:
        print(line)
    if options.check:
        return 1 if changed else 0
    write(wanted, ROOT / PACKAGE)
    print(f"gen_protos: {len(wanted)} files, {len(changed)} changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
