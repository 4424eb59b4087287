"""Docstrings as Markdown: examples become fenced blocks, and what reStructuredText marks up becomes code.

A method without a docstring has that of the class above, as for ``help``. Of "a, b: text" both a and b have the text.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from griffe import Docstring, Extension, Function, Inspector, Object, ObjectNode

_EXAMPLE = re.compile(r"^>>> .*\n(?:.+\n?)*", re.MULTILINE)
_TWO_NAMES = re.compile(r"^( +)(\w+), (\w+): ((?:.*\n?)(?:\1 +.*\n?)*)", re.MULTILINE)
_ROLE = re.compile(r":\w+:`~?(?:[\w.]+\.)?([\w]+)`")


class Docstrings(Extension):
    def on_function_instance(self, *, node: object, func: Function, agent: Inspector, **_: Any) -> None:
        if func.docstring is not None or not isinstance(node, ObjectNode):
            return
        inherited = inspect.getdoc(node.obj)
        if inherited and inherited != inspect.getdoc(getattr(object, func.name, None)):
            func.docstring = Docstring(inherited, parent=func, parser=agent.docstring_parser, parser_options=agent.docstring_options)

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)


def to_markdown(docstring: str) -> str:
    docstring = _EXAMPLE.sub(lambda example: f"```pycon\n{example[0].rstrip()}\n```\n", docstring)
    docstring = _TWO_NAMES.sub(lambda found: f"{found[1]}{found[2]}: {found[4].rstrip()}\n{found[1]}{found[3]}: {found[4]}", docstring)
    docstring = re.sub(r"::$", ":", docstring, flags=re.MULTILINE)
    return _ROLE.sub(r"`\1`", docstring)
