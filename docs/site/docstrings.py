"""Docstrings as Markdown: examples become fenced blocks, and what reStructuredText marks up becomes code."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_EXAMPLE = re.compile(r"^>>> .*\n(?:.+\n?)*", re.MULTILINE)
_ROLE = re.compile(r":\w+:`~?(?:[\w.]+\.)?([\w]+)`")


class Docstrings(Extension):
    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)


def to_markdown(docstring: str) -> str:
    docstring = _EXAMPLE.sub(lambda example: f"```pycon\n{example[0].rstrip()}\n```\n", docstring)
    docstring = re.sub(r"::$", ":", docstring, flags=re.MULTILINE)
    return _ROLE.sub(r"`\1`", docstring)
