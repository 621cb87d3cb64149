"""Secrets: values that jobs name and that are put in when an attempt is sent to its worker.

They live in ``secrets.toml`` of the data directory (0600, ``name = "value"``) and nowhere else: in no
row, event, log, digest or answer. The file is read again when it has changed.
"""

import tomllib
from pathlib import Path

from hostler import logs
from hostler.errors import InvalidRequest
from hostler.sealed import Sealed

FILE = "secrets.toml"
SHOWN = "secrets.toml of the data directory"  # callers of other hosts need not know where that is


class Secrets:
    """The secrets of one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / FILE
        self._seen: tuple[int, int] | None = None  # mtime and size of what was read
        self._values: dict[str, Sealed] = {}

    def __repr__(self) -> str:
        return f"Secrets({self._path})"

    def names(self) -> set[str]:
        """The names that have a value now.

        Raises:
            InvalidRequest: the file is there and cannot be used.
        """
        try:
            found = self._path.stat()
        except OSError:
            self._seen, self._values = None, {}
            return set()
        if found.st_mode & 0o077:
            raise InvalidRequest(f"{SHOWN} can be read by others; make it private with chmod 600")
        if (found.st_mtime_ns, found.st_size) != self._seen:
            try:
                content = tomllib.loads(self._path.read_text())
            except (OSError, ValueError):
                # Not the error's own text: it may quote the line, and so a value.
                raise InvalidRequest(f'{SHOWN} is not TOML with lines of the form: name = "value"') from None
            if not all(isinstance(value, str) for value in content.values()):
                raise InvalidRequest(f"{SHOWN} has a value that is no text")
            self._seen = (found.st_mtime_ns, found.st_size)
            self._values = {name: Sealed(value) for name, value in content.items()}
            logs.register_secrets(content.values())
        return set(self._values)

    def values(self, wanted: tuple[tuple[str, str], ...]) -> dict[str, Sealed]:
        """The values for pairs of environment variable and secret's name.

        Raises:
            InvalidRequest: one has none (any more), or the file cannot be used.
        """
        known = self.names()
        for _, name in wanted:
            if name not in known:
                raise InvalidRequest(
                    f'there is no secret {name!r}; whoever runs the cluster puts it into {SHOWN}: {name} = "..."'
                )
        return {variable: self._values[name] for variable, name in wanted}

    def revealed(self, wanted: tuple[tuple[str, str], ...]) -> dict[str, str]:
        """The same in the clear, for the message that starts the attempt and for nothing else."""
        return {variable: value.reveal() for variable, value in self.values(wanted).items()}
