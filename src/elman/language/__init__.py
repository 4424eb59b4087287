"""The languages that the command line speaks.

The code is written in English: ``_("{count} more", count=3)`` says what it prints. ``elman.language.zh`` has the Chinese for each sentence,
a dictionary from the English one. That is gettext's way without its catalogues: a ``.mo`` file would have to be compiled for every wheel
and every editable install, while a dictionary is read, checked and searched as the rest of the code is. What ``xgettext`` would collect,
``tests/test_language.py`` collects: a sentence without a translation fails there.

Errors, a backend's reasons and the help of options are made where nobody knows the reader's language. ``translated`` takes such a finished
line and finds the sentence that it was made from. The library itself speaks English only.
"""

from __future__ import annotations

import os
import re
import string
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LANGUAGES = ("en", "zh")

_current: ContextVar[str] = ContextVar("language", default="en")

# No sentence of ours is longer; what is, a library's own account, would take long to match.
LONGEST = 2000
# What joins the sentences of one line, in English and in Chinese.
_JOINTS = (("; ", "；"), (": ", "："))


@contextmanager
def speaking(language: str) -> Iterator[None]:
    """In here ``_`` and ``translated`` give this language.

    >>> with speaking("zh"):
    ...     _("layer {layer}", layer=1)
    '第 1 层'
    """
    before = _current.set(language)
    try:
        yield
    finally:
        _current.reset(before)


def current() -> str:
    """The language that is spoken."""
    return _current.get()


def _(sentence: str, **fields: object) -> str:
    """The sentence in the current language, its fields filled in as ``str.format`` does."""
    return _table(current()).get(sentence, sentence).format(**fields)


def translated(line: str) -> str:
    """A line that was made in English, in the current language; what no sentence is known for stays as it is, and so does a field ``code``.

    >>> with speaking("zh"):
    ...     translated("elman: unknown kind 'rrn'; did you mean 'rnn'?")
    "elman：未知的网络类型：'rrn'；是不是 'rnn'？"
    """
    table = _table(current())
    if not table or not line or len(line) > LONGEST:
        return line
    if (whole := table.get(line)) is not None:
        return whole
    for pattern, sentence in _patterns(current()):
        if match := pattern.fullmatch(line):
            return sentence.format(**{name: value if name == "code" else translated(value) for name, value in match.groupdict().items()})
    for english, chinese in _JOINTS:
        parts = _split(line, english)
        if len(parts) > 1 and (parts_translated := [translated(part) for part in parts]) != parts:
            return chinese.join(parts_translated)
    return line


def _split(line: str, joint: str) -> list[str]:
    """The parts between joints, but for those inside braces: in {'a': 'H'} there is none."""
    parts = [""]
    for piece in re.split(rf"(\{{[^{{}}]*\}}|{re.escape(joint)})", line):
        if piece == joint:
            parts.append("")
        else:
            parts[-1] += piece
    return parts


def language_of(environment: Mapping[str, str] = os.environ) -> str:
    """The reader's language by the locale: "zh" in a Chinese one, else "en".

    >>> language_of({"LANG": "zh_CN.UTF-8"}), language_of({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"})
    ('zh', 'en')
    """
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if environment.get(name):
            return "zh" if environment[name].lower().startswith("zh") else "en"
    return "en"


@lru_cache
def _table(language: str) -> Mapping[str, str]:
    if language == "en":
        return {}
    from elman.language.zh import SENTENCES

    return SENTENCES


@lru_cache
def _patterns(language: str) -> tuple[tuple[re.Pattern[str], str], ...]:
    """Of each sentence with fields what matches a line made from it, and its translation; the one that says most by itself first."""
    patterns = []
    for english, translation in _table(language).items():
        pieces = list(string.Formatter().parse(english))
        if any(name is not None for _literal, name, _form, _conversion in pieces):
            # The same sentence with a place is another one: nothing of the place, nor of what follows it.
            has_twin = f"{english} (at {{place}})" in _table(language)
            seen: set[str] = set()
            pattern = ""
            for literal, name, _form, _conversion in pieces:
                pattern += re.escape(literal)
                if name is not None:
                    what = r"(?:(?! \(at [^()]*\)).)*?" if has_twin else r"(?:(?!\): ).)*?" if name == "place" else ".*?"
                    pattern += f"(?P={name})" if name in seen else f"(?P<{name}>{what})"
                    seen.add(name)
            patterns.append((sum(len(piece[0]) for piece in pieces), re.compile(pattern, re.DOTALL), re.sub(r":[^{}]*}", "}", translation)))
    return tuple((pattern, translation) for _length, pattern, translation in sorted(patterns, key=lambda one: -one[0]))
