"""The project's own Python files, parsed once, for the tests that read them instead of running them."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("hostler", "coordinator", "worker_agent", "http_gateway")
OTHER_FOLDERS = ("tests", "scripts", "benchmarks")
GENERATED = "hostler.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One Python file: its dotted name, the name's package flag, and what is in it."""

    module: str  # `coordinator.rpc.server`; a package's __init__.py has the package's own name
    is_package: bool
    path: Path
    text: str
    tree: ast.Module

    @property
    def where(self) -> str:
        """The path as a person would type it."""
        return self.path.as_posix()


def is_within(module: str, name: str) -> bool:
    """Say whether *module* is *name* or lies below it."""
    return module == name or module.startswith(name + ".")


def read_tree(root: Path, folders: tuple[str, ...]) -> list[Source]:
    """Read every Python file below *folders* of *root*, generated code left out, in order of path."""
    return [source for folder in folders for source in _read_folder(root, folder) if not _is_generated(source)]


@cache
def package_sources() -> tuple[Source, ...]:
    """The four packages that are installed."""
    return tuple(read_tree(ROOT, PACKAGES))


@cache
def all_sources() -> tuple[Source, ...]:
    """The packages, the tests, the scripts and the benchmarks."""
    return package_sources() + tuple(read_tree(ROOT, OTHER_FOLDERS))


def _read_folder(root: Path, folder: str) -> Iterator[Source]:
    for path in sorted((root / folder).rglob("*.py")):
        relative = path.relative_to(root)
        parts = relative.with_suffix("").parts
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text, filename=str(relative))
        yield Source(module=module, is_package=is_package, path=relative, text=text, tree=tree)


def _is_generated(source: Source) -> bool:
    return is_within(source.module, GENERATED)
