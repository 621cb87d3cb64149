"""Who imports whom among our modules, read from the syntax tree, and the questions the import rules ask.

Imports inside functions and under TYPE_CHECKING count like any other: a rule that a lazy import can step around
is no rule.
"""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.architecture.sources import GENERATED, Source, is_within


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One imported module, as written in one line of one of our files."""

    importer: str
    imported: str  # the longest dotted name that is a module; for foreign modules as it is written
    where: str  # path:line


class ImportGraph:
    """The imports of a set of sources; foreign modules and generated code are leaves."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self._sources = {source.module: source for source in sources}
        self.relative: list[str] = []
        self.imports: list[Import] = []
        for source in self._sources.values():
            self.imports.extend(self._imports_of(source))
        self._by_importer: dict[str, list[Import]] = {}
        for one in self.imports:
            self._by_importer.setdefault(one.importer, []).append(one)

    def modules_within(self, names: Iterable[str]) -> list[str]:
        """Our modules that are one of *names* or lie below one; names that do not exist give nothing."""
        wanted = tuple(names)
        return sorted(module for module in self._sources if any(is_within(module, name) for name in wanted))

    def reachable_foreign(self, module: str) -> dict[str, str]:
        """Every foreign module that importing *module* brings in through our own files, with the chain that does.

        Importing a module also runs the __init__.py of every package above it; those are followed too.
        """
        chains: dict[str, str] = {module: module}
        foreign: dict[str, str] = {}
        queue = [module]
        while queue:
            current = queue.pop(0)
            for imported, where in self._steps(current):
                chain = f"{chains[current]} -> {imported} ({where})"
                if imported in self._sources:
                    if imported not in chains:
                        chains[imported] = chain
                        queue.append(imported)
                else:
                    foreign.setdefault(imported, chain)
        return foreign

    def cycles(self) -> list[str]:
        """Groups of our modules that import each other in a circle, each as one line; implicit parents left out."""
        edges = {
            module: {one.imported for one in self._by_importer.get(module, ()) if one.imported in self._sources}
            for module in self._sources
        }
        reach = {module: _closure(edges, module) for module in edges}
        groups = {
            tuple(sorted(other for other in reach[module] if module in reach[other]))
            for module in edges
            if module in reach[module]
        }
        return sorted(" <-> ".join(group) for group in groups)

    def _steps(self, module: str) -> Iterator[tuple[str, str]]:
        parts = module.split(".")
        for depth in range(1, len(parts)):
            parent = ".".join(parts[:depth])
            if parent in self._sources:
                yield parent, "its package"
        for one in self._by_importer.get(module, ()):
            yield one.imported, one.where

    def _imports_of(self, source: Source) -> Iterator[Import]:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield self._import(source, node, alias.name)
            elif isinstance(node, ast.ImportFrom):
                if node.level or node.module is None:
                    self.relative.append(f"{source.where}:{node.lineno}")
                    continue
                for alias in node.names:
                    # `from hostler import ids` imports the module hostler.ids, not a name of hostler.
                    below = f"{node.module}.{alias.name}"
                    ours = below in self._sources or below == GENERATED
                    yield self._import(source, node, below if ours else node.module)

    @staticmethod
    def _import(source: Source, node: ast.stmt, imported: str) -> Import:
        return Import(importer=source.module, imported=imported, where=f"{source.where}:{node.lineno}")


def _closure(edges: dict[str, set[str]], start: str) -> set[str]:
    """Every module that can be reached from *start* in one step or more."""
    found: set[str] = set()
    queue = list(edges[start])
    while queue:
        module = queue.pop()
        if module not in found:
            found.add(module)
            queue.extend(edges[module])
    return found
