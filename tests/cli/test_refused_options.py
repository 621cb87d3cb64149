"""Options that choose nothing, that are no number or time, or that do not go together: refused in a plain sentence."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hostler.cli.main import call
from hostler.jobs import JobSpec, Work
from tests.cli.conftest import Answer
from tests.cli.fake_cluster import FakeCluster

Hostler = Callable[..., Answer]
SPEC = JobSpec(work=Work(argv=("sleep", "100"), cwd="/"), name="nap")


@pytest.mark.parametrize("given", ["", " "])
@pytest.mark.parametrize("option", ["--data-dir", "--coordinator", "--config"])
@pytest.mark.parametrize("command", ["run {} -- x", "jobs {}", "workers {}", "workloads list {}", "audit {}"])
def test_an_empty_choice_of_a_cluster_is_refused(
    option: str,
    given: str,
    command: str,
    fake: FakeCluster,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Before the command and behind it: a variable that was not set means no cluster, and least of all another."""
    monkeypatch.setenv("HOSTLER_COORDINATOR", fake.address)
    before, behind = f"{{}} {command.format('')}", command
    for line in (before, behind):
        assert call([word.format(f"{option}={given}") for word in line.split()]) == 2
        said = capfd.readouterr()
        assert said.out == "" and f"'{option}': it is empty" in said.err
    assert fake.jobs == {}


def test_a_data_directory_that_is_named_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Relative to the current directory; the one behind the command's name counts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOSTLER_COORDINATOR", raising=False)

    assert call(["--data-dir", "other", "jobs", "--data-dir", "here"]) == 4
    assert f"no cluster answers at unix:{tmp_path}/here/" in capfd.readouterr().err


@pytest.mark.parametrize("given", ["", " "])
@pytest.mark.parametrize(
    "command",
    [
        ("run", "--name={}", "--", "x"),
        ("submit", "--name={}", "--", "x"),
        ("jobs", "--name={}"),
        ("jobs", "--filter={}"),
        ("jobs", "--watch", "--name={}"),
        ("jobs", "--watch", "--filter={}"),
        ("stop", "--filter={}"),
        ("wait", "--filter={}"),
        ("retry", "--filter={}"),
    ],
    ids=lambda words: " ".join(words),
)
def test_an_empty_name_or_filter_is_refused(
    command: tuple[str, ...], given: str, hostler: Hostler, fake: FakeCluster
) -> None:
    """It would list everything, or find nothing later."""
    answer = hostler(*(word.format(given) for word in command))

    assert (answer.code, answer.out) == (2, "") and "it is empty" in answer.err
    assert fake.jobs == {}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("submit --cpus= -- x", "'' is no number; give one such as 2 or 1.5"),
        ("submit --cpus nan -- x", "'nan' is no number"),
        ("submit --cpus -1 -- x", "'-1' is too small; give 0 or more"),
        ("submit --pids= -- x", "'' is no whole number; give one such as 1"),
        ("submit --pids 1.5 -- x", "'1.5' is no whole number"),
        ("submit --crash-limit x -- x", "'x' is no whole number"),
        ("submit --retries x -- x", "'x' is no whole number"),
        ("submit --priority 5000 -- x", "'5000' is too large; give 1000 or less"),
        ("submit --workload a --workload-version 5000000000", "'5000000000' is too large"),
        ("jobs --after -1", "'-1' is too small; give 0 or more"),
        ("jobs --limit 0", "'0' is too small; give 1 or more"),
        ("jobs --limit x", "'x' is no whole number"),
        ("logs --from -1 last", "'-1' is too small"),
        ("logs --stage x last", "'x' is no whole number"),
        ("logs --attempt 0 last", "'0' is too small; give 1 or more"),
        ("audit --limit -1", "'-1' is too small"),
        ("audit --after x", "'x' is no whole number"),
        ("workers invite --uses 0", "'0' is too small; give 1 or more"),
        ("workloads show a --version x", "'x' is no whole number"),
        ("up --workers x", "'x' is no whole number"),
        ("worker --slots x", "'x' is no whole number"),
        ("wait --timeout soon last", "'soon' is no duration; give seconds, or a text such as 30s, 10m or 2h"),
        ("stop --grace -1 last", "'-1' is no duration"),
    ],
    ids=lambda text: text[:30],
)
def test_what_is_no_number_or_time_is_said_in_a_sentence(line: str, said: str, hostler: Hostler) -> None:
    """And not in the words of a library that reads it."""
    answer = hostler(*line.split(" "))

    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err and "Input should" not in answer.err


def test_times_have_units_wherever_they_are_given(hostler: Hostler, fake: FakeCluster) -> None:
    """As those of `run` have."""
    fake.add(spec=SPEC)

    waited = hostler("wait", "--timeout", "50ms", "last")
    assert waited.code == 1 and "had not ended after 0.05 s" in waited.err
    assert hostler("stop", "--grace", "1s", "last").code == 0


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--worker", "a"], "--private and --worker exclude each other: a private cluster has one worker, of its own"),
        (["--label", "gpu=1"], "--private and --label exclude each other"),
        (["--where", "zone"], "--private and --where exclude each other"),
        (["--detach"], "--private and --detach exclude each other: a private cluster ends with this command"),
        (["--tty", "--detach"], "--private and --detach exclude each other"),
    ],
)
def test_what_a_private_cluster_cannot_do_is_a_wrong_call(option: list[str], said: str, hostler: Hostler) -> None:
    """Whether another cluster stands or not; starting one would help nobody."""
    answer = hostler("run", "--private", *option, "--", "true")

    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err and "next: leave one of them out" in answer.err and "hostler up" not in answer.err


def test_the_empty_name_of_a_command_is_called_so(hostler: Hostler, fake: FakeCluster) -> None:
    """There is an argv; what is missing is the program."""
    for command in ("run", "submit"):
        answer = hostler(command, "--", "")
        assert answer.code == 2 and "the command's name, argv[0], is empty" in answer.err
    assert fake.jobs == {}


def test_selectors_that_are_none_are_told_alike(hostler: Hostler) -> None:
    """With the option, the place, and where the language is explained."""
    for arguments in (("submit", "--where", "zone in a", "--", "x"), ("jobs", "--filter", "zone in a")):
        option = arguments[1]
        error = json.loads(hostler("--json", *arguments).err)["error"]
        assert error["message"].startswith(f"{option}, character 9: ")
        assert error["hint"] == "docs/selectors.md has the language of these expressions"
