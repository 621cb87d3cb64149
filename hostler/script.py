"""What a Python script imports to speak to its job, and what starts it: `from hostler.script import Context`.

One file on the standard library alone, for every Python from 3.8 on: a worker copies it next to the job, and the
script's interpreter has nothing of ours installed. It reads and writes the files that the environment names
(docs/scripts.md). Outside a job the same calls print to stderr and use the current directory.
"""

from __future__ import annotations

import copy
import json
import math
import os
import re
import sys
import time
from contextlib import suppress
from pathlib import Path

TYPE_CHECKING = False  # type checkers know the name, and every script would wait for typing to be imported
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import ModuleType, TracebackType
    from typing import IO, Any

    Items = dict[str, Any]
else:
    Items = dict  # dict[str, Any] is no class to inherit from before 3.9

__all__ = ["Context", "LocalContext", "run"]

RESULT_BYTES_MAX = 64 * 1024 * 1024
STEP_CHARACTERS_MAX = 1000
MESSAGE_CHARACTERS_MAX = 10_000
TRACEBACK_CHARACTERS_MAX = 30_000  # and all that as JSON escapes stays below what a worker reads of a failure
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
MEMBERS_MAX = 100_000  # files and directories of an archive
UNPACKED_BYTES_MIN = 1 << 30  # this much any archive may unpack to
UNPACKED_RATIO_MAX = 100  # above that, so many times its own size
SUFFIXES_3D = (
    "3dm 3ds 3dxml 3mf abc asm blend catpart catproduct catshape cgr dae dgn dlv dwf dwg dxf e57 fbx glb gltf iam ifc "
    "ifczip iges igs ipt jt las laz model neu nwd obj par plmxml ply prt psm pts ptx pvs pvz pwd pxz rcp rcs rfa rvt "
    "sab sat skp sldasm sldprt smb smt step stl stp stpx stpz u3d unv usd usda usdc usdz vda vpb vrml vue wire wrl x_b "
    "x_t xas xmt xmt_bin xmt_txt xyz"
)
FILES_3D = frozenset(SUFFIXES_3D.split())


class Context(Items):
    """What a script knows of its job. It is a dictionary as well, in which a script may keep what it likes.

    It can be copied and pickled; every copy writes to the same progress file.
    """

    def __init__(self, params: Any = None, environment: Mapping[str, str] | None = None) -> None:
        """Read the job from *environment*; None is that of the process, and an empty one means by hand."""
        env: Mapping[str, str] = os.environ if environment is None else environment
        here = os.getcwd()
        self.params = params
        self.job_id = env.get("HOSTLER_JOB", "local")
        self.workspace = Path(env.get("HOSTLER_WORKSPACE") or here)
        self.input_dir = Path(env.get("HOSTLER_INPUT_DIR") or here)
        self.output_dir = Path(env.get("HOSTLER_OUTPUT_DIR") or here)
        self._progress_file = env.get("HOSTLER_PROGRESS_FILE", "")
        self._unpacked: Path | None = None
        self._local = not env.get("HOSTLER_WORKSPACE")
        super().__init__(
            job_id=self.job_id,
            params=params,
            root_file=env.get("HOSTLER_ROOT_FILE") or None,
            compute_only=env.get("HOSTLER_COMPUTE_ONLY", "") not in ("", "0", "false"),
        )

    @property
    def input_files(self) -> list[Path]:
        """Every file below the input directory, sorted by path."""
        return _files_below(self.input_dir)

    @property
    def input_file(self) -> Path | None:
        """The first input file, as it came; None when there is none."""
        return next(iter(self.input_files), None)

    def total(self, steps: int) -> None:
        """Say how many steps are to come: the job's percentage follows from it."""
        self._say("total", int(steps))

    def step(self, text: object) -> None:
        """Begin a step, which ends the one before; *text* is for people."""
        self._say("step", _text(text)[:STEP_CHARACTERS_MAX])

    def percent(self, percent: float) -> None:
        """Say how far the job is, from 0 to 100, for work that has no steps."""
        self._say("percent", min(100, max(0, int(percent))))

    def done(self) -> None:
        """Say that the last step is over."""
        self._say("stop", True)

    # The names that scripts written for pixyz_worker.script use.

    def progress_set_total(self, total: int) -> None:
        """`total`."""
        self.total(total)

    def progress_next(self, info: object = "") -> None:
        """`step`."""
        self.step(info)

    def progress_stop(self) -> None:
        """`done`."""
        self.done()

    def get_input_file(self) -> str | None:
        """Return the path of the first input file, or None.

        When an archive is the only input it is unpacked once, and this is the file of it that matters: the one that
        the job names as its root file, else the first with the suffix of a 3D format, else the first.
        ValueError: the archive is not safe to unpack.
        """
        files = self.input_files
        if len(files) != 1 or not files[0].name.lower().endswith(ARCHIVES):
            return str(files[0]) if files else None
        directory = self._unpacked
        if directory is None:
            directory = self._unpacked = self._unpack(files[0])
        file = _root_file(directory, self.get("root_file"))
        return None if file is None else str(file)

    def get_input_dir(self, name: str | None = None) -> str:
        """Return the input directory, or one below it, which is made."""
        return _directory(self.input_dir, name)

    def get_output_dir(self, name: str | None = None) -> str:
        """Return the directory whose files are kept, or one below it, which is made."""
        return _directory(self.output_dir, name)

    def clone(self, **changes: Any) -> Context:
        """Return a copy, with *changes* to its items."""
        other = copy.copy(self)
        other.update(changes)
        return other

    def is_local(self) -> bool:
        """Whether this is a trial by hand: no job of a cluster."""
        return self._local

    def is_compute_only(self) -> bool:
        """Whether the submitter asked for a run without a display."""
        return bool(self.get("compute_only"))

    def execute(self, entrypoint: Callable[..., Any] | str | Path, params: Any = None, name: str = "main") -> Any:
        """Call a function, or *name* of another script's file, with a copy of this context; in this job, at once."""
        function = entrypoint if callable(entrypoint) else _entrypoint_of(os.path.abspath(entrypoint), name)
        other = self.clone()
        other.params = other["params"] = self.params if params is None else params
        return _value_of(function(other, other.params))

    def _unpack(self, archive: Path) -> Path:
        if self._local:  # the current directory is somebody's: nothing of an earlier trial is taken for the archive
            import tempfile

            return _unpack(archive, Path(tempfile.mkdtemp(prefix="unpacked-")) / archive.name)
        return _unpack(archive, self.workspace / "unpacked")

    def _say(self, what: str, value: object) -> None:
        if not self._progress_file:
            print(f"progress: {what} {value}", file=sys.stderr)
            return
        line = json.dumps({what: value, "at": round(time.time(), 6)}) + "\n"
        try:
            # Opened each time: a copy of the context in another process must not rely on a descriptor of this one.
            descriptor = os.open(self._progress_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)
        except OSError as error:  # no reason to end work that goes well
            print(f"hostler: progress was not noted: {error}", file=sys.stderr)


class LocalContext(Context):
    """A context for trying a script by hand: `main(LocalContext(), {"size": 3})`."""

    def __init__(
        self, params: Any = None, *, input_dir: str | Path | None = None, output_dir: str | Path | None = None
    ) -> None:
        """Use the current directory for what is not given."""
        super().__init__(params, {})
        self.input_dir = self.input_dir if input_dir is None else Path(input_dir)
        self.output_dir = self.output_dir if output_dir is None else Path(output_dir)


def run(argv: list[str]) -> int:
    """Run the entry point argv[1] (default main) of the script argv[0]; return the exit code.

    The returned value becomes the job's result, an exception its failure. SystemExit and KeyboardInterrupt of the
    script come through: Python knows what they mean.
    """
    if not 1 <= len(argv) <= 2:
        print("usage: start.py SCRIPT [ENTRYPOINT]", file=sys.stderr)
        return 2
    try:
        sys.argv = argv[:1]
        params = _params()
        function = _entrypoint_of(os.path.abspath(argv[0]), argv[1] if len(argv) == 2 else "main")
        _keep_result(_value_of(function(Context(params), params)))
        return 0
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # whatever ends a script is what this function reports
        _keep_failure(error)
        return 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # closed, or taken away by the script
                stream.flush()


def _params() -> Any:
    path = os.environ.get("HOSTLER_PARAMS_FILE", "")
    try:
        with open(path, "rb") as file:
            return json.loads(file.read().decode() or "{}")
    except FileNotFoundError:
        return {}


def _entrypoint_of(path: str, name: str) -> Callable[..., Any]:
    function = getattr(_load(path), name, None)
    if not callable(function):
        raise AttributeError(f"The script file does not have the function {name}")
    return function  # type: ignore[no-any-return]


def _load(path: str) -> ModuleType:
    """Import the script by its path, under its own name: pickle and multiprocessing find its functions by that."""
    from importlib.machinery import SourceFileLoader
    from importlib.util import module_from_spec, spec_from_file_location

    class Loader(SourceFileLoader):
        def set_data(self, *_: Any, **__: Any) -> None:
            """Leave no compiled copy in the workspace."""

    folder, name = os.path.dirname(path), os.path.splitext(os.path.basename(path))[0]
    if name in sys.modules:
        name = f"script_{name}"  # json.py must not become everybody's json
    spec = spec_from_file_location(name, path, loader=Loader(name, path))
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded")
    module = module_from_spec(spec)
    if folder not in sys.path[:1]:
        sys.path.insert(0, folder)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _value_of(value: Any) -> Any:
    from types import CoroutineType

    if not isinstance(value, CoroutineType):
        return value
    import asyncio

    return asyncio.run(value)


def _keep_result(value: Any) -> None:
    content = json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":")).encode()
    if len(content) > RESULT_BYTES_MAX:
        raise ValueError(
            f"the result is {len(content)} bytes; at most {RESULT_BYTES_MAX}: "
            "write a file to the output directory instead"
        )
    path = os.environ.get("HOSTLER_RESULT_FILE")
    if path:
        _write(path, content)
    else:
        print(f"result: {content.decode()}", file=sys.stderr)


def _plain(value: Any) -> Any:
    """Return what JSON can hold of *value*; what it cannot becomes its text."""
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, dict):
        return {key if key is None or isinstance(key, int) else _text(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return _text(value)


def _text(value: object) -> str:
    """Return str(value) with nothing in it that UTF-8 cannot hold."""
    return str(value).encode("utf-8", "replace").decode()


def _keep_failure(error: BaseException) -> None:
    kind = type(error)
    text, message = _traceback_of(error), _message_of(error)
    with suppress(OSError, ValueError):  # it is in the failure too
        print(text, end="", file=sys.stderr)
    path = os.environ.get("HOSTLER_FAILURE_FILE")
    # Without a failure another attempt may follow, and another worker may have the memory.
    if not path or isinstance(error, MemoryError):
        return
    if len(text) > TRACEBACK_CHARACTERS_MAX:
        half = TRACEBACK_CHARACTERS_MAX // 2
        text = f"{text[:half]}\n[...]\n{text[-half:]}"
    fields = {
        "type": kind.__qualname__[:200],
        "module": str(kind.__module__)[:200],
        "message": message[:MESSAGE_CHARACTERS_MAX],
        "traceback": text,
    }
    with suppress(OSError):  # a full disk: the traceback is in the log, the exit code says the rest
        _write(path, json.dumps(fields, ensure_ascii=False).encode())


def _message_of(error: BaseException) -> str:
    try:
        return _text(error)
    except Exception:  # a __str__ of the script's
        return "(an exception without a text)"


def _traceback_of(error: BaseException) -> str:
    """Return the traceback as Python prints it, without the frames that lead from here to the script."""
    import traceback

    between = (_traceback_of.__code__.co_filename, "<frozen importlib")
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if not name.startswith(between) and f"{os.sep}asyncio{os.sep}" not in name:
            break
        trace = trace.tb_next
    try:
        return _text("".join(traceback.format_exception(type(error), error, trace)))
    except Exception:  # a __str__ or __repr__ of the script's
        return f"{type(error).__qualname__}: {_message_of(error)}\n"


def _write(path: str, content: bytes) -> None:
    """Write a file that is there whole or not at all."""
    beside = f"{path}.{os.getpid()}.part"
    with open(beside, "wb") as file:
        file.write(content)
    os.replace(beside, path)


def _files_below(directory: Path) -> list[Path]:
    return sorted(Path(folder, name) for folder, _, names in os.walk(directory) for name in names)


def _directory(directory: Path, name: str | None) -> str:
    path = os.path.join(str(directory), *_parts(name)) if name else str(directory)
    os.makedirs(path, exist_ok=True)
    return path


def _parts(name: str) -> list[str]:
    """Split a relative path; ValueError when it leads elsewhere."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise ValueError(f"{name[:200]!r} leads out of the directory")
    return parts


def _root_file(directory: Path, wanted: str | None) -> Path | None:
    if wanted:
        file = directory.joinpath(*_parts(wanted))
        if not file.is_file():
            raise FileNotFoundError(f"the archive has no file {wanted[:200]!r}")
        return file
    files = _files_below(directory)
    return next((file for file in files if _is_3d(file.name)), next(iter(files), None))


def _is_3d(name: str) -> bool:
    versionless = re.sub(r"\.[0-9]+$", "", name)  # wheel.prt.3 is the third version of wheel.prt
    return versionless.rpartition(".")[2].lower() in FILES_3D and "." in versionless


def _unpack(archive: Path, directory: Path) -> Path:
    """Unpack into *directory*, which is there whole or not at all; ValueError for an archive that is not safe."""
    import shutil

    if directory.is_dir():
        return directory  # by a copy of the context in another process
    beside = directory.with_name(f"{directory.name}.{os.getpid()}.part")
    try:
        beside.mkdir()
        _unpack_members(archive, str(beside))
        os.rename(str(beside), str(directory))
    except OSError:
        if not directory.is_dir():
            raise
    finally:
        shutil.rmtree(str(beside), ignore_errors=True)
    return directory


def _unpack_members(archive: Path, directory: str) -> None:
    members_left = MEMBERS_MAX
    bytes_left = bytes_max = max(UNPACKED_BYTES_MIN, UNPACKED_RATIO_MAX * archive.stat().st_size)
    made = {directory}
    for name, source in _members(archive):
        path = os.path.join(directory, *_parts(name))
        folder = path if source is None else os.path.dirname(path)
        missing = []
        while folder not in made:  # each counts: a long path alone can ask for thousands
            missing.append(folder)
            folder = os.path.dirname(folder)
        made.update(missing)
        members_left -= max(1, len(missing) + (source is not None))
        if members_left < 0:
            raise ValueError(f"the archive has more than {MEMBERS_MAX} files and directories")
        for folder in reversed(missing):
            os.mkdir(folder)
        if source is None:
            continue
        with open(path, "wb") as file:
            while True:
                # The sizes that the archive declares prove nothing: what comes out of it counts.
                block = source.read(1 << 20)
                bytes_left -= len(block)
                if bytes_left < 0:
                    raise ValueError(f"the archive unpacks to more than {bytes_max} bytes")
                if not block:
                    break
                file.write(block)


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Each member's name with its content, or None for a directory; ValueError for links, devices and the like."""
    if archive.name.lower().endswith(".zip"):
        import stat
        import zipfile

        with zipfile.ZipFile(str(archive)) as zipped:
            for entry in zipped.infolist():
                if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise ValueError(f"{entry.filename[:200]!r} in the archive is neither a file nor a directory")
                if entry.is_dir():
                    yield entry.filename, None
                    continue
                with zipped.open(entry) as content:
                    yield entry.filename, content
        return
    import tarfile

    with tarfile.open(str(archive)) as tarred:
        for member in tarred:
            if not (member.isdir() or member.isreg()):
                raise ValueError(f"{member.name[:200]!r} in the archive is neither a file nor a directory")
            yield member.name, None if member.isdir() else tarred.extractfile(member)
