"""What is said about a training in a terminal, in English and Chinese."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from elman.train.sample import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from elman.train.corpus import Corpus
    from elman.train.text import Outcome, TextSettings

_SENTENCES = {
    "title": {"en": "A character model learns {name}", "zh": "字符模型学习：{name}"},
    "corpus": {
        "en": "{train} files to learn from, {train_characters} characters; {held_out} held out, {held_out_characters} characters",
        "zh": "训练文件 {train} 个，共 {train_characters} 个字符；留出文件 {held_out} 个，共 {held_out_characters} 个字符",
    },
    "stop": {"en": "Ctrl-C stops early and keeps what has been learnt.", "zh": "按 Ctrl-C 可提前结束，已学到的内容会保留。"},
    "left_out": {"en": "Left out:", "zh": "未读取："},
    "more": {"en": "{names} and {more} more", "zh": "{names} 等 {count} 个"},
    "hidden": {"en": "hidden", "zh": "隐藏"},
    "made": {"en": "environments and caches", "zh": "虚拟环境和缓存"},
    "link": {"en": "links to folders", "zh": "指向文件夹的链接"},
    "training": {"en": "written by an earlier training", "zh": "以前训练的输出"},
    "out": {"en": "this training's --out", "zh": "本次训练的 --out"},
    "not_text": {"en": "not UTF-8 text", "zh": "不是 UTF-8 文本"},
    "unreadable": {"en": "cannot be read", "zh": "无法读取"},
    "clamped": {
        "en": "The text is short: --streams {streams} --chunk {chunk} are used.",
        "zh": "文本较短：实际使用 --streams {streams} --chunk {chunk}。",
    },
    "diverged": {
        "en": "the training diverged at step {step} ({bits:.3g} bits per character; knowing nothing costs 8): try --lr {rate:g}, it was "
        "{before:g}; {kept}",
        "zh": "训练在第 {step} 步发散（每字符 {bits:.3g} 比特，毫无所知时为 8）：请把 --lr 从 {before:g} 降到 {rate:g}；{kept}",
    },
    "kept": {"en": "the weights are in {path}", "zh": "权重已存入 {path}"},
    "kept_of": {"en": "the weights of step {step} are in {path}", "zh": "第 {step} 步的权重已存入 {path}"},
    "interrupted": {"en": "interrupted; {kept}", "zh": "已中断；{kept}"},
    "failed": {"en": "the training ended, but {what} failed: {error}; {kept}", "zh": "训练已结束，但{what}失败：{error}；{kept}"},
    "evaluation": {"en": "what follows it", "zh": "后续步骤"},
    "learning": {"en": "learning", "zh": "训练中"},
    "measuring": {"en": "measuring", "zh": "评估中"},
    "speed": {"en": "char/s", "zh": "字符/秒"},
    "left": {"en": "left", "zh": "剩余"},
    "bits": {"en": "bits/char", "zh": "比特/字符"},
    "held_out": {"en": "On the held-out files", "zh": "在留出文件上"},
    "size": {"en": "size", "zh": "压缩后大小"},
    "elman": {"en": "Elman network", "zh": "Elman 网络"},
    "compressor": {"en": "{name}, strongest", "zh": "{name}（最强）"},
    "fair": {
        "en": "gzip and xz see the held-out files alone, joined into one. The network has read {characters} characters of other files "
        "before, and its {weights} of weights are not counted.",
        "zh": "gzip 和 xz 只压缩留出文件（合并为一个）。网络事先读过其他文件的 {characters} 个字符，其 {weights} 权重未计入。",
    },
    "stopped": {"en": "Stopped early, at {percent} of the training.", "zh": "训练提前结束，完成了 {percent}。"},
    "trained": {
        "en": "{steps} steps, {characters} characters in {seconds:.0f} s: {speed} char/s. {backend}",
        "zh": "{steps} 步，{seconds:.0f} 秒读入 {characters} 个字符，每秒 {speed} 个字符。{backend}",
    },
    "writes": {"en": "What it writes", "zh": "它写出的文字"},
    "files": {"en": "Written", "zh": "已写入"},
    "picture": {"en": "learning curve, and hidden units over a line", "zh": "学习曲线，以及隐藏单元在一行文字上的活动"},
    "sample": {"en": "the sample", "zh": "样本"},
    "metrics": {"en": "all figures", "zh": "全部数据"},
    "model": {"en": "the weights", "zh": "权重"},
    "no_picture": {
        "en": "No picture: it needs matplotlib (pip install matplotlib).",
        "zh": "没有绘图：需要 matplotlib（pip install matplotlib）。",
    },
}


_NAMED = 3
"""So many files of those left out are named."""


class Report:
    """Says it in one language, "en" or "zh"."""

    def __init__(self, language: str) -> None:
        self._language = language

    def say(self, key: str, **fields: object) -> str:
        return _SENTENCES[key][self._language].format(**fields)

    def opening(self, corpus: Corpus, settings: TextSettings) -> RenderableType:
        """What is learnt, what was left out, and what of the settings the text is too short for."""
        counts = self.say(
            "corpus",
            train=len(corpus.train),
            train_characters=f"{len(corpus.train_text):,}",
            held_out=len(corpus.held_out),
            held_out_characters=f"{len(corpus.held_out_text):,}",
        )
        title = self.say("title", name=_name(corpus.name))
        left_out = [Text(self._left_out(corpus), "bright_black")] if corpus.left_out else []
        fit = settings.fit.within(len(corpus.train_text))
        clamped = [] if fit == settings.fit else [Text(self.say("clamped", streams=fit.streams, chunk=fit.chunk), "yellow")]
        stop = Text(self.say("stop"), "bright_black")
        return Group(Text(f"\n{title}", "bold"), Text(counts), *left_out, *clamped, stop, "")

    def _left_out(self, corpus: Corpus) -> str:
        """How much was passed over, and why; by name where there are few."""
        parts = []
        for reason, names in corpus.left_out.items():
            shown, more = ", ".join(map(_name, names[:_NAMED])), len(names) - _NAMED
            which = self.say("more", names=shown, more=f"{more:,}", count=f"{len(names):,}") if more > 0 else shown
            parts.append(f"{which} ({self.say(reason)})")
        return f"{self.say('left_out')} {'; '.join(parts)}"

    def progress_columns(self) -> list[ProgressColumn]:
        """The bar's columns: the task's fields are ``speed`` (characters per second) and ``bits``."""
        return [
            TextColumn("{task.description}"),
            BarColumn(None),
            TextColumn("{task.percentage:3.0f} %"),
            _Field("speed", f"{{:,.0f}} {self.say('speed')}", "cyan"),
            _Field("bits", f"{{:.2f}} {self.say('bits')}", "yellow"),
            TimeRemainingColumn(compact=True),
            TextColumn(self.say("left")),
        ]

    def closing(self, outcome: Outcome, files: Mapping[str, Path], failed: Collection[str] = ()) -> RenderableType:
        """What came of it: the files written, and whether the picture is missing for lack of matplotlib and not because it failed."""
        last = outcome.last
        metrics = outcome.metrics()
        trained = self.say(
            "trained",
            steps=f"{last.number:,}",
            characters=f"{last.characters:,}",
            seconds=last.seconds,
            speed=f"{last.characters / last.seconds:,.0f}",
            backend=metrics["training"]["backend"],
        )
        fair = self.say("fair", characters=f"{last.characters:,}", weights=_bytes(4 * metrics["model"]["parameters"]))
        stopped = [] if last.fraction >= 1 else [Text(self.say("stopped", percent=f"{last.fraction:.0%}"), "yellow")]
        return Group(
            "",
            *stopped,
            Text(trained),
            Text(f"\n{self.say('held_out')}", "bold"),
            Padding(self._scores(outcome), (0, 0, 0, 2)),
            Padding(Text(fair, "bright_black"), (0, 0, 1, 2)),
            Panel(
                Text(printable(outcome.written).strip("\n")),
                title=self.say("writes"),
                title_align="left",
                box=box.ROUNDED,
                border_style="bright_black",
            ),
            Text(f"\n{self.say('files')}", "bold"),
            Padding(self._files(files), (0, 0, 0, 2)),
            *([] if "picture" in files or "picture" in failed else [Text(self.say("no_picture"), "yellow")]),
        )

    def _scores(self, outcome: Outcome) -> Table:
        table = Table(box=None, header_style="bright_black", padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(self.say("bits"), justify="right", no_wrap=True)
        table.add_column(self.say("size"), justify="right", no_wrap=True)
        table.add_column(max_width=40)  # what a narrow terminal takes from
        characters = len(outcome.corpus.held_out_text)
        scores = {self.say("compressor", name=name): bits for name, bits in outcome.compressed.items()}
        scores[self.say("elman")] = outcome.bits
        longest = max(scores.values())
        for name, bits in sorted(scores.items(), key=lambda score: score[1]):
            ours = name == self.say("elman")
            bar = Bar(longest, 0, bits, color="green" if ours else "default")
            table.add_row(name, f"{bits:.3f}", _bytes(bits * characters / 8), bar, style="bold green" if ours else "")
        return table

    def _files(self, files: Mapping[str, Path]) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0))
        for kind, path in files.items():
            table.add_row(Text(str(path), "cyan"), Text(self.say(kind)))
        return table


class _Field(ProgressColumn):
    """One of the task's own fields, once it is known."""

    def __init__(self, field: str, form: str, style: str) -> None:
        super().__init__(Column(no_wrap=True))
        self._field, self._form, self._style = field, form, style

    def render(self, task: Task) -> Text:
        value = task.fields.get(self._field)
        return Text("" if value is None else self._form.format(value), self._style)


def _name(path: str) -> str:
    """A file's name, which may hold what could steer a terminal."""
    return printable(path.encode(errors="surrogateescape"))


def _bytes(size: float) -> str:
    return f"{size / 1000:,.0f} kB"
