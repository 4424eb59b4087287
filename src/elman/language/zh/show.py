"""`elman tour` and `elman explain` in Chinese."""

SENTENCES = {
    # Titles
    "Three {module} networks, run just now. After {code}, the code below gives these numbers.": (
        "以下是三个 {module} 网络刚才的运行结果。先执行 {code}，再输入各自的代码，即可复现这些数值。"
    ),
    "One direction": "单向",
    "Bidirectional": "双向",
    "Two layers": "两层",
    "Your {module}": "{module} 网络",
    "Summary": "小结",
    "network": "网络",
    "difference": "差异",
    "Next": "接下来可以试试",
    "the parameters of all three": "打印三个网络的全部参数",
    "one number worked out by hand": "手算其中一个数",
    "a network of your own": "查看你自己的网络",
    "the three networks as {module}": "把三个网络换成 {module}",
    "Elman compared with torch.nn, JAX and ONNX Runtime": "与 torch.nn、JAX、ONNX Runtime 比较速度",
    "as above, with t+1 in place of t-1": "同上，把 t-1 换成 t+1",
    # Shapes
    "Shapes": "形状",
    "tensor": "张量",
    "shape": "形状",
    "axes": "维度",
    "what it holds": "含义",
    "steps": "时间步数",
    "batch": "批次大小",
    "input features": "输入特征数",
    "hidden units": "隐藏单元数",
    "projected units": "投影维度",
    "layers": "层数",
    "directions": "方向数",
    "gates": "门",
    "input: features at each step of each sequence": "输入：每条序列在每个时间步的特征",
    "hidden state of the last layer at every step": "最后一层在每个时间步的隐藏状态",
    "last layer, every step: [forward, reverse]": "最后一层各时间步的隐藏状态：[正向, 反向]",
    "final hidden state of each layer and direction": "各层、各方向的最终隐藏状态",
    "final cell state of each layer and direction": "各层、各方向的最终细胞状态",
    "batch_first puts B first in x and output only; {states} still start with the layers.": (
        "batch_first 只影响 x 和 output；{states} 的第一维仍然是层。"
    ),
    # Final states
    "Where the final states are": "最终状态的位置",
    "forward": "正向",
    "reverse": "反向",
    "layer {layer}": "第 {layer} 层",
    "✓ equal, all {count} numbers": "✓ {count} 个数全部相等",
    "✓ equal up to {difference}": "✓ 相等，差异不超过 {difference}",
    "✗ NOT equal, differs by {difference}": "✗ 不相等，相差 {difference}",
    "Common mistakes": "常见错误",
    "{where} is not the final state of the reverse direction, which reads from the last step to step 0.": (
        "{where} 不是反向的最终状态：反向从最后一个时间步读起，读到第 0 步才结束。"
    ),
    "At the last step it has seen a single step.": "在最后一个时间步，反向只读过这一步。",
    "output holds the last layer only. {states} is nowhere in it: the closest place differs by {nearest}.": (
        "output 只有最后一层的输出，其中没有 {states}：最接近的一处也相差 {nearest}。"
    ),
    "For every layer at every step, use {code}.": "要取每一层在每个时间步的状态，请用 {code}。",
    "{state} is not in output at any step: use {code}.": "{state} 不在 output 里，请用 {code}。",
    "{where} is h_n[0] only with one layer, one direction and no padding.": "只有在单层、单向、没有填充时，{where} 才等于 h_n[0]。",
    # Parameters
    "Parameters": "参数",
    "Drawn uniformly from -1/√H to 1/√H, here ±{bound}.": "初始值服从 [-1/√H, 1/√H] 上的均匀分布，这里是 ±{bound}。",
    "{count} numbers": "共 {count} 个数",
    "final state of each layer and direction": "各层、各方向的最终状态",
    "parameter of the cell's own": "cell 的自有参数",
    "step input: comes with x": "逐步输入：随 x 一起给出",
    "weights, input to hidden": "权重：输入 → 隐藏层",
    "weights, hidden to hidden": "权重：隐藏层 → 隐藏层",
    "bias, input to hidden": "偏置：输入 → 隐藏层",
    "bias, hidden to hidden": "偏置：隐藏层 → 隐藏层",
    "weights, hidden to projection": "权重：隐藏层 → 投影",
    "gate": "门",
    "rows": "行",
    "what it does": "作用",
    "Every weight and bias has {gates} blocks of {units} rows, one for each gate:": "每个权重和偏置按门分为 {gates} 块，每块 {units} 行：",
    "weight_{side} and bias_{side} have rows of {gates} only.": "weight_{side} 和 bias_{side} 只有 {gates} 的行。",
    "weight_hr has no gates: it projects h.": "weight_hr 不分门，只对 h 做投影。",
    "reset gate: how much of the old state the candidate sees": "重置门：候选状态能看到多少旧状态",
    "update gate: how much of the old state is kept": "更新门：保留多少旧状态",
    "candidate state: fills the rest": "候选状态：填补其余部分",
    "input gate: how much of the candidate is written": "输入门：写入多少候选值",
    "forget gate: how much of the old cell state is kept": "遗忘门：保留多少旧的细胞状态",
    "candidate: what may be written": "候选值：准备写入的内容",
    "output gate: how much of the cell state appears in h": "输出门：把多少细胞状态输出到 h",
    # Cost
    "Cost": "计算量",
    "parameters": "参数量",
    "multiply-adds per step and sequence": "单条序列每个时间步的乘加次数",
    "total": "合计",
    "multiply-adds per call, {steps} steps × {batch} sequences": "每次调用的乘加次数（{steps} 个时间步 × {batch} 条序列）",
    "memory of the parameters, {dtype}": "参数占用内存（{dtype}）",
    "Dropout of {dropout} applies between layers, in training only: not in this run.": (
        "dropout（{dropout}）只在训练时作用于层与层之间，本次运行不生效。"
    ),
    # Compared with torch.nn
    "Compared with torch.nn, same weights": "与 torch.nn 比较（权重相同）",
    "backend": "后端",
    "seed {seed} gives both the same weights": "种子 {seed} 下两者的初始权重完全相同",
    "seed {seed} gives the two DIFFERENT weights": "种子 {seed} 下两者的初始权重不同",
    "largest difference: {output} in output, {state} in {states}": "最大差异：output {output}，{states} {state}",
    "difference from a float64 run: Elman {elman}, torch.nn {torch}": "与 float64 结果的误差：Elman {elman}，torch.nn {torch}",
    "{ratio} times as fast as torch.nn": "速度是 torch.nn 的 {ratio} 倍",
    "as fast as torch.nn": "与 torch.nn 速度相当",
    "takes {ratio} times as long as torch.nn": "耗时是 torch.nn 的 {ratio} 倍",
    # One number by hand
    "One step of one unit, by hand": "手算一个单元的一个时间步",
    "step {step} · unit {unit} · sequence {sequence} · layer {layer} · {direction}": (
        "第 {step} 步 · 单元 {unit} · 序列 {sequence} · 第 {layer} 层 · {direction}"
    ),
    "This is the direction's first step: the state before it is zero.": "这是该方向的第一步，此前的状态为零。",
    "weight": "权重",
    "value": "数值",
    "product": "乘积",
    "{count} more": "其余 {count} 项",
    "W_hr takes all units of m, each computed like the one above, which is number {unit} here.": (
        "W_hr 要用到 m 的全部单元，计算方法都与上面相同；上面算的是单元 {unit}。"
    ),
    "by hand, in float64": "手算（float64）",
    "by the library, in {dtype}; differs by {difference}": "库的结果（{dtype}），相差 {difference}",
    # Lengths and resets
    "sequence {sequence}": "序列 {sequence}",
    "a step that is run": "运行的时间步",
    "end of this direction: {states} and last": "该方向的终点，即 {states} 和 last",
    "reset: nothing passes": "重置：状态不再传递",
    "padding: skipped": "填充：跳过",
    "{count} more sequences: --json lists all of them": "其余 {count} 条序列略，用 --json 可全部列出",
    ", ": "、",
    "step {step}": "第 {step} 步",
    "steps {first} to {last}": "第 {first}～{last} 步",
    "no steps": "没有时间步",
    "{segments}, a single segment": "{segments}，共 1 个片段",
    "{count} segments: {segments}": "{segments}，共 {count} 个片段",
    "the initial state, here 0": "初始状态，这里是 0",
    "{direction}: depends on {steps} only": "{direction}：只取决于{steps}",
    "{where} is padding, not the end of sequence {sequence}. Use h_n or last.": (
        "{where} 是填充，不是序列 {sequence} 的终点。请用 h_n 或 last。"
    ),
    "The reverse direction starts afresh too, at the last step before each reset.": "反向也会重新开始：从每个重置点的前一步开始。",
    "The last layer is shown. All layers reset and end at the same steps; the final states of lower layers are in h_n only.": (
        "这里画的是最后一层。各层的重置点和终点都相同；其余各层的最终状态只在 h_n 中。"
    ),
    "✓ Checked in this run, also against each segment run alone: differs by {difference}.": (
        "✓ 以上结论已用本次运行的数值核对，并与单独运行每个片段的结果比较：相差 {difference}。"
    ),
    "✗ NOT true in this run: {places}": "✗ 本次运行的数值与此不符：{places}",
    "A call without gradients: medians and quartiles of {rounds} rounds, threads: {threads}. elman bench times longer "
    "rounds (threads: {others}).": (
        "单次调用，不求梯度；{rounds} 轮的中位数和四分位数，线程数 {threads}。elman bench 每轮更长（线程数 {others}）。"
    ),
    "A call without gradients: medians and quartiles of {rounds} rounds, timed by events on the GPU.": (
        "不求梯度的单次调用：{rounds} 轮的中位数和四分位数，用 CUDA 事件计时。"
    ),
}
