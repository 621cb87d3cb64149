"""The names that scripts for the PiXYZ scheduler import, so that they run unchanged; our own code throughout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostler.script import Context, LocalContext

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["LocalPixyzTask", "ProgramContext", "pixyz_schedule"]

ProgramContext = Context


def pixyz_schedule(function: Callable[..., Any] | None = None, **_: Any) -> Any:
    """Mark an entry point, with or without settings; they are read from the source when the job is submitted."""
    return _unchanged if function is None else function


def _unchanged(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


class LocalRun:
    """One call of a script's function here, without a cluster."""

    def __init__(self, function: Callable[..., Any], params: Any = None, **directories: Any) -> None:
        """Take the function, its parameters, and `input_dir` and `output_dir` (else the current directory)."""
        self.function = function
        self.context = LocalContext({} if params is None else params, **directories)

    def run(self) -> Any:
        """Call the function and return what it returns."""
        return self.context.execute(self.function)


LocalPixyzTask = LocalRun
