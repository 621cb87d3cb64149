"""What a definition says of its container, its service and its callers has a form that can do no harm."""

from typing import Any

import pytest

from hostler.container_checks import check_container, check_service, read_size
from hostler.jobs import Container, Service


@pytest.mark.parametrize(
    ("text", "size_bytes"), [("0", 0), ("512", 512), ("1K", 1024), ("64M", 64 << 20), ("2G", 2 << 30), ("1T", 1 << 40)]
)
def test_sizes_have_units(text: str, size_bytes: int) -> None:
    """Powers of 1024."""
    assert read_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "M", "1.5G", "-1", "1 G", "1m", "1GB", "٣M", "9" * 16])
def test_what_is_no_size_is_refused(text: str) -> None:
    """With what to give instead."""
    with pytest.raises(ValueError, match="64M"):
        read_size(text)


@pytest.mark.parametrize(
    "given",
    [
        {"image": "busybox"},
        {"image": "localhost/app:1"},
        {"image": "registry.example:5000/a/b/c:v1.2-rc"},
        {"image": "docker.io/library/busybox@sha256:" + "0" * 64},
        {"image": "a/b:1@sha256:" + "0" * 64},
        {"image": "0123456789ab"},
        {"image": "a", "pull": "always", "memory_bytes": 4 << 20, "cpus": 0.1, "pids": 1},
        {"image": "a", "network": "host", "user": "0:0", "capabilities": ("SYS_ADMIN", "KILL")},
        {"image": "a", "volumes": ("/a:/b", "/a b/c:/d:ro", "/:/host:ro")},
    ],
)
def test_a_right_container_is_accepted(given: dict[str, Any]) -> None:
    """What of it a worker allows is another matter."""
    assert check_container(Container(**given), serves=False) is None


@pytest.mark.parametrize(
    "given",
    [
        {"image": ""},
        {"image": "-v"},
        {"image": "--privileged"},
        {"image": "docker://a"},
        {"image": "oci-archive:/etc/x"},
        {"image": "/etc/passwd"},
        {"image": "a b"},
        {"image": "a\n"},
        {"image": "a//b"},
        {"image": "a/../b"},
        {"image": "a:"},
        {"image": "a@sha256:1"},
        {"image": "a" * 501},
        {"pull": "newer"},
        {"memory_bytes": 64},
        {"memory_bytes": 1 << 60},
        {"cpus": -1.0},
        {"cpus": float("nan")},
        {"cpus": float("inf")},
        {"pids": 1 << 23},
        {"network": "container:abc"},
        {"network": "ns:/proc/1/ns/net"},
        {"network": "-x"},
        {"user": "root"},
        {"user": "0"},
        {"user": "0:4294967295"},
        {"capabilities": ("ALL",)},
        {"capabilities": ("CAP_KILL",)},
        {"capabilities": ("kill",)},
        {"volumes": ("/a",)},
        {"volumes": ("a:/b",)},
        {"volumes": ("/a:b",)},
        {"volumes": ("/a:/",)},
        {"volumes": ("/a/../etc:/b",)},
        {"volumes": ("/a:/b:rw",)},
        {"volumes": ("/a:/b:ro:ro",)},
        {"volumes": ("/a:/b:",)},
        {"volumes": ("/a,x:/b",)},
        {"volumes": ("/a\n:/b",)},
        {"volumes": ("//a:/b",)},
        {"volumes": ("/a:/b",) * 65},
        {"port": 3000},
        {"port": 70000},
    ],
)
def test_a_wrong_container_is_refused(given: dict[str, Any]) -> None:
    """Nothing is taken for an option, or leads out of its place."""
    wrong = check_container(Container(**({"image": "a"} | given)), serves=False)

    assert wrong is not None and wrong.field == "container"


@pytest.mark.parametrize("port", [0, 1, 65535])
def test_the_container_of_a_service_has_a_port(port: int) -> None:
    """Zero is the usual one."""
    assert check_container(Container(image="a", port=port), serves=True) is None


@pytest.mark.parametrize(
    "given",
    [
        {"url": ""},
        {"url": "there"},
        {"url": "ftp://there"},
        {"url": "file:///etc/passwd"},
        {"url": "http://"},
        {"url": "http://:80"},
        {"url": "http://user:word@there"},
        {"url": "http://user@there"},
        {"url": "http://there/#x"},
        {"url": "http://there?x=1"},
        {"url": "http://there:99999"},
        {"url": "http://there:0"},
        {"url": "http://[::1"},
        {"url": "http://the re"},
        {"url": "http://there\r\nHost:x"},
        {"url": "http://there/" + "x" * 500},
        {"token_variable": "A="},
        {"health_path": "health"},
        {"health_path": "/a b"},
        {"health_path": "/a\r\n"},
        {"health_path": "/" + "x" * 500},
        {"start_s": -1.0},
        {"start_s": float("nan")},
        {"name": "x"},
        {"version": 1},
        {"container": Container(image="a")},
        {"argv": ("x",)},
        {"env": {"A": "1"}},
    ],
)
def test_a_wrong_service_is_refused(given: dict[str, Any]) -> None:
    """Also one that says what only its workload may say."""
    wrong = check_service(Service(**({"url": "http://there"} | given)), has_container=False)

    assert wrong is not None and wrong.field == "service"
