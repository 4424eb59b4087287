"""The picture: how a model learned, what it writes, and what it does over a line of text. Needs matplotlib (the extra ``plot``).

Its labels are in the reader's language where matplotlib finds a font for it, else in English.
"""

from __future__ import annotations

from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, fontManager, get_font
from rich.cells import cell_len

from elman._files import write
from elman.language import _, current, speaking
from elman.train.sample import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from matplotlib.axes import Axes

    from elman.train.text import Outcome
    from elman.train.units import Line, Unit

SIZE, DPI = (14.0, 10.0), 130
"""Inches (width, height), and dots per inch."""

_INK, _FAINT, _GRID = "#1f2430", "#6b7385", "#e7e9ee"
_ELMAN, _READ = "#b8390e", "#f0b797"
_COMPRESSORS = {"gzip": "#64748b", "xz": "#0f766e"}
_ACTIVITY = LinearSegmentedColormap.from_list("activity", ["#1d4e89", "#8fb4d9", "#f7f7f5", "#f2a97e", "#b8390e"])
_MONOSPACE = "DejaVu Sans Mono"  # it comes with matplotlib
# Fonts with Chinese characters, as Linux, macOS and Windows have them.
CHINESE_FONTS = (
    "Noto Sans CJK SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "SimHei",
)
_SAMPLE_LINES, _SAMPLE_COLUMNS, _LONGEST_NAME = 18, 66, 70


def draw(outcome: Outcome, path: Path) -> None:
    """Draw the picture of an outcome into a PNG file, SIZE inches at DPI.

    It shows the learning curve on held-out text beside what compressors reach there, a sample of what the model writes, and for a held-out
    line what each character cost and what the units that :func:`~elman.train.units.read_line` chose did meanwhile.
    """
    with _lettering():
        write(path, _png(outcome))


def chinese_font() -> str | None:
    """A font that is installed here and has Chinese characters."""
    installed = {font.name for font in fontManager.ttflist}
    return next((name for name in CHINESE_FONTS if name in installed), None)


@contextmanager
def _lettering() -> Iterator[None]:
    """Fonts that have the current language's characters; without one for Chinese, English is drawn instead of empty boxes."""
    font = chinese_font() if current() == "zh" else None
    with rc_context({"font.family": ["DejaVu Sans", *([font] if font else [])]}), speaking(current() if font else "en"):
        yield


def _png(outcome: Outcome) -> bytes:
    figure = Figure(figsize=SIZE, dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    sizes, corpus, last = outcome.model.sizes, outcome.corpus, outcome.last
    name = corpus.name
    short = _drawable(name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "...")
    cell = outcome.settings.cell
    title = _("An Elman network reads {name}", name=short)
    if cell is not None:
        title = _("A network of {cell} cells reads {name}", cell=type(cell).__name__, name=short)
    characters = f"{len(corpus.held_out_text):,}"
    if corpus.is_one_file:
        held_out = _("evaluated on the file's last {characters} characters", characters=characters)
    elif len(corpus.held_out) == 1:
        held_out = _("evaluated on one held-out file, {characters} characters", characters=characters)
    else:
        held_out = _("evaluated on {files} held-out files, {characters} characters", files=len(corpus.held_out), characters=characters)
    read = "{layers} × {units} units, {characters} characters read in {seconds} s; {held_out}"
    if cell is None:
        read = "{layers} × {units} tanh units, {characters} characters read in {seconds} s; {held_out}"
    subtitle = _(
        read,
        layers=sizes["num_layers"],
        units=sizes["hidden_size"],
        characters=f"{last.characters:,}",
        seconds=f"{last.seconds:.0f}",
        held_out=held_out,
    )
    figure.text(0.03, 0.95, title, size=20, weight="bold", color=_INK, parse_math=False)
    figure.text(0.03, 0.922, subtitle, size=12, color=_FAINT)
    _draw_curve(figure.add_axes((0.06, 0.525, 0.37, 0.32)), outcome)
    _draw_sample(figure.add_axes((0.53, 0.525, 0.44, 0.32)), outcome.written)
    _draw_cost(figure.add_axes((0.24, 0.33, 0.73, 0.09)), outcome.line)
    _draw_units(figure.add_axes((0.24, 0.05, 0.73, 0.235)), outcome.line)
    png = BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def _draw_curve(axes: Axes, outcome: Outcome) -> None:
    _head(axes, _("Learning curve"), _("bits per character, lower is better"))
    million = outcome.last.characters >= 1e6
    scale = 1e6 if million else 1e3
    read = [point.characters / scale for point in outcome.curve]
    final = outcome.last.characters / scale
    axes.plot(read, [point.train_bits for point in outcome.curve], color=_READ, lw=1.6)
    axes.plot(read, [point.held_out_bits for point in outcome.curve], color=_ELMAN, lw=2.4)
    axes.plot(final, outcome.bits, "o", color=_ELMAN, ms=8, clip_on=False, zorder=5)
    for name, bits in outcome.compressed.items():
        axes.axhline(bits, color=_COMPRESSORS[name], lw=1.4, ls=(0, (5, 3)))
    axes.set(xlim=(0, final), ylim=_limits(outcome))
    _label_ends(axes, {"Elman": outcome.bits, **outcome.compressed})
    axes.set_xlabel(_("millions of characters read") if million else _("thousands of characters read"), color=_FAINT, size=11)
    axes.grid(axis="y", color=_GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.annotate(_("training text"), (0.30, 0.93), xycoords="axes fraction", color="#c98460", size=10.5)
    axes.annotate(_("held-out text"), (0.30, 0.86), xycoords="axes fraction", color=_ELMAN, size=10.5)
    for height, color in ((0.945, _READ), (0.875, _ELMAN)):
        axes.plot((0.23, 0.28), (height, height), color=color, lw=2.4, transform=axes.transAxes)


def _limits(outcome: Outcome) -> tuple[float, float]:
    """The ends of the axis of bits: everything drawn lies inside, and the legend has the top for itself."""
    drawn = [bits for point in outcome.curve for bits in (point.train_bits, point.held_out_bits)]
    drawn += [outcome.bits, *outcome.compressed.values()]
    least, most = min(drawn), max(drawn)
    height = max(most - least, 0.5)
    return max(0.0, least - 0.08 * height), most + 0.25 * height


def _label_ends(axes: Axes, levels: dict[str, float]) -> None:
    """Write each level's name and value at the right end, shifted apart where they would overlap."""
    bottom, top = axes.get_ylim()
    gap, before = 0.062 * (top - bottom), float("-inf")
    for name, bits in sorted(levels.items(), key=lambda level: level[1]):
        height = max(bits, before + gap)
        color, weight = (_COMPRESSORS[name], "normal") if name in _COMPRESSORS else (_ELMAN, "bold")
        axes.annotate(
            f"{bits:.2f}  {name}",
            xy=(1, bits),
            xytext=(1.03, (height - bottom) / (top - bottom)),
            xycoords=axes.get_yaxis_transform(),
            textcoords="axes fraction",
            color=color,
            weight=weight,
            size=11.5,
            va="center",
            annotation_clip=False,
        )
        before = height


def _draw_sample(axes: Axes, written: bytes) -> None:
    _head(axes, _("What it writes"), _("sample text"))
    axes.set(xticks=[], yticks=[], facecolor="#f8f8f6")
    lines = []
    for line in _drawable(printable(written)).strip("\n").split("\n"):
        lines.extend([line[i : i + _SAMPLE_COLUMNS] for i in range(0, max(len(line), 1), _SAMPLE_COLUMNS)])
    axes.text(
        0.02,
        0.965,
        "\n".join(lines[:_SAMPLE_LINES]),
        transform=axes.transAxes,
        family=_MONOSPACE,
        size=9.2,
        linespacing=1.32,
        va="top",
        color=_INK,
        parse_math=False,
    )


def _draw_cost(axes: Axes, line: Line) -> None:
    _head(
        axes,
        _("Bits for each character of a held-out line"),
        _("{total} in total, {mean} on average", total=f"{sum(line.bits):.0f}", mean=f"{_mean(line.bits):.2f}"),
    )
    axes.bar(range(len(line.bits)), line.bits, width=0.82, color=[_ELMAN if bits > 4 else _READ for bits in line.bits])
    axes.set(xlim=(-0.5, len(line.bits) - 0.5), xticks=[], ylim=(0, max(8.0, *line.bits)))
    axes.set_yticks([0, 4, 8])
    axes.grid(axis="y", color=_GRID, lw=0.8)
    axes.set_axisbelow(True)


def _draw_units(axes: Axes, line: Line) -> None:
    note = _(
        "hidden units after each character, from -1 (blue) to +1 (red); r: correlation with the feature over {count} held-out characters",
        count=f"{line.studied:,}",
    )
    _text_above(axes, line)
    axes.text(0, -0.04, note, transform=axes.transAxes, size=10.5, color=_FAINT, va="top")
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks([])
    axes.imshow([unit.values for unit in line.units], cmap=_ACTIVITY, vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(line.units)), [_label(unit) for unit in line.units], size=10, color=_INK)
    axes.set_yticks([row + 0.5 for row in range(len(line.units) - 1)], minor=True)
    axes.grid(which="minor", axis="y", color="white", lw=3)
    axes.tick_params(which="minor", length=0)


def _label(unit: Unit) -> str:
    name = _("unit {unit}", unit=unit.index)
    return name if unit.follows is None else f"{_(unit.follows)}, r = {unit.correlation:+.2f}   {name}"


def _text_above(axes: Axes, line: Line) -> None:
    axes.set_xlim(-0.5, len(line.text) - 0.5)
    size = min(13.0, 1080 / max(len(line.text), 1))
    for position, character in enumerate(line.text):
        axes.text(
            position,
            1.035,
            character,
            transform=axes.get_xaxis_transform(),
            family=_MONOSPACE,
            size=size,
            ha="center",
            va="bottom",
            color=_INK,
            parse_math=False,
        )


def _head(axes: Axes, title: str, note: str) -> None:
    """A panel's title and a note beside it, and the look that all panels share."""
    axes.annotate(title, (0, 1), (0, 12), xycoords="axes fraction", textcoords="offset points", size=14, weight="bold", color=_INK)
    axes.annotate(
        note, (0, 1), (9.6 * cell_len(title) + 10, 12), xycoords="axes fraction", textcoords="offset points", size=11, color=_FAINT
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#b9bfca")
    axes.tick_params(colors=_FAINT, labelsize=10.5)


def _drawable(text: str) -> str:
    """The text, with a mark for every character that the font cannot draw."""
    font = get_font(findfont(_MONOSPACE))
    return "".join(character if character == "\n" or font.get_char_index(ord(character)) else "·" for character in text)


def _mean(values: list[float]) -> float:
    return sum(values) / max(len(values), 1)
