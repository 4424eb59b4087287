"""Every sentence that is shown, in both languages, in one place."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

LANGUAGES = ("en", "zh")

TEXT: dict[str, dict[str, str]] = {
    # Titles
    "tour.title": {"en": "A tour of three recurrent networks: {module}", "zh": "循环神经网络之旅：三个 {module} 网络"},
    "tour.intro": {
        "en": "Each network below ran on Elman just now, from seed {seed}. Type its lines after [bold]import elman, torch[/] "
        "and you get the very same numbers.",
        "zh": "下面的每个网络都是刚刚用 Elman 运行的，随机种子为 {seed}。"
        "先执行 [bold]import elman, torch[/]，再输入这些代码，就会得到完全相同的数值。",
    },
    "tour.next": {"en": "Where to go next", "zh": "接下来"},
    "tour.next.numbers": {"en": "one number worked out by hand", "zh": "手算其中的一个数"},
    "tour.next.explain": {"en": "a network of your own", "zh": "讲解你自己的网络"},
    "tour.next.cells": {"en": "the same three with gates", "zh": "换成带门的网络"},
    "tour.next.bench": {"en": "a fair race at eight sizes", "zh": "在八种规模上公平比较速度"},
    "tour.summary": {"en": "The three side by side", "zh": "三个网络对照"},
    "network.one_directional": {"en": "One direction", "zh": "单向"},
    "network.bidirectional": {"en": "Bidirectional", "zh": "双向"},
    "network.multi_layer": {"en": "Two layers", "zh": "多层"},
    "network.yours": {"en": "Your {module}", "zh": "你的 {module}"},
    # Sections
    "section.shapes": {"en": "Shapes", "zh": "形状"},
    "section.places": {"en": "Where h_n sits in output", "zh": "h_n 在 output 中的位置"},
    "section.parameters": {"en": "Parameters", "zh": "参数"},
    "section.costs": {"en": "What it costs", "zh": "计算量"},
    "section.torch": {"en": "Beside torch.nn, with the same weights", "zh": "与 torch.nn 对比（权重相同）"},
    "section.numbers": {"en": "One step of one unit, by hand", "zh": "手算：一个单元的一个时间步"},
    # The letters, and axes made of them
    "letter.T": {"en": "steps", "zh": "时间步"},
    "letter.B": {"en": "batch", "zh": "批次"},
    "letter.I": {"en": "inputs", "zh": "输入特征"},
    "letter.H": {"en": "hidden", "zh": "隐藏单元"},
    "letter.P": {"en": "projected", "zh": "投影后的单元"},
    "letter.L": {"en": "layers", "zh": "层"},
    "letter.D": {"en": "directions", "zh": "方向"},
    "letter.G": {"en": "gates", "zh": "门"},
    # What a tensor is
    "column.tensor": {"en": "tensor", "zh": "张量"},
    "column.shape": {"en": "shape", "zh": "形状"},
    "column.axes": {"en": "axes", "zh": "各维"},
    "column.meaning": {"en": "what it holds", "zh": "含义"},
    "role.x": {"en": "the input: features of each sample at each step", "zh": "输入：每个时间步、每个样本的特征"},
    "role.output": {"en": "the top layer's hidden state at every step", "zh": "输出：最上层在每个时间步的隐藏状态"},
    "role.h_n": {"en": "where each layer ends: its last hidden state", "zh": "隐藏状态：每一层最后的状态"},
    "role.output.bidirectional": {
        "en": "hidden states at every step: [forward, reverse]",
        "zh": "输出：每个时间步的隐藏状态，前半正向，后半反向",
    },
    "role.h_n.bidirectional": {
        "en": "where each layer and direction ends",
        "zh": "隐藏状态：每一层、每个方向最后的状态",
    },
    "role.c_n": {"en": "where each layer ends: its last cell state", "zh": "细胞状态：每一层最后的细胞状态"},
    "role.c_n.bidirectional": {
        "en": "where each layer and direction ends: the cell state",
        "zh": "细胞状态：每一层、每个方向最后的细胞状态",
    },
    "role.weight_ih": {"en": "weights, input to hidden", "zh": "权重：输入到隐藏层"},
    "role.weight_hh": {"en": "weights, hidden to hidden", "zh": "权重：隐藏层到隐藏层"},
    "role.bias_ih": {"en": "bias, input to hidden", "zh": "偏置：输入到隐藏层"},
    "role.bias_hh": {"en": "bias, hidden to hidden", "zh": "偏置：隐藏层到隐藏层"},
    "role.weight_hr": {"en": "weights, hidden to projected", "zh": "权重：隐藏层到投影"},
    "shapes.batch_first": {
        "en": "batch_first turns x and output round, not the states ({states}): layers stay first.",
        "zh": "batch_first 只改变 x 和 output 的维度顺序；{states} 不变，仍是层在最前面。",
    },
    # What a gate is for, by cell
    "gate.gru.r": {"en": "reset: how much of the old state the candidate is told", "zh": "重置门：候选状态看到多少旧状态"},
    "gate.gru.z": {"en": "update: how much of the old state stays", "zh": "更新门：保留多少旧状态"},
    "gate.gru.n": {"en": "new: the candidate for the rest", "zh": "候选状态：用来填补其余部分"},
    "gate.lstm.i": {"en": "input: how much of the candidate is written", "zh": "输入门：写入多少候选值"},
    "gate.lstm.f": {"en": "forget: how much of the old cell state stays", "zh": "遗忘门：保留多少旧的细胞状态"},
    "gate.lstm.g": {"en": "candidate: what may be written", "zh": "候选值：可以写入的内容"},
    "gate.lstm.o": {"en": "output: how much of the cell state is shown in h", "zh": "输出门：h 中显示多少细胞状态"},
    # Places
    "places.forward": {"en": "forward", "zh": "正向"},
    "places.reverse": {"en": "reverse", "zh": "反向"},
    "places.layer": {"en": "layer {layer}", "zh": "第 {layer} 层"},
    "places.equal": {"en": "✓ equal, all {count} numbers", "zh": "✓ {count} 个数全部相等"},
    "places.unequal": {"en": "✗ NOT equal, apart by {difference}", "zh": "✗ 不相等，相差 {difference}"},
    "places.not_in_output": {"en": "{state}, not in output", "zh": "{state}，不在 output 中"},
    "places.alone": {"en": "layer {layer} run alone", "zh": "单独运行第 {layer} 层"},
    "places.alone.equal": {"en": "✓ its last state, apart by {difference}", "zh": "✓ 与该层最后的状态相差 {difference}"},
    "places.row": {"en": "Numbers of batch row 0, checked in this run:", "zh": "批次中第 0 个样本的数值，本次运行中已核对："},
    "places.lower": {
        "en": "output holds the top layer alone. Where the layers below end is in h_n only ({states}): "
        "what comes nearest to it in output differs by {nearest}.",
        "zh": "output 只包含最上层。下面各层的最后状态只在 h_n 中（{states}）：output 中最接近的位置也与之相差 {nearest}。",
    },
    "places.inner": {
        "en": "{states} is not in output at any step: it is what the cell keeps to itself.",
        "zh": "{states} 不在 output 的任何时间步中：它只留在单元内部。",
    },
    "places.trap.unequal": {"en": "✗ differs by {difference}", "zh": "✗ 相差 {difference}"},
    "places.trap": {
        "en": "The reverse direction reads from the last step back to step 0 and ends there. "
        "{where} is its first step, which has seen one step only.",
        "zh": "反向从最后一个时间步读到第 0 步，在第 0 步结束。{where} 是反向的第一步，只看过一个时间步。",
    },
    "places.trap.title": {"en": "Where people go wrong", "zh": "容易出错的地方"},
    # Parameters
    "parameters.gates": {
        "en": "Every weight and bias has {gates} blocks of {units} rows, one for each gate:",
        "zh": "每个权重和偏置都按门分成 {gates} 块，每块 {units} 行：",
    },
    "parameters.projection": {"en": "weight_hr has no gates: it projects h.", "zh": "weight_hr 不分门：它对 h 做投影。"},
    "column.gate": {"en": "gate", "zh": "门"},
    "column.rows": {"en": "rows", "zh": "行"},
    "column.purpose": {"en": "what it is for", "zh": "作用"},
    "parameters.count": {"en": "{count} numbers", "zh": "{count} 个数"},
    "parameters.range": {
        "en": "All drawn evenly between -1/√H and 1/√H, here ±{bound}.",
        "zh": "初始值在 -1/√H 与 1/√H 之间均匀分布，此处为 ±{bound}。",
    },
    # Costs
    "costs.parameters": {"en": "parameters", "zh": "参数个数"},
    "costs.step": {"en": "multiply-adds per step, one sample", "zh": "每个时间步、每个样本的乘加次数"},
    "costs.call": {
        "en": "multiply-adds per call, {steps} steps × {batch} samples",
        "zh": "每次调用的乘加次数（{steps} 个时间步 × {batch} 个样本）",
    },
    "costs.each": {"en": "layers 1 to {last}, each", "zh": "第 1 至 {last} 层，每层"},
    "costs.memory": {"en": "memory of the parameters, {dtype}", "zh": "参数占用的内存（{dtype}）"},
    "costs.all": {"en": "in all", "zh": "合计"},
    "costs.dropout": {
        "en": "Dropout of {dropout} acts between the layers, and in training only: not in this run.",
        "zh": "{dropout} 的 dropout 作用在层与层之间，并且只在训练时起作用：本次运行中不起作用。",
    },
    "costs.dropout.one_layer": {
        "en": "Dropout acts between layers; with one layer it does nothing.",
        "zh": "dropout 作用在层与层之间；只有一层时不起作用。",
    },
    # Beside torch.nn
    "torch.backend": {"en": "runs on", "zh": "运行后端"},
    "torch.seed.same": {"en": "seed {seed} gives both the very same weights", "zh": "种子 {seed} 让两者得到完全相同的权重"},
    "torch.seed.other": {"en": "seed {seed} gives the two DIFFERENT weights", "zh": "种子 {seed} 让两者得到不同的权重"},
    "torch.difference": {
        "en": "largest difference: {output} in output, {state} in {states}",
        "zh": "最大差值：output {output}，{states} {state}",
    },
    "torch.judge": {
        "en": "from a float64 run: Elman {elman}, torch.nn {torch}",
        "zh": "与 float64 运行结果的差：Elman {elman}，torch.nn {torch}",
    },
    "torch.faster": {"en": "{ratio}× as fast as torch.nn", "zh": "速度是 torch.nn 的 {ratio} 倍"},
    "torch.level": {"en": "level with torch.nn", "zh": "与 torch.nn 不相上下"},
    "torch.slower": {"en": "{ratio}× as slow as torch.nn", "zh": "耗时是 torch.nn 的 {ratio} 倍"},
    "torch.fairness": {
        "en": "one call without gradients; medians and quartiles of {rounds} rounds in shuffled order; threads: {threads}",
        "zh": "一次不求梯度的调用；{rounds} 轮的中位数和四分位数，每轮顺序随机；线程数：{threads}",
    },
    # Summary
    "summary.network": {"en": "network", "zh": "网络"},
    "summary.difference": {"en": "apart by", "zh": "差值"},
    # Which steps of which rows are run
    "section.steps": {"en": "Which steps are run", "zh": "运行了哪些时间步"},
    "section.rows": {"en": "Where each row ends", "zh": "每个样本在哪里结束"},
    "spans.row": {"en": "row {row}", "zh": "样本 {row}"},
    "spans.more": {"en": "… and {count} rows more: --json has them all", "zh": "…… 另有 {count} 个样本，--json 会全部列出"},
    "spans.step_run": {"en": "a step that is run", "zh": "运行的时间步"},
    "spans.end": {"en": "the direction ends here: h_n and last", "zh": "该方向在此结束：h_n 和 last"},
    "spans.cut": {"en": "a reset: what lies on one side knows nothing of the other", "zh": "重置：两侧互不知道对方"},
    "spans.padding": {"en": "padding: neither read nor run", "zh": "填充：既不读取，也不运行"},
    "spans.at": {"en": "step {step}", "zh": "第 {step} 步"},
    "spans.from_to": {"en": "steps {first} to {last}", "zh": "第 {first} 至 {last} 步"},
    "spans.none": {"en": "no step at all", "zh": "一步也没有"},
    "spans.one_piece": {"en": "{pieces}, in one piece", "zh": "{pieces}，是完整的一段"},
    "spans.pieces": {"en": "{count} pieces: {pieces}", "zh": "分成 {count} 段：{pieces}"},
    "spans.depends.forward": {"en": "forward: made of {piece} alone", "zh": "正向：只由{piece}得出"},
    "spans.depends.reverse": {"en": "reverse: made of {piece} alone", "zh": "反向：只由{piece}得出"},
    "spans.initial": {"en": "the initial state, here 0", "zh": "就是初始状态，此处为 0"},
    "spans.trap": {
        "en": "Row {row} does not end at {where}: that is padding. Take h_n or last.",
        "zh": "样本 {row} 的结尾不是 {where}：那里是填充。请用 h_n 或 last。",
    },
    "spans.both_ways": {
        "en": "The reverse direction begins afresh too: coming from behind, at the step just before the cut.",
        "zh": "反向同样重新开始：它从后往前读，在切口前的那一步重新开始。",
    },
    "spans.layers": {
        "en": "Shown is the top layer. Every layer is cut and ends at the same steps; where those below end is in h_n only.",
        "zh": "此处显示最上层。每一层都在同样的位置切断和结束；下面各层最后的状态只在 h_n 中。",
    },
    "spans.inner": {
        "en": "{states} is of the same steps as h_n; it is not in output.",
        "zh": "{states} 与 h_n 取自同样的时间步；它不在 output 中。",
    },
    "spans.right": {
        "en": "✓ All of it was checked in this run, and against each piece run by itself: apart by {difference}.",
        "zh": "✓ 以上各处在本次运行中都已核对，也与每一段单独运行的结果核对过：相差 {difference}。",
    },
    "spans.wrong": {"en": "✗ NOT so in this run: {places}", "zh": "✗ 本次运行与此不符：{places}"},
    # Numbers
    "numbers.which": {
        "en": "step {step} · unit {unit} · batch row {row} · layer {layer} · {direction}",
        "zh": "时间步 {step} · 单元 {unit} · 样本 {row} · 第 {layer} 层 · {direction}",
    },
    "numbers.gate": {"en": "gate {gate}", "zh": "门 {gate}"},
    "numbers.input": {"en": "from the input", "zh": "来自输入"},
    "numbers.state": {"en": "from the state of step {before}", "zh": "来自时间步 {before} 的状态"},
    "numbers.first": {
        "en": "This is the direction's first step: the state before it is zero.",
        "zh": "这是该方向的第一步：之前的状态为零。",
    },
    "numbers.weight": {"en": "weight", "zh": "权重"},
    "numbers.value": {"en": "number", "zh": "数值"},
    "numbers.product": {"en": "product", "zh": "乘积"},
    "numbers.more": {"en": "{count} more", "zh": "另有 {count} 项"},
    "numbers.sum": {"en": "sum", "zh": "和"},
    "numbers.total": {"en": "total", "zh": "总和"},
    "numbers.activated": {"en": "{activation}(total)", "zh": "{activation}(总和)"},
    "numbers.equations": {"en": "the equations with these numbers", "zh": "把这些数代入方程"},
    "numbers.projection": {"en": "projected", "zh": "投影"},
    "numbers.projected": {
        "en": "W_hr takes in all units. Each is worked out as the one above, which is number {unit} here.",
        "zh": "W_hr 用到所有单元，每个单元的算法同上；上面算的是其中第 {unit} 个。",
    },
    "numbers.by_hand": {"en": "by hand, float64", "zh": "手算（float64）"},
    "numbers.library": {"en": "by the library, {dtype}; apart by {difference}", "zh": "库的结果（{dtype}），相差 {difference}"},
}


class Words:
    """The sentences of one language.

    >>> Words("zh")("letter.T")
    '时间步'
    >>> Words("en")("places.layer", layer=1)
    'layer 1'

    Raises:
        KeyError: a sentence that is not there.
    """

    def __init__(self, language: str) -> None:
        self.language = language

    def __call__(self, key: str, **fields: object) -> str:
        return TEXT[key][self.language].format(**fields)


def language_of(environment: Mapping[str, str] = os.environ) -> str:
    """The reader's language by the locale: "zh" in a Chinese one, else "en".

    >>> language_of({"LANG": "zh_CN.UTF-8"}), language_of({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"})
    ('zh', 'en')
    """
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if environment.get(name):
            return "zh" if environment[name].lower().startswith("zh") else "en"
    return "en"
