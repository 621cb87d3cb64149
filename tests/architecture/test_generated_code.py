"""hostler/v1 is exactly what protos/hostler/v1 makes."""

from pathlib import Path

import pytest

from scripts import gen_protos


def test_the_committed_code_is_what_the_contract_makes(tmp_path: Path) -> None:
    """Made anew in another place it has the same bytes, and no file is left from a contract that is gone."""
    wanted = gen_protos.generate(tmp_path)

    assert gen_protos.differences(wanted, gen_protos.read_generated(gen_protos.ROOT / gen_protos.PACKAGE)) == []


def test_a_changed_a_missing_and_a_stale_file_are_all_named() -> None:
    """The check says which file and in what way."""
    wanted = {"a_pb2.py": b"1", "b_pb2.py": b"2"}

    lines = gen_protos.differences(wanted, {"a_pb2.py": b"other", "c_pb2.py": b"3"})

    assert [line.removeprefix("hostler/v1/").split(":")[0] for line in lines] == ["a_pb2.py", "b_pb2.py", "c_pb2.py"]


def test_writing_replaces_what_differs_and_removes_what_is_stale(tmp_path: Path) -> None:
    """The package's own __init__.py, which a person wrote, stays."""
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "old_pb2.py").write_text("old")

    gen_protos.write({"new_pb2.py": b"new"}, tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["__init__.py", "new_pb2.py"]


def test_a_contract_with_a_mistake_is_refused_with_what_protoc_said(tmp_path: Path) -> None:
    """The error names the file and the line."""
    folder = tmp_path / "protos" / gen_protos.PACKAGE
    folder.mkdir(parents=True)
    (folder / "wrong.proto").write_text('syntax = "proto3";\nmessage Job { nonsense }\n')

    with pytest.raises(gen_protos.GenerationError, match=r"wrong\.proto:2"):
        gen_protos.generate(tmp_path, proto_root=tmp_path / "protos")
