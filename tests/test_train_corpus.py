"""The corpus: split by file, disjoint, the same every time."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from elman.train import memory
from elman.train.corpus import Corpus, CorpusError, TextFile, read_paths, read_standard_library


def numbered(count: int) -> list[TextFile]:
    return [TextFile(f"{number}.txt", f"text {number}\n".encode()) for number in range(count)]


def names(files: tuple[TextFile, ...]) -> set[str]:
    return {file.name for file in files}


def test_the_sides_are_disjoint_and_together_all_files() -> None:
    corpus = Corpus.split("numbers", numbered(200))
    assert names(corpus.train).isdisjoint(names(corpus.held_out))
    assert names(corpus.train) | names(corpus.held_out) == names(tuple(numbered(200)))
    assert 8 <= len(corpus.held_out) <= 35  # 20 expected, 3.5 standard deviations either way


def test_the_split_does_not_depend_on_the_order_of_the_files() -> None:
    assert Corpus.split("numbers", numbered(50)) == Corpus.split("numbers", numbered(50)[::-1])


def test_a_files_side_does_not_depend_on_the_other_files() -> None:
    few, many = Corpus.split("few", numbered(100)), Corpus.split("many", numbered(300))
    assert names(few.held_out) == names(many.held_out) & names(tuple(numbered(100)))


def test_a_name_that_is_no_unicode_has_a_side_too() -> None:
    corpus = Corpus.split("names", [TextFile(os.fsdecode(b"caf\xe9.txt"), b"one"), TextFile("b.txt", b"other")])
    assert len(corpus.train) == len(corpus.held_out) == 1


@pytest.mark.parametrize("count", [2, 3])
def test_few_files_still_have_both_sides(count: int) -> None:
    corpus = Corpus.split("few", numbered(count))
    assert len(corpus.train) >= 1
    assert len(corpus.held_out) >= 1


def test_a_copy_of_a_file_is_not_held_out() -> None:
    copies = [TextFile(f"copy {number}", b"the same text") for number in range(30)]
    corpus = Corpus.split("copies", [*copies, TextFile("another", b"another text")])
    assert len(corpus.train) == len(corpus.held_out) == 1
    assert corpus.train_text != corpus.held_out_text


def test_a_single_file_is_cut_and_nothing_of_it_is_lost() -> None:
    corpus = Corpus.split("one", [TextFile("one.txt", bytes(range(100)))])
    assert corpus.train_text + corpus.held_out_text == bytes(range(100))
    assert len(corpus.held_out_text) == 10


@pytest.mark.parametrize("text", [b"", b"a", b"ab"])
def test_too_little_text_is_refused(text: bytes) -> None:
    with pytest.raises(CorpusError, match=f"tiny holds {len(text)} characters"):
        Corpus.split("tiny", [TextFile("tiny.txt", text)])


def test_folders_give_their_visible_text_files(tmp_path: Path) -> None:
    for name, text in {
        "a.txt": b"alpha",
        "deep/b.txt": "β".encode(),
        "deep/picture.bin": b"\xff\xfe\x00",
        "null.txt": b"a\0b",
        ".hidden": b"hidden",
        ".git/config": b"hidden too",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(text)
    corpus = read_paths([tmp_path])
    assert names(corpus.train) | names(corpus.held_out) == {"a.txt", "deep/b.txt"}


def test_what_is_left_out_of_a_folder_is_named_by_its_reason(tmp_path: Path) -> None:
    for name, text in {
        "a.txt": b"alpha",
        "b.txt": b"beta",
        ".hidden/c.txt": b"hidden",
        "venv/pyvenv.cfg": b"home = /usr",
        "venv/lib/d.py": b"made",
        "target/CACHEDIR.TAG": b"Signature: 8a477f597d28d172789f06886806bc55",
        "node_modules/e.js": b"made",
        "picture.bin": b"\xff",
        "mine/sample.txt": b"my own sample",
        "cut/model.safetensors": b'\x60\0\0\0\0\0\0\0{"__metadata__":{"format":"elman.CharModel"',
        "cut/sample.txt": b"written by a network",
        "cut/notes.txt": b"my notes on it",
        "figures/metrics.json": b'{"held_out_bits_per_character": {}}',
        "out/f.txt": b"whatever",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(text)
    (tmp_path / "loop").symlink_to(tmp_path)
    corpus = read_paths([tmp_path], tmp_path / "out")
    assert names(corpus.train) | names(corpus.held_out) == {"a.txt", "b.txt", "cut/notes.txt", "mine/sample.txt"}
    assert {reason: [str(Path(path).relative_to(tmp_path)) for path in paths] for reason, paths in corpus.left_out.items()} == {
        "hidden": [".hidden"],
        "link": ["loop"],
        "made": ["node_modules", "target", "venv"],
        "out": ["out"],
        "not_text": ["picture.bin"],
        "training": ["cut/model.safetensors", "cut/sample.txt", "figures/metrics.json"],
    }


def test_more_text_than_memory_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 1e6)
    with (tmp_path / "large.txt").open("wb") as file:
        file.truncate(10**12)  # takes no room
    with pytest.raises(CorpusError, match=r"are 1\.0 TB of text: too much for the memory"):
        read_paths([tmp_path / "large.txt"])


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no such file or folder: .*missing"):
        read_paths([tmp_path / "missing"])


def test_a_file_that_fails_while_it_is_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(file: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error")  # as read() says it, without a name

    (tmp_path / "text").write_text("text")
    monkeypatch.setattr(Path, "read_bytes", fails)
    with pytest.raises(CorpusError, match=f"cannot read {re.escape(str(tmp_path / 'text'))}: Input/output error"):
        read_paths([tmp_path / "text"])


def test_what_is_no_file_is_refused() -> None:
    with pytest.raises(CorpusError, match="neither a file nor a folder: /dev/null"):
        read_paths([Path("/dev/null")])


def test_the_standard_library_without_its_tests() -> None:
    corpus = read_standard_library()
    found = names(corpus.train) | names(corpus.held_out)
    assert {"argparse.py", "json/decoder.py"} <= found
    assert not any("test" in name.split("/")[:-1] for name in found)
    assert len(corpus.train_text) > 3_000_000
    assert len(corpus.held_out_text) > 200_000
