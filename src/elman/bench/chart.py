"""Draws a benchmark as SVG: each library's time relative to Elman's. Needs matplotlib (the extra ``plot``)."""

from __future__ import annotations

import warnings
from io import StringIO
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from elman._files import write
from elman.language import LANGUAGES, _, speaking

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

THEMES = {
    "light": {"ink": "#1f2430", "faint": "#59616f", "elman": "#b8390e", "other": "#aab3c2"},
    "dark": {"ink": "#e8eaf0", "faint": "#a3abba", "elman": "#ff8a5c", "other": "#5d6778"},
}
"""The colours of a light and of a dark page; the background stays transparent."""

LIBRARIES = {"elman": "Elman", "torch": "torch.nn", "jax": "JAX", "ort": "ONNX Runtime"}
SUFFIXES = {"en": "", "zh": ".zh-CN"}  # of the files, by language
# The text stays text, which the reader's machine draws in the first of these that it has.
_FONTS = ["Helvetica Neue", "Arial", "Noto Sans", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "DejaVu Sans"]
_SIZE = (8.4, 3.9)  # inches


def draw(facts: dict[str, Any], folder: Path) -> list[Path]:
    """Draw the chart of ``facts``, what a :class:`~elman.bench.report.Report` tells programs, into ``folder``.

    Returns:
        The files written: ``bench-light.svg`` and ``bench-dark.svg``, and the same in Chinese, ``bench-light.zh-CN.svg``, …

    Raises:
        OSError: a file cannot be written.
    """
    paths = []
    for lang in LANGUAGES:
        for theme in THEMES:
            paths.append(folder / f"bench-{theme}{SUFFIXES[lang]}.svg")
            with speaking(lang):
                write(paths[-1], svg(facts, theme).encode())
    return paths


def svg(facts: dict[str, Any], theme: str) -> str:
    """The chart: a panel for each cell and mode with a bar for each library, its time over Elman's."""
    means: dict[str, dict[str, dict[str, float]]] = facts["geometric_means"]
    modes = list(dict.fromkeys(mode for by_mode in means.values() for mode in by_mode))
    style: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "elman", "font.sans-serif": _FONTS}
    colors, title = THEMES[theme], _("Time per call, relative to Elman")
    titles = {"infer": _("inference"), "train": _("training")}
    with mpl.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # no font here need have what the reader's has
        figure = Figure(figsize=_SIZE)
        FigureCanvasSVG(figure)
        figure.text(0.012, 0.93, title, size=13, weight="bold", color=colors["ink"])
        figure.text(0.988, 0.93, _("shorter is faster"), size=10.5, color=colors["faint"], ha="right")
        figure.text(0.012, 0.025, _footnote(facts), size=8.6, color=colors["faint"], linespacing=1.5)
        bars = [max(len(_ratios(by_mode.get(mode, {}))) for by_mode in means.values()) for mode in modes]
        grid = figure.add_gridspec(
            len(modes), len(means), height_ratios=bars, left=0.125, right=0.96, top=0.84, bottom=0.14, hspace=0.34, wspace=0.66
        )
        for row, mode in enumerate(modes):
            longest = max(ratio for by_mode in means.values() for ratio in _ratios(by_mode.get(mode, {})).values())
            for column, (cell, by_mode) in enumerate(means.items()):
                if mode not in by_mode:
                    continue  # the run was cut short
                axes = figure.add_subplot(grid[row, column])
                axes.set_title(f"{cell.upper()} {titles[mode]}", loc="left", size=10.5, weight="bold", color=colors["ink"], pad=4)
                _bars(axes, _ratios(by_mode[mode]), colors)
                axes.set(xlim=(0, longest), ylim=(bars[row] - 0.5, -0.5))
        out = StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Title": title})
    return out.getvalue()


def _ratios(means: dict[str, float]) -> dict[str, float]:
    """Each library's time over Elman's, Elman first."""
    return {"elman": 1.0} | {name: means[name] for name in LIBRARIES if name in means}


def _bars(axes: Axes, ratios: dict[str, float], colors: dict[str, str]) -> None:
    for place, (name, ratio) in enumerate(ratios.items()):
        ours = name == "elman"
        color, weight = (colors["elman"], "bold") if ours else (colors["other"], "normal")
        axes.barh(place, ratio, height=0.68, color=color)
        label: dict[str, Any] = {"size": 9.2, "va": "center", "weight": weight, "color": colors["elman"] if ours else colors["ink"]}
        axes.annotate(LIBRARIES[name], (0, place), (-5, 0), textcoords="offset points", ha="right", annotation_clip=False, **label)
        axes.annotate(f"{ratio:.1f}×", (ratio, place), (4, 0), textcoords="offset points", annotation_clip=False, **label)
    axes.axis("off")


def _footnote(facts: dict[str, Any]) -> str:
    sizes = [", ".join(str(row[key]) for key in ("steps", "batch", "input_size", "hidden_size")) for row in facts["rows"]]
    machine, versions = facts["machine"], facts["machine"]["versions"]
    return _(
        "Geometric mean over {count} sizes, T, B, I, H from {first} to {last}.\n{threads} threads, {cpu}, {isa}; {versions}.",
        count=len(set(sizes)),
        first=sizes[0],
        last=sizes[-1],
        threads=facts["threads"],
        cpu=machine["cpu"],
        isa=machine["isa"],
        versions=", ".join(f"{package} {versions[package]}" for package in ("torch", "jax", "onnxruntime") if package in versions),
    )
