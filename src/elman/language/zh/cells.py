"""Your own cells in Chinese: how a command names one, what it shows of one, and what is wrong with one."""

SENTENCES = {
    # Help
    "Kind of network: rnn, gru or lstm; or a cell, zoo.MGU or path/to/file.py:MyCell.": (
        "网络种类：rnn、gru 或 lstm；也可以是一个 cell：zoo.MGU 或 path/to/file.py:MyCell。"
    ),
    "Networks (rnn, gru, lstm), or cells such as zoo.MGU or my.py:MyCell, separated by commas.": (
        "网络种类（rnn、gru、lstm），也可以是 cell，如 zoo.MGU 或 my.py:MyCell；用逗号分隔。"
    ),
    "A cell instead of a kind: zoo.MGU, or your own, path/to/file.py:MyCell. The file is imported.": (
        "用 cell 代替网络种类：zoo 中的 zoo.MGU，或自定义的 path/to/file.py:MyCell；该文件会被导入执行。"
    ),
    "A cell instead of the Elman network's: zoo.MGU, or your own, path/to/file.py:MyCell. The file is imported.": (
        "用其他 cell 代替 Elman 网络：zoo 中的 zoo.MGU，或自定义的 path/to/file.py:MyCell；该文件会被导入执行。"
    ),
    # What is shown
    "gates": "门",
    "states": "状态",
    "parameters of its own": "自有参数",
    "step inputs": "逐步输入",
    "random numbers": "随机数",
    "What runs it": "运行后端",
    "loop/elman": "循环/elman",
    "{cell} is not run by {name}, which has no {operation}.": "{name} 没有 {operation} 运算，因此无法运行 {cell}。",
    "µs: Elman's time. The others' over it: loop, the same step in a Python loop of torch's operators; compile, that loop over a step "
    "that torch.compile has compiled.": (
        "µs 为 Elman 的耗时，其余为与它的比值。循环：用 torch 算子写成的 Python 循环执行同一 step；compile：同一循环，"
        "但 step 经 torch.compile 编译。"
    ),
    "jax: a jitted scan of the step.": "jax：同一 step 的 scan，经 jit 编译。",
    "{dtype}; medians of {rounds} interleaved rounds.": "{dtype}；{rounds} 轮交替测量的中位数。",
    "A network of {cell} cells reads {name}": "{cell} 网络在 {name} 上的表现",
    "{layers} × {units} units, {characters} characters read in {seconds} s; {held_out}": (
        "{layers} 层，每层 {units} 个单元；{seconds} 秒读入 {characters} 个字符；{held_out}"
    ),
    # The name of a cell
    "expected a kind of network or --cell, got neither": "需要网络种类或 --cell，两者都没有给",
    "expected a kind of network or --cell, got both": "网络种类和 --cell 只能给一个，两者都给了",
    "for a built-in network write elman explain rnn": "内置网络请写 elman explain rnn",
    "--cell does not take {name}": "--cell 不能与 {name} 同时使用",
    "leave it out": "请去掉该选项",
    "--cell {name} runs on the CPU only": "--cell {name} 只在 CPU 上运行",
    "leave --device out": "请去掉 --device",
    "--threads: --cell {name} takes a single number, got {value}": "--threads：--cell {name} 只接受一个数，收到 {value}",
    "--cell: expected a cell without step inputs, got {name} with {inputs}": "--cell 需要没有逐步输入的 cell，{name} 需要 {inputs}",
    "expected a cell like zoo.MGU or path/to/file.py:MyCell, got {value}": "cell 应写成 zoo.MGU 或 path/to/file.py:MyCell，收到 {value}",
    "expected {name} to be made without arguments, got {kind}": "{name} 必须能不带参数构造，却出现 {kind}",
    "unknown cell {name}": "未知的 cell：{name}",
    "there are no cells": "没有任何 cell",
    "expected a Python file, got {path}": "需要 Python 文件，收到 {path}",
    "cannot import {path}": "无法导入 {path}",
    "expected a cell called {name} in {path}, got none": "{path} 中没有名为 {name} 的 cell",
    "{path} holds a model of the default cell, got {cell}": "{path} 中的模型使用默认 cell，收到 {cell}",
    "{path} holds a model of {name}, got {cell}": "{path} 中的模型使用 {name}，收到 {cell}",
    "pass cell=...": "请传入 cell=...",
    # What is wrong with a cell
    "expected cell to be an elman.Cell, got the class {name}": "cell 应为 elman.Cell 的对象，收到的是类 {name}",
    "expected cell to be an elman.Cell, got {value}": "cell 应为 elman.Cell 的对象，收到 {value}",
    "make one with {name}()": "请用 {name}() 构造一个对象",
    "derive its class from elman.Cell": "请从 elman.Cell 派生它的类",
    "pass the cell itself, such as elman.zoo.MGU()": "请传入 cell 对象，例如 elman.zoo.MGU()",
    "the cell comes first, {code}": "cell 是第一个参数：{code}",
    "expected other names for the options of {cell}, got {name}, which is already in use": (
        "{cell} 的选项不能使用名字 {name}，该名字已被占用"
    ),
    "derive it from elman.cells.Wrapper, which has those of {cell}": "请从 elman.cells.Wrapper 派生，它具有 {cell} 的参数",
    "they come in this order, whatever you call them": "参数按此顺序传入，与名字无关",
    "write {value} or {other}": "请写 {value} 或 {other}",
    "expected {wrapper} to hold an elman.Cell, got the class {name}": "{wrapper} 中应为 elman.Cell 的对象，收到的是类 {name}",
    "expected {wrapper} to hold an elman.Cell, got {value}": "{wrapper} 中应为 elman.Cell 的对象，收到 {value}",
    "expected {cell} to have a method step, got none": "{cell} 缺少 step 方法",
    "write def step(self, x, r, s, p)": "请写 def step(self, x, r, s, p)",
    "expected {cell} without an attribute {name}, which cells with kernels have": "{cell} 不能有属性 {name}，它属于带内核的 cell",
    "call it by another name": "请换一个名字",
    "expected {names} to be a tuple of names, got {value}": "{names} 应为由名字组成的元组，收到 {value}",
    "write {value}": "请写 {value}",
    "expected {cell} to have a state, got none": "{cell} 没有状态",
    "name it in states, the output first": "请写在 states 里，输出放第一个",
    "expected {names} to be among its gates, {gates}, got {value}": "{names} 只能取自它的门 {gates}，收到 {value}",
    "expected gate {gate} of {cell} to be in input_gates or recurrent_gates, got it in neither": (
        "{cell} 的门 {gate} 必须在 input_gates 或 recurrent_gates 中"
    ),
    "expected {names} to be a dict, got {value}": "{names} 应为字典，收到 {value}",
    "expected {names} to have {sizes} for {name}, got {value}": "{names} 中 {name} 应为 {sizes}，收到 {value}",
    "write {example} for a vector of H numbers or {other} for one number": "请写 {example} 表示 H 个数的向量，或 {other} 表示一个数",
    "write {example} for one number for each step and sequence or {other} for one for each unit too": (
        "请写 {example} 表示每条序列每一步一个数，或 {other} 表示每个单元也各有一个数"
    ),
    "write {example} for new numbers at every step or {other} for the same ones for a whole sequence": (
        "请写 {example} 表示每一步抽取新的数，或 {other} 表示整条序列使用同一组数"
    ),
    "expected {cell} to have a parameter, got none": "{cell} 没有任何参数",
    "name its gates in gates": "请在 gates 里写出它的门",
    "expected {names} to have valid Python names, got {value}": "{names} 中应为合法的 Python 名字，收到 {value}",
    "expected {names} to have each name once, got {value} twice": "{names} 中名字不能重复，{value} 出现了两次",
    "expected other names in {names}, got {value}, which is already in use": "{names} 不能使用名字 {value}，该名字已被占用",
    "expected the step of {cell} to use {names}, got {name} (at {place})": "{cell} 的 step 只能使用 {names}，用到了 {name}（位于 {place}）",
    "expected the step of {cell} to use {names}, got {name}": "{cell} 的 step 只能使用 {names}，用到了 {name}",
    "expected the step of {cell} to use nothing of {role}, got {name} (at {place})": (
        "{cell} 没有声明 {role} 的任何内容，step 却用到了 {name}（位于 {place}）"
    ),
    "expected the step of {cell} to use nothing of {role}, got {name}": "{cell} 没有声明 {role} 的任何内容，step 却用到了 {name}",
    "expected the step of {cell} to call r with a gate's name, got a call of a tensor (at {place})": (
        "{cell} 的 step 应以门的名字调用 r，却调用了一个张量（位于 {place}）"
    ),
    "declare {name} in {code}": "请在 {code} 中声明 {name}",
    "declare {name} in {code} or step_inputs": "请在 {code} 或 step_inputs 中声明 {name}",
    "write {role}.{name}, as it is declared": "请写作 {role}.{name}，它是这样声明的",
    "write {role}.{name}, as it is declared, or declare {other} in {code}": (
        "它已声明为 {role}.{name}，请这样写，或在 {code} 中声明 {other}"
    ),
    "write {role}.{name}, as it is declared, or declare {other} in {code} or step_inputs": (
        "它已声明为 {role}.{name}，请这样写，或在 {code} 或 step_inputs 中声明 {other}"
    ),
    "write {role}.{close}, or declare {name} in {code}": "请写作 {role}.{close}，或在 {code} 中声明 {name}",
    "write {role}.{close}, or declare {name} in {code} or step_inputs": "请写作 {role}.{close}，或在 {code} 或 step_inputs 中声明 {name}",
    "expected the declarations of {cell} to be {names}, got {name}": "{cell} 可用的声明有 {names}，收到 {name}",
    "expected the step of {cell} to compute with tensors, got {names} itself (at {place})": (
        "{cell} 的 step 应使用张量计算，却直接用了 {names}（位于 {place}）"
    ),
    "expected the step of {cell} to use {name}, as it is declared, got {got} (at {place})": (
        "{cell} 的 step 应使用声明的 {name}，用到了 {got}（位于 {place}）"
    ),
    "expected the step of {cell} to tell training by its draws, got self.training (at {place})": (
        "{cell} 的 step 应根据随机数判断是否在训练，却用到了 self.training（位于 {place}）"
    ),
    "declare draws and ask whether d is None, as it is in evaluation": "请声明 draws，并判断 d 是否为 None（评估模式下为 None）",
    "name what you need of it, write {how}": "请写出需要其中的哪一项，例如 {how}",
    "expected the step of {cell} to depend on its arguments alone, got random numbers drawn in it (at {place})": (
        "{cell} 的 step 只能依赖传入的 x、r、s、p（和 d），却在其中抽取了随机数（位于 {place}）"
    ),
    "declare random numbers in draws": "随机数请在 draws 中声明",
    "expected {cell}.init to fill {name}, of shape {shape}, in place, got {error} (at {place})": (
        "{cell}.init 应就地填充形状为 {shape} 的 {name}，却出现 {error}（位于 {place}）"
    ),
    "expected {cell}.init to fill {name}, of shape {shape}, in place, got {error}": (
        "{cell}.init 应就地填充形状为 {shape} 的 {name}，却出现 {error}"
    ),
    "expected {cell}.init to return whether it filled {name}, got {value}": "{cell}.init 应返回是否填充了 {name}，返回了 {value}",
    "fill it in place and return True": "请就地填充并返回 True",
    "expected {cell} to declare what it trains, got {name}, which no network of the cell would have among its parameters": (
        "{cell} 应声明要训练的参数，但 {name} 含有可训练的参数，用该 cell 构建的网络不会把它列入自己的参数"
    ),
    "name it in gates or parameters, or turn its gradient off with requires_grad_(False)": (
        "请在 gates 或 parameters 中声明，或用 requires_grad_(False) 关闭其梯度"
    ),
    "expected the step of {cell} to use the recurrent rows of gate {gate} once, got {use} after {before} (at {place})": (
        "{cell} 的 step 中门 {gate} 的循环权重只能用一次，{before} 之后又用了 {use}（位于 {place}）"
    ),
    "declare another gate for the second use": "第二处请另外声明一个门",
    "expected the step of {cell} to return {count} states, {names}, got {value} (at {place})": (
        "{cell} 的 step 应返回 {count} 个状态 {names}，返回了 {value} 个（位于 {place}）"
    ),
    "expected the step of {cell} to return 1 state, {names}, got {value} (at {place})": (
        "{cell} 的 step 应返回 1 个状态 {names}，返回了 {value} 个（位于 {place}）"
    ),
    "expected the step of {cell} to return 1 state, {names}, got {value}": "{cell} 的 step 应返回 1 个状态 {names}，返回了 {value} 个",
    "expected the step of {cell} to return {count} states, {names}, got {value}": (
        "{cell} 的 step 应返回 {count} 个状态 {names}，返回了 {value} 个"
    ),
    "return a tensor for each name in states, in their order": "请按顺序为 states 中的每个名字返回一个张量",
    "expected the step of {cell} to return tensors, its states {names}, got {value} (at {place})": (
        "{cell} 的 step 应返回张量，即状态 {names}，返回了 {value}（位于 {place}）"
    ),
    "expected the step of {cell} to return tensors, its states {names}, got {value}": (
        "{cell} 的 step 应返回张量，即状态 {names}，返回了 {value}"
    ),
    "return the states after the step": "请返回这一步之后的状态",
    "expected the step of {cell} to return {name} of shape {shape}, (B, H), got {value} (at {place})": (
        "{cell} 的 step 返回的 {name} 形状应为 {shape}，即 (B, H)，收到 {value}（位于 {place}）"
    ),
    "expected the step of {cell} to return {name} of shape {shape}, (B, H), got {value}": (
        "{cell} 的 step 返回的 {name} 形状应为 {shape}，即 (B, H)，收到 {value}"
    ),
    "keep one number for each sequence and unit": "每条序列的每个单元应有一个数",
    "expected the step of {cell} to return {name} of {dtype}, as it was before, got {value} (at {place})": (
        "{cell} 的 step 返回的 {name} 应与之前一样为 {dtype}，收到 {value}（位于 {place}）"
    ),
    "expected the step of {cell} to return {name} of {dtype}, as it was before, got {value}": (
        "{cell} 的 step 返回的 {name} 应与之前一样为 {dtype}，收到 {value}"
    ),
    "convert it with {call}": "请用 {call} 转换",
    "expected the step of {cell} to return {name} on {device}, as it was before, got {value} (at {place})": (
        "{cell} 的 step 返回的 {name} 应与之前一样在 {device} 上，实际在 {value} 上（位于 {place}）"
    ),
    "expected the step of {cell} to return {name} on {device}, as it was before, got {value}": (
        "{cell} 的 step 返回的 {name} 应与之前一样在 {device} 上，实际在 {value} 上"
    ),
    "make tensors on {device}": "请在 {device} 上创建张量",
    "expected the step of {cell} to use operations of torch, got one of NumPy (at {place})": (
        "{cell} 的 step 应使用 torch 的运算，却用了 NumPy（位于 {place}）"
    ),
    "write it with torch, whose operations have gradients": "请改用 torch 的运算，它们才有梯度",
    "for a matrix, name {name} in gates, leave it out of input_gates, and write {call}": (
        "矩阵请在 gates 中声明 {name}，不写入 input_gates，并写作 {call}"
    ),
    "expected {cell}.init to fill all of {name}, got numbers that are NaN": "{cell}.init 应填满 {name}，其中仍有 NaN",
    "return True only for what it fills": "只有填充了参数才返回 True",
    "expected {cell}.init to return True for {name}, which it fills, got {value}": "{cell}.init 填充了 {name}，应返回 True，返回了 {value}",
    "return True after filling it, and False for all other names": "填充后返回 True，其他名字返回 False",
    "expected {wrapper} to draw numbers of other names than {cell}, got {name}": "{wrapper} 的随机数不能与 {cell} 的同名，收到 {name}",
    "expected {call} in the step of {cell} with a gate's name, got {value} (at {place})": (
        "{cell} 的 step 中 {call} 的第一个参数应为门的名字，收到 {value}（位于 {place}）"
    ),
    "write r('n', v)": "请写 r('n', v)",
    "expected {call} in the step of {cell} with v of shape {shape}, (B, H), got {value} (at {place})": (
        "{cell} 的 step 中 {call} 的 v 形状应为 {shape}，即 (B, H)，收到 {value}（位于 {place}）"
    ),
    "give it a vector of H units for each sequence": "请为每条序列传入长度为 H 的向量",
    "expected the step of {cell} not to change a tensor in place, got {operation} (at {place})": (
        "{cell} 的 step 不能就地修改张量，用到了就地的 {operation}（位于 {place}）"
    ),
    "use an operation that returns a new tensor": "请改用返回新张量的运算",
    "expected the step of {cell} not to change the cell or what it reads, got a change at each step (at {place})": (
        "{cell} 的 step 不能修改 cell 或它读取的内容，但每一步都有改变（位于 {place}）"
    ),
    "make what stays the same in __init__, keep what lasts from step to step in a state, and look at values with trace": (
        "不变的内容请在 __init__ 中创建，需要带到下一步的内容请放进状态，中间值请用 trace 查看"
    ),
    "expected the step of {cell} not to change the cell or what it reads, got {name} changed (at {place})": (
        "{cell} 的 step 不能修改 cell 或它读取的内容，{name} 被改变了（位于 {place}）"
    ),
    "expected the states after the step of {cell} to depend on all that the cell declares, got none that depends on {names} (at {place})": (
        "{cell} 的 step 返回的状态应依赖 cell 声明的全部内容，但它们都不依赖 {names}（位于 {place}）"
    ),
    "return the new states": "请返回新的状态",
    "expected the step of {cell} to treat each sequence by itself, got results that depend on the others of the batch or "
    "on how many there are (at {place})": ("{cell} 的 step 应独立处理每条序列，但结果依赖批次中的其他序列或序列的数目（位于 {place}）"),
    "compute over the last axis, with dim=-1, and keepdim=True in a sum or mean": (
        "请沿最后一维计算，即 dim=-1；求和或求平均时再加 keepdim=True"
    ),
    "use it, or declare {declared}": "请使用它，或者声明 {declared}",
    "use them, or declare {declared}": "请使用它们，或者声明 {declared}",
    "expected the step of {cell} not to change the cell or what it reads, got a change (at {place})": (
        "{cell} 的 step 不能修改 cell 或它读取的内容，但检测到改变（位于 {place}）"
    ),
    "expected the step of {cell} to do the same at each call, got another one the second time (at {place})": (
        "{cell} 的 step 每次调用都应做相同的计算，第二次调用却不同（位于 {place}）"
    ),
    "keep what lasts from step to step in a state, declare random numbers in draws": (
        "需要带到下一步的内容请放进状态，随机数请在 draws 中声明"
    ),
    "expected a step to use its arguments, got what an earlier call has computed (at {place})": (
        "step 只能使用本次传入的 x、r、s、p（和 d），这里用到了之前某次调用算出的内容（位于 {place}）"
    ),
    "hand it on as a state": "请把它作为状态传下去",
    "keep what lasts from step to step in a state": "需要带到下一步的内容请放进状态",
    "expected the step of {cell} to depend on its arguments alone, got other numbers the second time (at {place})": (
        "{cell} 的 step 只能依赖传入的 x、r、s、p（和 d），第二次运行却得到了不同的数（位于 {place}）"
    ),
    "declare random numbers in draws, and what comes with every step in step_inputs": (
        "随机数请在 draws 中声明，每步的输入请在 step_inputs 中声明"
    ),
    "expected {step} to take ({arguments}), got ({others})": "{step} 的参数应为 ({arguments})，实际为 ({others})",
    "d has the draws, and is None in evaluation": "d 为随机数，评估模式下为 None",
    "write it as def step(self, x, r, s, p)": "请写成 def step(self, x, r, s, p)",
    "name random numbers in draws to get d, too": "要有 d，请在 draws 中声明随机数",
    "expected the step of {cell} to run in evaluation, too, where d is None (at {place})": (
        "{cell} 的 step 在评估模式下也应能运行，此时 d 为 None（位于 {place}）"
    ),
    "draw only if d is not None": "请只在 d 不为 None 时使用随机数",
    "expected the step of {cell} to run on a trial batch of {count} sequences, got {error} (at {place})": (
        "{cell} 的 step 在 {count} 条序列的试运行中出错：{error}（位于 {place}）"
    ),
    "expected the step of {cell} not to branch on a tensor of several numbers, got an if on one (at {place})": (
        "{cell} 的 step 不能根据含有多个数的张量分支，这里用 if 判断了这样的张量（位于 {place}）"
    ),
    "write torch.where(condition, a, b)": "请改写为 torch.where(condition, a, b)",
    "expected the step of {cell} to train the parameters of its network alone, got a gradient for a tensor that is not among them "
    "(at {place})": "{cell} 的 step 只应训练网络自身的参数，但梯度传到了不属于这些参数的张量（位于 {place}）",
    "expected rates for states of {cell}, {names}, got {value}": "概率应对应 {cell} 的状态 {names}，收到 {value}",
    "expected the rate of {name} to be a probability, a number from 0 to 1, got {value}": "{name} 的概率必须在 0 到 1 之间，收到 {value}",
    # Step inputs
    "expected no argument {name}, got one": "不接受参数 {name}",
    "the cell is {cell}, which has no step inputs": "cell 是 {cell}，没有逐步输入",
    "the cell is {cell}, whose step inputs are {names}": "cell 是 {cell}，逐步输入有 {names}",
    "expected {name}, which {cell} needs at every step, got none": "缺少 {cell} 每一步都需要的 {name}",
    "pass it by name, {example}": "请按名字传入：{example}",
    "hx comes second, so pass {name} by name, {example}": "第二个参数是 hx，{name} 请按名字传入：{example}",
    "swap its axes with {code}": "请用 {code} 交换前两维",
    "drop the last axis with {code}": "请用 {code} 去掉最后一维",
    "drop the last axis and swap the others with {code}": "请用 {code} 去掉最后一维并交换前两维",
    "repeat it along the last axis with {code}": "请用 {code} 沿最后一维重复",
    "repeat it along the first axis with {code}": "请用 {code} 沿第一维重复",
    "for the same number everywhere pass {code}": "若处处为同一个数，请传入 {code}",
    "expected {name} to be a tensor whose first axes are those of x, {shape}, got {value}": (
        "{name} 应为张量，前几维与 x 相同，即 {shape}，收到 {value}"
    ),
    "expected a cell with a gate f, got {cell} with {gates}": "cell 需要有门 f，{cell} 的门是 {gates}",
    "set the biases yourself, or in the cell's init": "请自行设置偏置，或在 cell 的 init 中设置",
    "expected a cell with {kind}, got {cell}, which has none": "cell 需要有 {kind}，{cell} 没有",
}
