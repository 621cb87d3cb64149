"""Every setting, once: flags > environment (``HOSTLER_*``) > the TOML file > defaults.

The only module that reads the environment. A program calls `load` once, at its start, and passes
the frozen value down. ``docs/settings.md`` is written from the descriptions here.
"""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any, ClassVar, Literal

import platformdirs
from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from hostler.errors import InvalidRequest

SOCKET_PATH_BYTES_MAX = 107  # the kernel's limit for a unix socket's path
RUNTIME_NAME_BYTES = 24  # the longest name we put into the runtime directory, with its slash


class Settings(BaseSettings):
    """The settings of every hostler program; each uses those it needs."""

    model_config = SettingsConfigDict(env_prefix="HOSTLER_", frozen=True, extra="ignore")

    toml_file: ClassVar[Path | None] = None

    data_dir: Path = Field(
        default_factory=lambda: platformdirs.user_data_path("hostler"),
        description="Where the coordinator and the workers of this host keep what must survive.",
    )
    http: str = Field("127.0.0.1:8080", description="HOST:PORT of the HTTP gateway; port 0 takes a free one.")
    grpc: str = Field(
        "127.0.0.1:7070", description="HOST:PORT of the coordinator's gRPC port; empty: the unix socket only."
    )
    coordinator: str = Field(
        "",
        description="Where clients, workers and the gateway find the coordinator: unix:/path or HOST:PORT; "
        "empty: as the data directory's endpoint.json says.",
    )
    workers: int = Field(1, ge=0, le=64, description="How many workers `up` starts on this host.")
    slots: int = Field(0, ge=0, le=4096, description="Jobs a worker runs at once; 0: twice the CPUs.")
    name: str = Field("", max_length=200, description="The worker's name; empty: the host's name.")
    labels: dict[str, str] = Field(default_factory=dict, description="The worker's labels, for placement.")
    stop_jobs: bool = Field(
        False, description="A worker that is told to end stops its jobs first; otherwise they run on."
    )
    lost_after_s: float = Field(
        600.0, gt=0, description="Seconds after which the jobs of an unreachable worker end as lost."
    )
    heartbeat_s: float = Field(2.0, gt=0, le=60, description="Seconds of silence after which a worker speaks.")
    max_queued: int = Field(1_000_000, ge=1, description="Waiting jobs above which a submit is refused.")
    disk_reserve_bytes: int = Field(
        256 * 1024 * 1024, ge=0, description="Free disk space below which nothing new is accepted."
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description="Names besides localhost that a Host header may carry."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="The lowest level logged.")
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="json, or text for people; auto: text on a terminal."
    )
    parent_fd: int = Field(-1, description="A descriptor whose end of file means: end as on SIGTERM. For `up`.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags first, then the environment, then the file."""
        sources: tuple[PydanticBaseSettingsSource, ...] = (init_settings, env_settings)
        if cls.toml_file is not None:
            sources += (TomlConfigSettingsSource(settings_cls, toml_file=cls.toml_file),)
        return sources


def load(config: Path | None = None, **flags: Any) -> Settings:
    """Read the settings; flags that are None count as not given.

    Raises:
        InvalidRequest: a value is unusable, or the file is missing, unreadable or holds an unknown key.
    """
    if config is None and os.environ.get("HOSTLER_CONFIG"):
        config = Path(os.environ["HOSTLER_CONFIG"])
    if config is not None:
        _check_file(config)
    source = type("FileSettings", (Settings,), {"toml_file": config, "__module__": __name__})
    try:
        loaded: Settings = source(**{name: value for name, value in flags.items() if value is not None})
        return loaded
    except SettingsError as error:
        raise InvalidRequest(f"a setting in the environment cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(f"setting {name}: {first['msg']}", field=name) from error


def from_arguments(arguments: list[str]) -> Settings:
    """Read the settings that `up` or the command line handed on as ``--settings JSON``, or load them anew.

    Raises:
        InvalidRequest: the arguments are not of that form.
    """
    if not arguments:
        return load()
    if len(arguments) != 2 or arguments[0] != "--settings":
        raise InvalidRequest("usage: python -m PROGRAM [--settings JSON]")
    try:
        return Settings.model_validate_json(arguments[1])
    except ValidationError as error:
        raise InvalidRequest(f"settings: {error.errors()[0]['msg']}") from error


def _check_file(path: Path) -> None:
    # pydantic-settings passes over a file that is not there and over keys it does not know; a
    # misspelt setting that silently does nothing is worse than an error.
    import tomllib

    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise InvalidRequest(f"settings file {path}: {error.strerror}", field="config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"settings file {path}: {error}", field="config") from error
    unknown = sorted(set(content) - set(Settings.model_fields))
    if unknown:
        raise InvalidRequest(f"settings file {path}: unknown setting {unknown[0]!r}", field=unknown[0])


def runtime_dir(data_dir: Path) -> Path:
    """The directory for sockets that belongs to *data_dir*: its own ``run`` where the path is short enough.

    Otherwise a directory of this user under the temporary directory, named by the data directory's
    hash, so that every program of the host computes the same one.
    """
    own = data_dir.resolve() / "run"
    if len(os.fsencode(own)) + RUNTIME_NAME_BYTES <= SOCKET_PATH_BYTES_MAX:
        return own
    digest = hashlib.sha256(os.fsencode(own)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"hostler-{os.getuid()}-{digest}"


def make_private_dir(path: Path) -> Path:
    """Make *path* with mode 0700, or check that it is ours and nobody else may enter.

    Raises:
        InvalidRequest: the directory belongs to another user, or cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        stat = path.stat()
        if stat.st_uid != os.getuid():
            raise InvalidRequest(f"{path} belongs to another user; choose another data directory", field="data_dir")
        if stat.st_mode & 0o077:
            path.chmod(0o700)
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be used: {error.strerror}", field="data_dir") from error
    return path


def set_for_children(name: str, value: str) -> None:
    """Set an environment variable for this process and what it starts."""
    os.environ[name] = value


def base_environment() -> dict[str, str]:
    """A copy of this process's environment, for the programs that start others."""
    return dict(os.environ)
