"""The documentation site: it builds without a warning, every link leads somewhere, and a page loads nothing from elsewhere."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest

import elman

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).parents[1]
LOADING = {"script", "img", "link", "source", "iframe", "video", "audio", "embed"}  # tags whose address a browser fetches by itself
NOT_PAGES = {"canonical", "alternate", "prev", "next"}  # links between pages, which it does not


class Page(HTMLParser):
    """Where a page leads, what can be led to in it, and what it loads."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.leads_to: list[str] = []
        self.ids: set[str] = set()
        self.loads: list[str] = re.findall(r"url\(['\"]?([^)'\"]+)", html)
        self.lang = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        has = {name: value or "" for name, value in attributes}
        self.ids |= {has[name] for name in ("id", "name") if name in has}
        self.lang = has.get("lang", self.lang) if tag == "html" else self.lang
        if tag == "a" and "href" in has:
            self.leads_to.append(has["href"])
        elif tag in LOADING and has.get("rel") not in NOT_PAGES:
            self.loads += [address for name in ("src", "href", "srcset") for address in has.get(name, "").split(", ") if address]


def read(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}


def dead_links(pages: dict[Path, Page]) -> list[str]:
    dead = []
    for path, page in pages.items():
        for link in page.leads_to:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.is_file() or (anchor and target in pages and anchor not in pages[target].ids | {"__skip"}):
                dead.append(f"{path.name}: {link}")
    return dead


def loaded_from_elsewhere(pages: dict[Path, Page]) -> list[str]:
    """What a page fetches from another place, or from a file that is not there."""
    wrong = []
    for path, page in pages.items():
        for address in page.loads:
            parts = urlsplit(address)
            if parts.scheme == "data":
                continue
            if parts.scheme or parts.netloc or not (path.parent / unquote(parts.path)).is_file():
                wrong.append(f"{path.name}: {address}")
    return wrong


def undocumented(api: str) -> list[str]:
    """The constructors and calls of layers and cells, inherited or not, that the API page shows without their docstring."""
    missing = []
    for layer in (elman.RNN, elman.GRU, elman.LSTM, elman.RNNCell, elman.GRUCell, elman.LSTMCell):
        name = f"elman.{layer.__name__}"
        _, constructor, call = re.split(rf'id="{name}(?:\.forward)?"', api, maxsplit=2)
        for method, shown in ((layer.__init__, constructor), (layer.forward, call.split('id="elman.')[0])):
            summary = (inspect.getdoc(method) or "").splitlines()[0]
            if not summary or summary not in shown:
                missing.append(f"{name}.{method.__name__}")
    return missing


def in_style_sheets(files: Iterable[Path]) -> list[str]:
    return [f"{file.name}: {url}" for file in files for url in re.findall(r"url\(['\"]?(https?:[^)'\"]+)|@import", file.read_text("utf-8"))]


@pytest.mark.slow
def test_the_site_is_whole(tmp_path: Path) -> None:
    """One test, since building takes a while: strictly, and then what a reader meets."""
    pytest.importorskip("mkdocs", reason="the site is built by the extra docs; `make test` installs it")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    pages = read((tmp_path / "site").resolve())
    assert dead_links(pages) == []
    assert loaded_from_elsewhere(pages) == []
    assert in_style_sheets(tmp_path.rglob("*.css")) == []
    by_language = defaultdict(set)
    for path, page in pages.items():
        by_language[page.lang].add(path.name)
    assert by_language["en"] == by_language["zh"]
    for name in ("index.html", "tour.html", "api.html", "contributing.html", "changelog.html"):
        assert name in by_language["en"]
    api = pages[(tmp_path / "site" / "api.html").resolve()]
    assert api.ids >= {f"elman.{name}" for name in elman.__all__ if name != "__version__"}
    assert undocumented((tmp_path / "site" / "api.html").read_text(encoding="utf-8")) == []


def test_every_page_is_in_the_navigation() -> None:
    shown = re.findall(r"^ +- [\w ]+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    pages = {path.name for path in (ROOT / "docs").glob("*.md") if ".zh-CN." not in path.name}
    assert set(shown) == pages | {"tour.md", "invent.md", "contributing.md", "changelog.md"}
    assert len(shown) == len(set(shown))


def test_the_reference_has_every_public_name() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^::: elman\.(\w+)$", text, re.MULTILINE)) == set(elman.__all__) - {"__version__"}


@pytest.mark.parametrize("page", ["character-model.md", "character-model.zh-CN.md"])
def test_the_page_on_training_lists_each_of_its_files_once(page: str) -> None:
    rows = re.findall(r"^\| `train/.*?\|", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.MULTILINE)
    files = {path.name for path in (ROOT / "src/elman/train").glob("*.py")} - {"__init__.py"}
    assert sorted(re.findall(r"`train/(\w+\.py)`", "".join(rows))) == sorted(files)


def test_a_docstring_that_is_not_shown_is_seen() -> None:
    names = ("RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell")
    page = "".join(f'<h2 id="elman.{name}"></h2><h3 id="elman.{name}.forward"></h3>' for name in names)
    assert undocumented(page) == [f"elman.{name}.{method}" for name in names for method in ("__init__", "forward")]


def test_what_is_wrong_with_a_page_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<a href="b.html#there">1</a><a href="#gone">2</a><a href="c.html">3</a><a href="https://x.org">4</a>')
    (tmp_path / "b.html").write_text(
        '<h2 id="there"></h2><img src="https://x.org/a.png"><script src="no.js"></script><p style="background: url(//x.org/b)">'
    )
    pages = read(tmp_path.resolve())
    assert dead_links(pages) == ["a.html: #gone", "a.html: c.html"]
    assert loaded_from_elsewhere(pages) == ["b.html: //x.org/b", "b.html: https://x.org/a.png", "b.html: no.js"]
