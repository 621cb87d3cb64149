"""Documents that repeat the code are made from it, and what the code names is documented."""

import ast
import subprocess
import sys
from pathlib import Path

from hostler.logs import EVENTS
from tests.architecture.sources import all_sources

ROOT = Path(__file__).parents[2]
LEVELS = {"debug", "info", "warning", "error", "exception"}


def test_the_generated_documents_are_fresh() -> None:
    """Job states, settings and log events are written by scripts/make_docs.py."""
    ended = subprocess.run(
        [sys.executable, "scripts/make_docs.py", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stdout


def _logged_names() -> dict[str, str]:
    """Every event name that the code logs, with where."""
    found = {}
    for source in all_sources():
        if source.where.startswith(("tests", "benchmarks", "scripts")):
            continue
        for node in ast.walk(ast.parse(source.text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS:
                first = node.args[0] if node.args else None
                if isinstance(first, ast.Constant) and isinstance(first.value, str) and "." in first.value:
                    found[first.value] = f"{source.where}:{node.lineno}"
    return found


def test_every_logged_event_is_registered() -> None:
    """A name that is not in hostler.logs.EVENTS is not in docs/logs.md either."""
    assert {name: where for name, where in _logged_names().items() if name not in EVENTS} == {}


def test_every_registered_event_is_logged_somewhere() -> None:
    """A registered name that nobody logs is a document that lies; some are chosen by an expression."""
    texts = "".join(s.text for s in all_sources() if not s.where.startswith(("tests", "hostler/logs")))
    assert [name for name in EVENTS if f'"{name}"' not in texts] == []


def test_every_decision_page_has_a_number_of_its_own() -> None:
    """Pages are named 0001-what.md."""
    numbers = [path.name[:4] for path in (ROOT / "docs/decisions").glob("*.md")]
    assert len(numbers) == len(set(numbers))


def test_links_between_documents_lead_somewhere() -> None:
    """Every relative link of the Markdown files names a file that is there."""
    broken = []
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("protos/**/*.md")]:
        for piece in page.read_text().split("](")[1:]:
            target = piece.split(")")[0].split("#")[0]
            if target and "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []
