"""Files and functions stay small enough to be read in one go; what grows past it is split by reason to change."""

import ast

from tests.architecture.sources import Source, all_sources, package_sources

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60


def test_no_file_is_longer_than_500_lines() -> None:
    """Tests, scripts and benchmarks too; generated code is left out."""
    lengths = {source.where: len(source.text.splitlines()) for source in all_sources()}

    assert {where: lines for where, lines in lengths.items() if lines > FILE_LINES_MAX} == {}


def test_no_function_is_longer_than_60_lines() -> None:
    """Counted from `def` to its last line, its docstring included and its decorators not; tests may tell longer."""
    lengths = {where: lines for source in package_sources() for where, lines in _functions(source)}

    assert {where: lines for where, lines in lengths.items() if lines > FUNCTION_LINES_MAX} == {}


def _functions(source: Source) -> list[tuple[str, int]]:
    return [
        (f"{source.where}:{node.lineno} {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
