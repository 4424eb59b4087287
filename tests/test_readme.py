"""The READMEs and the page on sequences: what they show runs and prints what they say, and both languages say the same."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from elman.backends import kernels
from elman.cli.app import app

ROOT = Path(__file__).parents[1]
READMES = {"en": "README.md", "zh": "README.zh-CN.md"}
SEQUENCES = {"en": "docs/sequences.md", "zh": "docs/sequences.zh-CN.md"}
PAGES = [*READMES.values(), "CONTRIBUTING.md", "CHANGELOG.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")))]

in_both = pytest.mark.parametrize("lang", READMES)


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def readme(lang: str) -> str:
    return read(READMES[lang])


def blocks(text: str) -> list[tuple[str, str]]:
    """The fenced blocks: language and content."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    return re.sub(r"^```\w+\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """What a reader may type, word by word: lines of ``sh`` blocks, and calls of elman and make in the prose."""
    lines = [line for language, content in blocks(text) if language == "sh" for line in content.splitlines()]
    lines += re.findall(r"`((?:elman|make) [^`]+)`", prose(text))
    return [words for line in lines if (words := shlex.split(line, comments=True))]


# --- What they show ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # which the page says to expect
@pytest.mark.parametrize("page", [*READMES.values(), *SEQUENCES.values()])
def test_the_code_runs_and_prints_what_its_comments_say(page: str) -> None:
    names: dict[str, object] = {}
    for language, code in blocks(read(page)):
        if language != "python":
            continue
        said = re.findall(r"^\s*print\(.*\)  # (.*)$", code, re.MULTILINE)
        assert code.count("print(") == len(said) > 0
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(code, names)
        printed = out.getvalue().splitlines()
        if "elman.why(" in code:
            if not kernels.available():
                pytest.skip("the kernels are not built here, which why() says too")
            said, printed = ([line.replace(isa, "...") for line in lines] for lines, isa in ((said, "avx512"), (printed, kernels.isa())))
        assert printed == said


@in_both
def test_the_tour_prints_what_they_show_of_it(lang: str) -> None:
    (shown,) = (content for language, content in blocks(readme(lang)) if language == "text")
    assert missing(shown, ["tour", "--lang", lang]) is None


@in_both
def test_the_commands_print_what_the_page_on_sequences_shows_of_them(lang: str) -> None:
    both = list(pairwise(blocks(read(SEQUENCES[lang]))))
    printed = [(command, shown) for (first, command), (second, shown) in both if (first, second) == ("sh", "text")]
    assert len(printed) >= 3
    for command, shown in printed:
        elman, *words = shlex.split(command)
        assert elman == "elman"
        assert missing(shown, [*words, "--lang", lang]) is None


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
    if words[0] == "make":
        known = re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE)
        return None if words[1] in known else f"make has no {words[1]}"
    if words[0] == "elman":
        result = CliRunner().invoke(app, [*words[1:], "--help"])
        return None if result.exit_code == 0 else result.stderr
    return None if words == ["pip", "install", "."] else f"unknown: {words}"


@in_both
def test_every_command_can_be_typed(lang: str) -> None:
    found = commands(readme(lang) + read(SEQUENCES[lang]))
    assert len(found) > 12
    assert [wrong for words in found if (wrong := mistake(words))] == []


def test_wrong_commands_are_seen() -> None:
    for line in ("make tea", "elman teach", "elman tour --speed", "elman explain rnn --hidden 3", "A=1 elman nothing", "rm -r ."):
        assert mistake(shlex.split(line)) is not None


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", read(page))
    assert [target for target in targets if "://" not in target and not (ROOT / page).parent.joinpath(target).exists()] == []


def test_every_page_of_the_documentation_is_named() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in readme("zh" if ".zh-CN." in page.name else "en")


# --- Both languages ---------------------------------------------------------------------------------------------------


def parts(text: str) -> dict[str, object]:
    """What a page has in any language."""
    own = prose(text)
    return {
        "headings": [len(marks) for marks in re.findall(r"^(#+) ", own, re.MULTILINE)],
        "code": [block for block in blocks(text) if block[0] != "text"],
        "commands": [words for words in commands(text) if "--lang" not in words],
        "links": sorted(link.replace(".zh-CN.", ".") for link in re.findall(r"\]\(([^)]+)\)", own)),
        "list items": len(re.findall(r"^- ", own, re.MULTILINE)),
        "table rows": len(re.findall(r"^\|", own, re.MULTILINE)),
        "measured": [
            row
            for part in re.findall("<!-- bench -->(.*)<!-- /bench -->", own, re.DOTALL)
            for row in re.findall(r"^\|.*$", part, re.MULTILINE)
        ],
    }


@pytest.mark.parametrize("pages", [READMES, SEQUENCES], ids=lambda pages: pages["en"])
def test_both_languages_say_the_same(pages: dict[str, str]) -> None:
    assert parts(read(pages["en"])) == parts(read(pages["zh"]))


@pytest.mark.parametrize("old", ["\n## ", "print(", "make demo", "`elman config`", "](docs/training.md", "\n- "])
def test_a_part_that_only_one_language_has_is_seen(old: str) -> None:
    text = readme("en")
    assert old in text
    assert parts(text.replace(old, " ", 1)) != parts(text)
