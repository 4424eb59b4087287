"""The READMEs and the pages of the documentation: what they show runs and prints what they say, and both languages say the same."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from typer.testing import CliRunner

from elman.backends import kernels
from elman.cli.app import app
from elman.language.zh import SENTENCES

ROOT = Path(__file__).parents[1]
READMES = {"en": "README.md", "zh": "README.zh-CN.md"}
DOCS = [f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*READMES.values(), "CONTRIBUTING.md", "CHANGELOG.md", *DOCS]
TRANSLATED = [READMES, *({"en": page.replace(".zh-CN", ""), "zh": page} for page in DOCS if ".zh-CN." in page)]
IN_CHINESE = {
    "architecture",
    "index",
    "sequences",
    "serving",
    "export",
    "training",
    "scale",
    "look-inside",
    "cells",
    "guarantees",
    "benchmark",
    "character-model",
    "compatibility",
    "weights",
    "zoo",
}
# The Chinese pages have the English ones' code, as a quick test below holds.
WITH_CODE = [
    pytest.param(page, marks=[pytest.mark.slow] if ".zh-CN." in page else [])
    for page in PAGES
    if "\n```python\n" in (ROOT / page).read_text(encoding="utf-8")
]
WITH_COMMANDS = [page for pages in TRANSLATED for page in pages.values()]

in_both = pytest.mark.parametrize("lang", READMES)


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def readme(lang: str) -> str:
    return read(READMES[lang])


def blocks(text: str) -> list[tuple[str, str]]:
    """The fenced blocks: language and content."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def without_words(commands: str) -> str:
    """Of comments only the numbers."""
    return re.sub(" +#.*", lambda comment: " # " + " ".join(re.findall(r"\d[\d,.]*\d|\d", comment[0])), commands)


def prose(text: str) -> str:
    return re.sub(r"^```\w+\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """What a reader may type, word by word: lines of ``sh`` blocks, and calls of elman and make in the prose."""
    lines = [line for language, content in blocks(text) if language == "sh" for line in content.splitlines()]
    lines += re.findall(r"`((?:elman|make) [^`]+)`", prose(text))
    return [words for line in lines if (words := shlex.split(line, comments=True))]


# --- What they show ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # which the page says to expect
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")  # from torch's exporter
@pytest.mark.parametrize("page", WITH_CODE)
def test_the_code_runs_and_prints_what_its_comments_say(page: str) -> None:
    names: dict[str, object] = {}
    for language, code in blocks(read(page)):
        if language != "python":
            continue
        said = re.findall(r"^\s*print\(.*\)  # (.*)$", code, re.MULTILINE)
        assert code.count("print(") == len(said)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(code, names)
        printed = out.getvalue().splitlines()
        if "elman.why(" in code:
            if not kernels.available():
                pytest.skip("the kernels are not built here, which why() says too")
            said, printed = ([line.replace(isa, "...") for line in lines] for lines, isa in ((said, "avx512"), (printed, kernels.isa())))
        assert printed == said


def shown_beside_commands(page: str) -> list[tuple[str, str]]:
    """Commands of one line with the output that the page shows right below."""
    both = list(pairwise(blocks(read(page))))
    return [(command.strip(), shown) for (first, command), (second, shown) in both if (first, second) == ("sh", "text")]


@pytest.mark.parametrize("page", [page for page in WITH_COMMANDS if shown_beside_commands(page)])
def test_the_commands_print_what_the_pages_show_of_them(page: str) -> None:
    for command, shown in shown_beside_commands(page):
        elman, *words = shlex.split(command)
        assert elman == "elman"
        assert missing(shown, [*words, "--lang", "zh" if ".zh-CN." in page else "en"]) is None


def test_the_pages_show_what_commands_print() -> None:
    assert {page.split(".")[0] for page in WITH_COMMANDS if shown_beside_commands(page)} == {"docs/sequences", "docs/look-inside"}
    assert len(shown_beside_commands("docs/sequences.md")) == 3


def test_a_line_that_a_command_does_not_print_is_seen() -> None:
    command = ["explain", "rnn", "--lengths", "2,1", "--lang", "en"]
    first, second = "  sequence 0  ○ ──▶ ◆  h_n[0, 0]", "  sequence 1  ◆     ·  h_n[0, 1]"
    assert missing(f"{first}\n…\n{second}", command) is None
    assert missing(f"{second}\n{first}", command) == first
    assert missing(first.replace("◆", "○"), command) == first.replace("◆", "○")


def missing(shown: str, command: list[str]) -> str | None:
    """The first line that a command does not print, or not behind the one above it; "…" stands for any lines."""
    result = CliRunner().invoke(app, command, env={"COLUMNS": "100"})
    assert result.exit_code == 0
    lines = iter(_blurred(result.stdout))
    return next((line for line in _blurred(shown) if line != "…" and line not in lines), None)


def _blurred(text: str) -> list[str]:
    """Lines without the last place of their numbers, which instruction sets round differently."""
    return [re.sub(r"(\.\d{3})\d\b", r"\1", line.rstrip()) for line in text.splitlines()]


# --- What they name ---------------------------------------------------------------------------------------------------


def mistake(words: list[str]) -> str | None:
    """What is wrong with a command of ours; None if nothing is. It is parsed, not run."""
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    if words[:4] == ["torchrun", "--standalone", "--nproc-per-node", "2"]:
        words = words[5:] if words[4] == "-m" else words[4:]
    if words[0] == "make":
        known = re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE)
        return None if words[1] in known else f"make has no {words[1]}"
    if words[0] == "elman":
        result = CliRunner().invoke(app, [words[1], "--help", *words[2:]])  # at the end it would be an option's value
        return None if result.exit_code == 0 else result.stderr
    known = ["pip", "install", "."], ["pip", "install", ".[plot]"], ["pip", "install", ".[cuda]"], ["train.py"]
    return None if words in known else f"unknown: {words}"


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_every_command_can_be_typed(page: str) -> None:
    assert [wrong for words in commands(read(page)) if (wrong := mistake(words))] == []


def test_commands_are_found() -> None:
    assert len(commands(readme("en"))) > 8
    assert len(commands(read("docs/benchmark.md"))) > 8


def test_wrong_commands_are_seen() -> None:
    for line in ("make tea", "elman teach", "elman tour --speed", "elman explain rnn --hidden 3", "A=1 elman nothing", "rm -r ."):
        assert mistake(shlex.split(line)) is not None


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", read(page))
    assert [target for target in targets if "://" not in target and not (ROOT / page).parent.joinpath(target).exists()] == []


def test_every_page_of_the_documentation_is_named() -> None:
    for page in DOCS:
        assert f"({page}" in readme("zh" if ".zh-CN." in page else "en")


@in_both
def test_the_first_page_is_short(lang: str) -> None:
    text = readme(lang)
    assert text.count("\n") <= 150
    assert text.index("<picture>") < text.index("pip install .") < text.index("elman.RNN(10, 20)") < text.index("torch.nn.LSTM(")


# --- What was measured ------------------------------------------------------------------------------------------------


def measured() -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(read("docs/assets/bench.json"))
    return facts


def test_the_tables_show_what_was_measured() -> None:
    """Each row's time of Elman and its ratio to torch's, and the geometric means."""
    facts = measured()
    shown = re.findall(r"^\| (\d) \| [\d,]+ \| (\S+) .*?\| (\S+) \| (?:✗ )?(\S+) \w+ \| \S+ \|$", read("docs/benchmark.md"), re.MULTILINE)
    rows = sorted(facts["rows"], key=lambda row: (["rnn", "gru", "lstm"].index(row["cell"]), row["mode"], row["row"]))
    for (number, elman, torch, best), row in zip(shown, rows, strict=True):
        assert int(number) == row["row"]
        assert float(elman) == pytest.approx(row["seconds"]["elman"]["median"] * 1e6, rel=0.01)
        assert float(torch) == pytest.approx(row["over_elman"]["torch"], abs=0.006)
        assert float(best) == pytest.approx(row["over_elman"][row["best_other"]], abs=0.006)
    means = re.findall(r"\*\*geometric mean\*\* .*?\*\*([\d.]+)\*\* \| \*\*([\d.]+)\*\*", read("docs/benchmark.md"))
    expected = [by_mode[mode] for by_mode in facts["geometric_means"].values() for mode in ("infer", "train")]
    assert means == [(f"{mean['torch']:.2f}", f"{mean['best']:.2f}") for mean in expected]


@pytest.mark.parametrize("name", ["bench-light.svg", "bench-dark.svg", "bench-light.zh-CN.svg", "bench-dark.zh-CN.svg"])
def test_the_chart_shows_what_was_measured(name: str) -> None:
    shown = re.findall(r">([\d.]+)×</text>", read(f"docs/assets/{name}"))
    by_mode = [means[mode] for mode in ("infer", "train") for means in measured()["geometric_means"].values()]
    assert shown == [f"{value:.1f}" for means in by_mode for value in (1.0, *(means[name] for name in means if name != "best"))]


def test_the_speed_that_the_first_lines_promise_was_measured() -> None:
    """2 to 10 times as fast as torch.nn, in the geometric mean: 2 for the LSTM, 10 for the GRU; LSTM's rows are from 1.2 to 7."""
    ratios = [means["torch"] for by_mode in measured()["geometric_means"].values() for means in by_mode.values()]
    assert 1.8 <= min(ratios) <= 2.5
    assert 9.5 <= max(ratios) <= 11
    lstm = [row["seconds"] for row in measured()["rows"] if row["cell"] == "lstm"]
    rounds = [zip(seconds["torch"]["rounds"], seconds["elman"]["rounds"], strict=True) for seconds in lstm]
    rows = [median(torch / elman for torch, elman in pairs) for pairs in rounds]
    assert (round(min(rows), 1), round(max(rows))) == (1.2, 7)
    english, chinese = "2 to 10 times faster than `torch.nn` (LSTM: 1.2 to 7 times).", "2～10 倍（LSTM 为 1.2～7 倍），"
    for page, words in (("README", english), ("docs/index", english)):
        assert words in " ".join(read(f"{page}.md").split())
        assert chinese in read(f"{page}.zh-CN.md")


# --- Both languages ---------------------------------------------------------------------------------------------------


def in_english(row: str) -> str:
    """A row of a benchmark's table in any language."""
    for words in ("geometric mean", "vs torch", "vs best", "of peak"):
        row = row.replace(SENTENCES[words], words)
    return row


def parts(text: str) -> dict[str, object]:
    """What a page has in any language."""
    own = prose(text)
    return {
        "headings": [len(hashes) for hashes in re.findall(r"^(#+) ", own, re.MULTILINE)],
        "code": [(language, without_words(code) if language == "sh" else code) for language, code in blocks(text) if language != "text"],
        "commands": [words for words in commands(text) if "--lang" not in words],
        "links": sorted(link.replace(".zh-CN.", ".") for link in re.findall(r"\]\(([^)]+)\)", own)),
        "pictures": sorted(name.replace(".zh-CN.", ".") for name in re.findall(r'(?:src|srcset)="([^"]+)"', own)),
        "list items": len(re.findall(r"^- ", own, re.MULTILINE)),
        "table rows": len(re.findall(r"^\|", own, re.MULTILINE)),
        "measured": [
            in_english(row)
            for part in re.findall("<!-- bench -->(.*)<!-- /bench -->", own, re.DOTALL)
            for row in re.findall(r"^\|.*$", part, re.MULTILINE)
        ],
    }


@pytest.mark.parametrize("pages", TRANSLATED, ids=lambda pages: pages["en"])
def test_both_languages_say_the_same(pages: dict[str, str]) -> None:
    assert parts(read(pages["en"])) == parts(read(pages["zh"]))


def test_these_pages_are_there_in_chinese() -> None:
    assert {Path(pages["en"]).stem for pages in TRANSLATED} == IN_CHINESE | {"README"}


@pytest.mark.parametrize("old", ["\n## ", "print(", "make demo", "`elman config`", "](docs/training.md", "\n- ", "docs/assets/bench-dark"])
def test_a_part_that_only_one_language_has_is_seen(old: str) -> None:
    text = readme("en")
    assert old in text
    assert parts(text.replace(old, " ", 1)) != parts(text)
