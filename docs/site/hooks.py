"""Gathers what the site shows into a folder beside it, which mkdocs reads.

The pages of docs/, what others of the checkout belong to them, the notebooks as Markdown, and the source files that pages link to.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from posixpath import normpath
from typing import TYPE_CHECKING

from latex2mathml.converter import convert
from mkdocs.plugins import event_priority
from nbconvert import MarkdownExporter

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "README.md": "index.md",
    "README.zh-CN.md": "index.zh-CN.md",
    "examples/tour.ipynb": "tour.md",
    "examples/tour.zh-CN.ipynb": "tour.zh-CN.md",
    "examples/invent.ipynb": "invent.md",
    "examples/invent.zh-CN.ipynb": "invent.zh-CN.md",
}
"""What lies outside docs/, and the page that it becomes. The READMEs are no pages: a link to one leads to the first page."""

LANGUAGES = {".py": "python", ".h": "cpp", ".cpp": "cpp"}
SWITCH = re.compile(r"^(English|\[English\]\(\S+\)) · (中文|\[中文\]\(\S+\))\n\n", re.MULTILINE)
"""The line under a title that leads to the other language: the site has a menu for it."""

PICTURE = re.compile(r'<picture>\s*<source [^>]*srcset="(\S+)">\s*<img alt="([^"]+)" src="(\S+)"[^>]*>\s*</picture>')
"""A picture for dark and one for light pages: the site has a switch of its own between the two."""

FORMULA = re.compile(r"^\$\$(.+?)\$\$$", re.MULTILINE)

LINK = re.compile(r"\]\((?![a-z]+://|#)([^)#\s]+)(#[^)\s]*)?\)")
ONLY_ENGLISH = "!!! note\n    本页只有英文。\n\n"


@event_priority(100)  # before the plugins look at the pages
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    pages = Path(config.site_dir).with_name("pages")
    if Path(config.docs_dir) != pages:  # not yet: the plugin i18n comes here once for each language
        gather(pages)
        config.docs_dir = str(pages)
    return config


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Says at the top of a Chinese page that stands there in English that it is so."""
    fallback = page.file.locale != page.file.locale_alternate_of  # set by the plugin i18n
    return ONLY_ENGLISH + markdown if fallback else markdown


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lets the keyboard scroll code, and makes an empty cell of a table's head no heading."""
    html = re.sub(r"<pre(?=[ >])", '<pre tabindex="0"', html)
    return re.sub(r"<th([^>]*)></th>", r"<td\1></td>", html)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Names the search for those who hear the page."""
    name = {"en": "Search", "zh": "搜索"}[config.theme["language"]]
    return output.replace('data-md-component="search" role="dialog"', f'data-md-component="search" role="dialog" aria-label="{name}"')


def gather(pages: Path) -> None:
    """Make the folder anew."""
    shutil.rmtree(pages, ignore_errors=True)
    pages.mkdir(parents=True)
    shutil.copytree(ROOT / "docs" / "assets", pages / "assets")
    (pages / "site").mkdir()
    for name in ("style.css", "tables.js"):
        shutil.copy(ROOT / "docs" / "site" / name, pages / "site")
    for path in sorted((ROOT / "docs").glob("*.md")):
        _put(pages / path.name, path.read_text(encoding="utf-8"), "docs")
    for source, page in PAGES.items():
        path = ROOT / source
        if path.suffix == ".ipynb":
            markdown = MarkdownExporter().from_filename(str(path))[0]
            _put(pages / page, FORMULA.sub(_formula, markdown), "examples")
        elif not source.startswith("README"):
            _put(pages / page, path.read_text(encoding="utf-8"), "")


def _put(page: Path, markdown: str, folder: str) -> None:
    """Write a page, its links leading to pages of the site; those to source files, to pages that show the files."""

    def lead(link: re.Match[str]) -> str:
        target = normpath(f"{folder}/{link[1]}".lstrip("/"))
        if target in PAGES:
            target = PAGES[target]
        elif target.startswith("docs/"):
            target = target.removeprefix("docs/")
        elif (ROOT / target).is_file():
            target = _show_source(target, page.parent)
        return f"]({target}{link[2] or ''})"

    markdown = PICTURE.sub(r"![\2](\3#only-light)\n![\2](\1#only-dark)", SWITCH.sub("", markdown))
    page.write_text(LINK.sub(lead, markdown), encoding="utf-8")


def _formula(formula: re.Match[str]) -> str:
    return f'<div class="formula" tabindex="0">{convert(formula[1], display="block")}</div>'


def _show_source(file: str, pages: Path) -> str:
    """The page that shows a source file."""
    page = f"source/{re.sub('[/.]', '-', file)}.md"  # a dot would begin a language
    path = pages / page
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        language = LANGUAGES.get(Path(file).suffix, "text")
        code = (ROOT / file).read_text(encoding="utf-8")
        path.write_text(f"---\nsearch:\n  exclude: true\n---\n\n# {file}\n\n````{language}\n{code}````\n", encoding="utf-8")
    return page
