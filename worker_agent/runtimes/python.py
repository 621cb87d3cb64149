"""The Python runtime: how a worker starts a script, and the folder that the script's interpreter needs for it.

The folder is written once per start of a worker, from the package's own files. It is all that an interpreter needs:
nothing of hostler has to be installed where scripts run. The module starts nothing itself.
"""

import os
import secrets
import sys
from importlib.resources import files
from pathlib import Path

from hostler.jobs import PythonScript

# In the folder: the package's file that is copied. The first is the one file that hostler has of its own as well.
SOURCES: dict[str, tuple[str, str]] = {
    "hostler/script.py": ("hostler", "script.py"),
    "hostler/__init__.py": ("worker_agent", "script_path/hostler/__init__.py"),
    "pixyz_worker/__init__.py": ("worker_agent", "script_path/pixyz_worker/__init__.py"),
    "pixyz_worker/script.py": ("worker_agent", "script_path/pixyz_worker/script.py"),
    "start.py": ("worker_agent", "script_path/start.py"),
}


def install(directory: Path) -> Path:
    """Make *directory* the folder of scripts and return its absolute path.

    Each file is replaced as a whole, and only when it differs: jobs of an earlier start of the worker may be using it.
    Raises OSError.
    """
    directory = directory.absolute()
    for name, (package, path) in SOURCES.items():
        _place(directory / name, files(package).joinpath(*path.split("/")).read_bytes())
    return directory


def command_of(script: PythonScript, workspace: Path, folder: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return argv, and what goes into the environment, for *script* in *workspace* with the *folder* of `install`.

    PYTHONPATH is the folder alone: a caller whose job has a PYTHONPATH of its own joins it behind, with a colon.
    Output is not buffered, so that it is in the log when it was printed, also of a script that is killed.
    """
    starter, file = folder.absolute() / "start.py", workspace.absolute() / script.path
    argv = (script.interpreter or sys.executable, str(starter), str(file), script.entrypoint)
    return argv, {"PYTHONPATH": str(folder.absolute()), "PYTHONUNBUFFERED": "1"}


def _place(path: Path, content: bytes) -> None:
    try:
        if path.read_bytes() == content:
            return
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o755)  # whom else the script runs as, it has to be read; where it lies may be closed
    # A name of its own: somebody else who writes the same file now must not find half of it, or none.
    beside = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    beside.write_bytes(content)
    beside.chmod(0o644)
    beside.replace(path)
