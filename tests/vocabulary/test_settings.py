"""Settings: flags win over the environment, the environment over the file, the file over the defaults."""

import stat
from pathlib import Path
from typing import Any

import pytest

from hostler.endpoint import Endpoint, coordinator_address, parse_bind, read_endpoint, write_endpoint
from hostler.errors import InvalidRequest
from hostler.settings import Settings, descriptions, from_arguments, load, make_private_dir, runtime_dir


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A settings file."""
    path = tmp_path / "hostler.toml"
    path.write_text('slots = 3\nname = "from-file"\n[labels]\nzone = "a"\n')
    return path


def test_without_anything_the_defaults_hold() -> None:
    """They are loopback and one worker."""
    settings = load()

    assert (settings.http, settings.grpc, settings.workers) == ("127.0.0.1:8080", "127.0.0.1:7070", 1)
    assert settings.data_dir.name == "hostler"


def test_the_file_wins_over_the_defaults(file: Path) -> None:
    """And what it does not name stays."""
    settings = load(file)

    assert (settings.slots, settings.name, settings.labels, settings.workers) == (3, "from-file", {"zone": "a"}, 1)


def test_the_environment_wins_over_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Field by field."""
    monkeypatch.setenv("HOSTLER_SLOTS", "5")

    settings = load(file)

    assert (settings.slots, settings.name) == (5, "from-file")


def test_a_flag_wins_over_everything(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was not given, which is None, does not count."""
    monkeypatch.setenv("HOSTLER_SLOTS", "5")
    monkeypatch.setenv("HOSTLER_NAME", "from-environment")

    settings = load(file, slots=7, name=None)

    assert (settings.slots, settings.name) == (7, "from-environment")


def test_the_environment_names_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For programs that are started without flags."""
    monkeypatch.setenv("HOSTLER_CONFIG", str(file))

    assert load().slots == 3


@pytest.mark.parametrize("text", ['{"zone": "a", "disk": "ssd"}', "zone=a,disk=ssd", "zone=a, disk=ssd"])
def test_labels_are_written_in_two_ways_in_the_environment(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As JSON, and as people write them."""
    monkeypatch.setenv("HOSTLER_LABELS", text)

    assert load().labels == {"zone": "a", "disk": "ssd"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SLOTS", "many"),
        ("SLOTS", "-1"),
        ("WORKERS", "65"),
        ("LABELS", "{"),
        ("LABELS", "[1]"),
        ("LOST_AFTER_S", "0"),
        ("LOG_LEVEL", "loud"),
        ("HEARTBEAT_S", "61"),
        ("STOP_JOBS", "perhaps"),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_the_setting(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a traceback."""
    monkeypatch.setenv(f"HOSTLER_{name}", text)

    with pytest.raises(InvalidRequest) as refused:
        load()

    assert refused.value.field.split("[")[0].lower() == name.lower()


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (b"slotz = 3\n", "slotz"),
        (b"slots = \n", "config"),
        (b"slots = 'x'\n", "slots"),
        (b"name = '\xff'\n", "config"),
        (b"[labels]\nzone = 1\n", "labels"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(file: Path, content: bytes, field: str) -> None:
    """A misspelt setting that silently does nothing is worse than an error."""
    file.write_bytes(content)

    with pytest.raises(InvalidRequest) as refused:
        load(file)

    assert refused.value.field.startswith(field)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """It was named, so it was meant."""
    with pytest.raises(InvalidRequest, match="No such file"):
        load(tmp_path / "missing.toml")


def test_settings_are_handed_on_as_they_are(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child reads what `up` read: not its own environment, not the file again."""
    settings = load(file, http="127.0.0.1:0")
    monkeypatch.setenv("HOSTLER_SLOTS", "9")
    file.unlink()

    assert from_arguments(["--settings", settings.to_json()]) == settings


@pytest.mark.parametrize("arguments", [["--settings"], ["x"], ["--settings", "{"], ["--settings", '{"slotz": 1}']])
def test_other_arguments_are_refused(arguments: list[str]) -> None:
    """With one sentence."""
    with pytest.raises(InvalidRequest):
        from_arguments(arguments)


def test_every_setting_is_described() -> None:
    """The document is written from it."""
    assert all(meaning for _, meaning in descriptions().values())
    assert set(descriptions()) == set(Settings().to_dict())


# Directories


def test_a_private_directory_is_ours_alone(tmp_path: Path) -> None:
    """Made with mode 0700, also when it was there with another."""
    open_to_all = tmp_path / "a" / "b"
    open_to_all.mkdir(parents=True, mode=0o755)

    for path in (open_to_all, tmp_path / "new" / "one"):
        assert stat.S_IMODE(make_private_dir(path).stat().st_mode) == 0o700


def test_a_file_in_the_place_of_a_directory_is_refused(tmp_path: Path) -> None:
    """With a sentence that names it."""
    (tmp_path / "file").touch()

    with pytest.raises(InvalidRequest, match="file"):
        make_private_dir(tmp_path / "file")


def test_sockets_are_below_the_data_directory_where_the_kernel_allows() -> None:
    """A longer path gets a directory of its own, the same for every program and another for another directory."""
    short, long, other = Path("/d"), Path("/" + "d" * 90), Path("/" + "e" * 90)

    assert runtime_dir(short) == Path("/d/run")
    assert runtime_dir(long) == runtime_dir(long) != runtime_dir(other)
    assert len(str(runtime_dir(long) / "coordinator.sock")) <= 107


def test_an_endpoint_is_read_back(tmp_path: Path) -> None:
    """And one that is torn, foreign or missing is none."""
    endpoint = Endpoint(socket="unix:/x", grpc="127.0.0.1:7070", pid=7)
    assert read_endpoint(tmp_path) is None
    write_endpoint(tmp_path, endpoint)
    assert read_endpoint(tmp_path) == endpoint

    for content in ("{", "[]", '{"socket": "x"}', '{"other": 1}', "7"):
        (tmp_path / "endpoint.json").write_text(content)
        assert read_endpoint(tmp_path) is None


def test_the_address_is_the_setting_or_the_socket(tmp_path: Path) -> None:
    """A client needs no more than the data directory."""
    assert coordinator_address(load(coordinator="127.0.0.1:1")) == "127.0.0.1:1"
    assert coordinator_address(load(data_dir=tmp_path)).startswith("unix:/")


# Binds


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("127.9.9.9:65535", ("127.9.9.9", 65535)),
        ("localhost:80", ("127.0.0.1", 80)),
        ("[::1]:80", ("::1", 80)),
    ],
)
def test_loopback_may_be_bound(text: str, found: tuple[str, int]) -> None:
    """In the forms people write."""
    assert parse_bind(text, field="http") == found


@pytest.mark.parametrize(
    "text",
    ["0.0.0.0:80", "[::]:80", "192.168.1.1:80", "example.org:80", ":80", "*:80", "localhost.example.org:80", "1:80"],
)
def test_any_other_bind_is_refused_with_what_to_do(text: str) -> None:
    """There is no TLS and there are no keys yet."""
    with pytest.raises(InvalidRequest, match="loopback") as refused:
        parse_bind(text, field="http")

    assert refused.value.field == "http"


@pytest.mark.parametrize("text", ["", "8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "x:-1"])
def test_what_is_no_address_is_refused_with_the_form(text: str) -> None:
    """With an example."""
    with pytest.raises(InvalidRequest, match="HOST:PORT"):
        parse_bind(text, field="grpc")


@pytest.mark.parametrize("values", [{"lost_after_s": float("nan")}, {"heartbeat_s": float("nan")}])
def test_a_duration_that_is_no_number_is_refused(values: dict[str, Any]) -> None:
    """It compares with nothing, so a limit of it never comes."""
    with pytest.raises(InvalidRequest):
        load(**values)
