"""Every setting, once: flags > environment (``HOSTLER_*``) > the TOML file > defaults.

The only module that reads the environment. A program calls `load` once, at its start, and passes
the frozen value down. ``docs/settings.md`` is written from the descriptions here.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

import msgspec
import msgspec.structs
from msgspec import Meta

from hostler.errors import InvalidRequest

TERMINAL_VARIABLE = "TERM"
ENVIRONMENT_PREFIX = "HOSTLER_"
CONFIG_VARIABLE = "HOSTLER_CONFIG"
SOCKET_PATH_BYTES_MAX = 107  # the kernel's limit for a unix socket's path
RUNTIME_NAME_BYTES = 24  # the longest name we put into the runtime directory, with its slash


def _user_data_dir() -> str:
    import platformdirs  # here, because a part that is told its directory does without

    return platformdirs.user_data_dir("hostler")


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of every hostler program; each uses those it needs."""

    data_path: Annotated[
        str,
        Meta(min_length=1, description="Where the coordinator and the workers of this host keep what must survive."),
    ] = msgspec.field(default_factory=_user_data_dir, name="data_dir")
    http: Annotated[str, Meta(description="HOST:PORT of the HTTP gateway; port 0 takes a free one.")] = "127.0.0.1:8080"
    grpc: Annotated[str, Meta(description="HOST:PORT of the coordinator's gRPC port; empty: the unix socket only.")] = (
        "127.0.0.1:7070"
    )
    coordinator: Annotated[
        str,
        Meta(
            description="Where clients, workers and the gateway find the coordinator: unix:/path or HOST:PORT; "
            "empty: as the data directory's endpoint.json says."
        ),
    ] = ""
    tls_ca: Annotated[
        str,
        Meta(description="PEM file of the one authority that is trusted, to reach a coordinator on another host."),
    ] = ""
    ca_fingerprint: Annotated[
        str,
        Meta(
            description="Instead of tls_ca: the SHA-256 of that authority in hex, as `hostler workers invite` shows it."
        ),
    ] = ""
    key_file: Annotated[
        str,
        Meta(
            description="File with the key (hst_...) that commands, clients and gateways show to the coordinator, mode "
            "0600; needed on another host, and used on this one as well (docs/access.md)."
        ),
    ] = ""
    join: Annotated[
        str, Meta(description="The invitation (hsj_...) with which a worker joins; not looked at once it has joined.")
    ] = ""
    tls_certificate: Annotated[
        str,
        Meta(description="PEM file of a certificate to listen with; empty: one of the cluster's own authority."),
    ] = ""
    tls_private_key: Annotated[str, Meta(description="PEM file of its private key, mode 0600.")] = ""
    tls_names: Annotated[
        tuple[str, ...],
        Meta(description="Names and addresses that the coordinator's certificate is for, besides where it listens."),
    ] = ()
    workers_bind: Annotated[
        str,
        Meta(
            description="HOST:PORT for workers of other hosts, who show their certificates there; empty: the gRPC port "
            "plus one, when that is off loopback. With it the gRPC port speaks TLS on loopback too."
        ),
    ] = ""
    worker_certificate_s: Annotated[
        float, Meta(ge=2, le=90 * 86400, description="Seconds for which a worker's certificate is good.")
    ] = 86400.0
    workers: Annotated[int, Meta(ge=0, le=64, description="How many workers `up` starts on this host.")] = 1
    slots: Annotated[int, Meta(ge=0, le=4096, description="Jobs a worker runs at once; 0: twice the CPUs.")] = 0
    name: Annotated[str, Meta(max_length=200, description="The worker's name; empty: the host's name.")] = ""
    labels: Annotated[dict[str, str], Meta(description="The worker's labels, for placement.")] = {}
    workloads: Annotated[
        tuple[str, ...], Meta(description="Workloads this worker takes, with * as a wild card; empty: all.")
    ] = ()
    start_path: Annotated[
        Literal["warm", "hardened"],
        Meta(
            description="How a worker starts programs that do not say it themselves: warm, or hardened: in a PID "
            "namespace of their own and without new privileges."
        ),
    ] = "warm"
    policy_file: Annotated[
        str,
        Meta(
            description="TOML file with what a worker takes and how it runs it (docs/worker-policy.md); it must be "
            "root's, or the worker's own. Empty: anything, and from a coordinator on another host registered workloads."
        ),
    ] = ""
    allow_arbitrary: Annotated[
        bool,
        Meta(description="Without a policy file: a worker takes any program from a coordinator on another host, too."),
    ] = False
    allow_root: Annotated[
        bool, Meta(description="A worker that is started as root by itself runs its jobs as root.")
    ] = False
    podman: Annotated[
        str, Meta(description="The podman program with which a worker runs containers; empty: it runs none.")
    ] = "podman"
    podman_options: Annotated[
        tuple[str, ...],
        Meta(description="Options of every call of podman, as --root=/srv/containers; they win over those it chooses."),
    ] = ()
    redact_logs: Annotated[
        bool,
        Meta(description="Whether a worker takes the values of a job's secrets out of its log, as far as it can."),
    ] = True
    volumes_allowed: Annotated[
        tuple[str, ...], Meta(description="Directories of a worker's host that its containers may mount.")
    ] = ()
    stop_jobs: Annotated[
        bool,
        Meta(description="On Ctrl-C, or with its parent, a worker stops its jobs first. SIGTERM never does."),
    ] = False
    lost_after_s: Annotated[
        float, Meta(gt=0, description="Seconds after which the jobs of an unreachable worker end as lost.")
    ] = 600.0
    lost_after_by_family_s: Annotated[
        dict[str, float], Meta(description="The same for jobs of these HTTP APIs, whose callers wait.")
    ] = msgspec.field(default_factory=lambda: {"pixyz": 120.0, "altron": 120.0, "infernet": 120.0})
    sample_workloads: Annotated[
        bool, Meta(description="Whether the coordinator registers the workloads that ship with hostler.")
    ] = True
    workloads_dir: Annotated[
        str, Meta(description="A directory of workload definitions that the coordinator registers at its start.")
    ] = ""
    files_keep_s: Annotated[
        float, Meta(ge=0, description="Seconds after a job's end for which its files are kept; 0: for ever.")
    ] = 7 * 86400.0
    files_bytes_max: Annotated[
        int, Meta(ge=0, description="Bytes of files above which those of the oldest jobs go; 0: no limit.")
    ] = 0
    logs_keep_s: Annotated[
        float, Meta(ge=0, description="Seconds after a job's end for which its logs are kept; 0: for ever.")
    ] = 30 * 86400.0
    logs_bytes_max: Annotated[
        int, Meta(ge=0, description="Bytes of logs of finished jobs above which those of the oldest go; 0: no limit.")
    ] = 20 * 10**9
    jobs_keep_s: Annotated[
        float,
        Meta(
            ge=0,
            description="Seconds after its end for which a job is known at all; 0: for ever. One with an idempotency "
            "key is known for a day at least.",
        ),
    ] = 90 * 86400.0
    jobs_max: Annotated[
        int, Meta(ge=0, description="Finished jobs above which the oldest are forgotten; 0: no limit.")
    ] = 1_000_000
    audit_keep_s: Annotated[
        float, Meta(ge=0, description="Seconds for which files of the audit log are kept; 0: for ever.")
    ] = 365 * 86400.0
    heartbeat_s: Annotated[float, Meta(gt=0, le=60, description="Seconds of silence after which a worker speaks.")] = (
        2.0
    )
    max_queued: Annotated[int, Meta(ge=1, description="Waiting jobs above which a submit is refused.")] = 1_000_000
    disk_reserve_bytes: Annotated[
        int, Meta(ge=0, description="Free disk space below which nothing new is accepted.")
    ] = 256 * 1024 * 1024
    allowed_hosts: Annotated[
        tuple[str, ...], Meta(description="Names besides localhost that a Host header may carry.")
    ] = ()
    http_certificate: Annotated[
        str,
        Meta(
            description="PEM file of the certificate with which the gateway serves; with it every caller needs a key. "
            "Empty: off loopback one that the coordinator of this data directory has made."
        ),
    ] = ""
    http_private_key: Annotated[str, Meta(description="PEM file of its private key, mode 0600.")] = ""
    requests_per_s: Annotated[
        float, Meta(ge=0, description="HTTP requests a second of one key, or of an address without one; 0: no limit.")
    ] = 50.0
    requests_at_once: Annotated[
        int, Meta(ge=0, description="HTTP requests of one of these that may be open, streams too; 0: no limit.")
    ] = 100
    connections_per_address: Annotated[
        int, Meta(ge=0, description="HTTP connections from one address of another host; 0: no limit.")
    ] = 100
    altron_workload: Annotated[
        str, Meta(min_length=1, max_length=100, description="The workload that Altron's jobs run.")
    ] = "altron_job"
    altron_reply_workload: Annotated[
        str, Meta(min_length=1, max_length=100, description="The workload that answers Altron's Discord messages.")
    ] = "altron_reply"
    altron_reply_wait_s: Annotated[
        float, Meta(gt=0, le=3600, description="Seconds within which a Discord message must be answered.")
    ] = 30.0
    admitted_networks: Annotated[
        tuple[str, ...],
        Meta(
            description="Networks, as CIDR, whose callers may use the Infernet API, and look at the PiXYZ API's "
            "processes, without a key; each address is a principal of its own and sees its own jobs."
        ),
    ] = ()
    infernet_status_networks: Annotated[
        tuple[str, ...],
        Meta(description="Networks, as CIDR, from which the Infernet API's PUT /api/status may be called."),
    ] = ("127.0.0.0/8", "::1/128")
    infernet_version: Annotated[
        str, Meta(description="The version of the node that the Infernet API's /info names.")
    ] = "1.4.0"
    key_for_processes: Annotated[
        bool, Meta(description="Ask for a key on the PiXYZ API's /processes in admitted networks, too.")
    ] = False
    pixyz_version: Annotated[str, Meta(description="The version that the PiXYZ API's welcome line names.")] = "1.0.5"
    pixyz_queues: Annotated[
        dict[str, dict[str, str]],
        Meta(
            description="Names of PiXYZ queues, each with the labels that a worker must have; a queue that is not "
            "here means any worker."
        ),
    ] = {}
    upload_bytes_max: Annotated[int, Meta(ge=0, description="Bytes of one upload; 0: no limit.")] = 64 * 1024**3
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="The lowest level logged.")] = (
        "info"
    )
    log_format: Annotated[
        Literal["auto", "json", "text"], Meta(description="json, or text for people; auto: text on a terminal.")
    ] = "auto"
    parent_fd: Annotated[
        int, Meta(description="A descriptor whose end of file means: end as on SIGTERM. For `up`.")
    ] = -1

    @property
    def data_dir(self) -> Path:
        """Where the coordinator and the workers of this host keep what must survive."""
        return Path(self.data_path)

    def to_dict(self) -> dict[str, Any]:
        """Every setting as plain JSON types, by its outer name."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    def to_json(self) -> str:
        """The form that `from_arguments` reads."""
        return json.dumps(self.to_dict())


def load(config: Path | None = None, **flags: Any) -> Settings:
    """Read the settings; flags that are None count as not given.

    Raises:
        InvalidRequest: a value is unusable, or the file is missing, unreadable or holds an unknown key.
    """
    if config is None and os.environ.get(CONFIG_VARIABLE):
        config = Path(os.environ[CONFIG_VARIABLE])
    from_file = _read_file(config) if config is not None else {}
    given = {name: os.fspath(v) if isinstance(v, Path) else v for name, v in flags.items() if v is not None}
    from_environment = _read_environment(os.environ)
    try:
        return msgspec.convert(from_file | from_environment | given, Settings, strict=False)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$.")
        name = place.rstrip("`").partition("[")[0].partition(".")[0]
        source = "given as a flag"
        if name not in given:
            source = f"from {ENVIRONMENT_PREFIX}{name.upper()}" if name in from_environment else f"from {config}"
        raise InvalidRequest(
            f"setting {name} ({source}): {message[:1].lower()}{message[1:]}; docs/settings.md lists the settings",
            field=name,
        ) from error


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
        return msgspec.json.decode(arguments[1], type=Settings)
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"settings: {error}") from error


def descriptions() -> dict[str, tuple[Any, str]]:
    """Every setting's outer name with its default and its meaning, for the documents."""
    found: dict[str, tuple[Any, str]] = {}
    plain = msgspec.to_builtins(Settings())
    for field in msgspec.structs.fields(Settings):
        meta = field.type.__metadata__[0] if hasattr(field.type, "__metadata__") else Meta()
        found[field.encode_name] = (plain[field.encode_name], meta.description or "")
    return found


def _names() -> set[str]:
    return set(Settings.__struct_encode_fields__)


def _read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """The settings of the environment; lists and tables are JSON there, or ``a,b`` and ``a=b,c=d``."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(Settings):
        name = field.encode_name
        text = environment.get(ENVIRONMENT_PREFIX + name.upper())
        if text is None:
            continue
        kind = get_origin(field.type.__origin__ if hasattr(field.type, "__metadata__") else field.type)
        found[name] = _read_collection(name, kind, text) if kind in (tuple, dict) else text
    return found


def _read_collection(name: str, kind: Any, text: str) -> Any:
    if text[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except ValueError as error:
            raise InvalidRequest(f"{ENVIRONMENT_PREFIX}{name.upper()} is not JSON: {error}", field=name) from error
    items = [item.strip() for item in text.split(",") if item.strip()]
    if kind is tuple:
        return items
    return dict(item.partition("=")[::2] for item in items)


def _read_file(path: Path) -> dict[str, Any]:
    import tomllib  # here, because most have no such file

    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise InvalidRequest(f"settings file {path}: {error.strerror}", field="config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"settings file {path}: {error}", field="config") from error
    unknown = sorted(set(content) - _names())
    if unknown:
        # A misspelt setting that silently does nothing is worse than an error.
        raise InvalidRequest(f"settings file {path}: unknown setting {unknown[0]!r}", field=unknown[0])
    return content


def runtime_dir(data_dir: Path) -> Path:
    """The directory for sockets that belongs to *data_dir*: its own ``run`` where the path is short enough.

    Otherwise a directory of this user under the temporary directory, named by the data directory's
    hash, so that every program of the host computes the same one.
    """
    own = data_dir.resolve() / "run"
    if len(os.fsencode(own)) + RUNTIME_NAME_BYTES <= SOCKET_PATH_BYTES_MAX:
        return own
    import tempfile  # here, because short paths are the rule

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


def has_colours() -> bool:
    """Whether a terminal of ours may be given colours (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and terminal_kind() not in ("", "dumb")


def base_environment() -> dict[str, str]:
    """A copy of this process's environment, for the programs that start others."""
    return dict(os.environ)


def terminal_kind() -> str:
    """The kind of our terminal, for programs that write to it; empty: not said."""
    return os.environ.get(TERMINAL_VARIABLE, "")
