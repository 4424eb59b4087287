"""Files that are whole or not there, and JSON without infinities."""

from __future__ import annotations

import ast
import errno
import json
import os
from pathlib import Path

import pytest

from elman import _files
from elman._files import rehearse, to_json, write

PACKAGE = Path(_files.__file__).parent


def test_what_stood_there_is_replaced_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    path.write_bytes(b"old")
    path.chmod(0o640)
    reader = path.open("rb")
    write(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640
    with reader:
        assert reader.read() == b"old"  # who reads the old file is not disturbed
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_disk_that_fills_up_leaves_what_stood_there(failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "figures.json"
    path.write_bytes(b"old")
    monkeypatch.setattr(*((os, "fsync") if failing == "fsync" else (Path, "replace")), fail)
    with pytest.raises(OSError, match="No space left") as caught:
        write(path, b"new")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "far" / "file")
    write(link, b"new")
    assert link.is_symlink()
    assert (tmp_path / "far" / "file").read_bytes() == b"new"


def test_a_device_stays_a_device() -> None:
    write(Path(os.devnull), b"new")
    rehearse(Path(os.devnull), b"new")
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize(("where", "error"), [(".", IsADirectoryError), ("file/x", NotADirectoryError), ("missing/x", FileNotFoundError)])
def test_what_cannot_be_written_is_known_beforehand(where: str, error: type[OSError], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    for attempt in (write, rehearse):
        with pytest.raises(error):
            attempt(tmp_path / where, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_rehearsal_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    rehearse(tmp_path / "file", b"new")
    rehearse(tmp_path / "other", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_json_has_no_infinities_and_survives_any_encoding() -> None:
    facts = {"a": [1.5, float("inf"), (float("nan"), -float("inf"))], "name": "\udcff 中"}
    text = to_json(facts)
    assert text.isascii()
    read = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert read == {"a": [1.5, None, [None, None]], "name": "\udcff 中"}


def test_there_is_no_second_way_to_write_a_file_or_json() -> None:
    """But for the sizes in a checkpoint's header, integers, which do not allow it either."""
    found = []
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if file.name != "_files.py" and isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                call = ast.unparse(node)
                writes = node.func.attr in {"write_text", "write_bytes", "dump", "save_file", "savefig"}
                if (writes and "png" not in call and "svg" not in call) or (node.func.attr == "dumps" and "allow_nan=False" not in call):
                    found.append(f"{file.name}: {call}")
    assert found == []
