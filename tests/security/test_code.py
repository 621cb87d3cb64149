"""What must nowhere stand in our code, looked for in its syntax trees, and what two installations must not share."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from coordinator.authority import Authority
from hostler.cli.render import printable
from tests.architecture.sources import Source, all_sources

PROGRAMS = ("coordinator", "hostler", "http_gateway", "worker_agent")
# It runs inside a job, as the job: what it takes apart there is the job's own.
IN_JOBS = ("hostler/script.py", "hostler/shipped/")
NOW_US = 1_800_000_000_000_000


def ours() -> Iterator[Source]:
    """The sources of our programs, without what is generated and what runs in jobs."""
    for source in all_sources():
        where = source.where
        if where.startswith(PROGRAMS) and not where.startswith((*IN_JOBS, "hostler/v1/")):
            yield source


def imported(source: Source) -> set[str]:
    """The modules that a source imports, whole names."""
    found = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def called(source: Source) -> set[str]:
    """The names of what a source calls, as they are written."""
    return {ast.unparse(node.func) for node in ast.walk(source.tree) if isinstance(node, ast.Call)}


def test_nothing_is_made_of_bytes_but_by_parsers_of_plain_values() -> None:
    """No pickle, marshal, shelve or yaml, no eval or exec, no import of a name that somebody gave."""
    modules = {"pickle", "cPickle", "marshal", "shelve", "dill", "yaml", "jsonpickle", "importlib.import_module"}
    calls = {"eval", "exec", "compile", "__import__", "importlib.import_module"}
    bad = {
        source.where: found for source in ours() if (found := (imported(source) & modules) | (called(source) & calls))
    }
    assert bad == {}


def test_no_statement_is_put_together_from_values() -> None:
    """What is put into SQL as text are constants (in capitals) and the placeholders and conditions made of them."""
    words = re.compile(r"\b(SELECT|INSERT|UPDATE|DELETE)\b")
    allowed = {"selection", "number", "name", "checksum"}  # the last three: of our own migration files
    bad = []
    for source in ours():
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.JoinedStr) or not source.where.startswith("coordinator"):
                continue
            text = "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
            for part in node.values:
                if words.search(text) and isinstance(part, ast.FormattedValue):
                    name = ast.unparse(part.value).rpartition(".")[2]
                    if not name.isupper() and name not in allowed:
                        bad.append(f"{source.where}:{node.lineno}: {name}")
    assert bad == []


def test_no_answer_sends_a_caller_elsewhere() -> None:
    """There are no redirects at all."""
    bad = [source.where for source in ours() if re.search(r"HTTP(Found|SeeOther|\w*Redirect|Moved\w*)\b", source.text)]
    assert bad == []


def test_no_archive_is_taken_apart() -> None:
    """Archives are made by our own writer, and read by nobody but a client that looks whether one is whole."""
    bad = {source.where for source in ours() if imported(source) & {"tarfile", "zipfile", "shutil.unpack_archive"}}
    assert bad == {"hostler/cli/outputs.py"}
    (client,) = (source for source in ours() if source.where == "hostler/cli/outputs.py")
    assert not any("extract" in name for name in called(client))


def test_only_clients_and_workers_call_out() -> None:
    """Neither the coordinator nor the gateway has anything with which to call an address that a caller gave."""
    calling = {"urllib.request", "http.client", "requests", "httpx", "aiohttp.ClientSession", "aiohttp.client"}
    bad = [
        source.where
        for source in ours()
        if source.where.startswith(("coordinator", "http_gateway"))
        and (imported(source) & calling or "ClientSession" in source.text)
    ]
    assert bad == []


def test_what_starts_programs_has_one_thread() -> None:
    """The launcher and its shims start no threads: a fork beside one kills children at random."""
    files = {"launcher", "shim", "supervision", "process_tree", "hardened", "confinement", "ledger", "output_pipes"}
    checked = [source for source in ours() if Path(source.where).stem in files]
    assert len(checked) == len(files)
    assert [s.where for s in checked if imported(s) & {"threading", "_thread", "concurrent.futures", "asyncio"}] == []


def test_two_installations_share_no_secret(tmp_path: Path) -> None:
    """The authority of each cluster is made at its first start."""
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Authority.open(tmp_path / name / "ca", NOW_US)
        made.append((tmp_path / name / "ca/ca.key").read_bytes())
    assert made[0] != made[1]
    ours = [path for path in Path(__file__).parents[2].iterdir() if not path.name.startswith(".")]
    found = [path for top in ours for path in (top, *top.rglob("*")) if path.suffix in {".key", ".pem", ".p12"}]
    assert found == []


def test_a_terminal_gets_no_control_characters() -> None:
    """What others wrote is escaped before a person sees it."""
    for text in ("\x1b[2J", "a\rb", "\u2028", "\u202e", "\x00", "\x9b31m"):
        assert printable(text).isprintable()
