"""`--help` in Chinese, and what `elman config` prints."""

SENTENCES = {
    # The parser's own
    "Usage:": "用法：",
    "Arguments": "参数",
    "Options": "选项",
    "Commands": "命令",
    "[default: {value}]": "[默认：{value}]",
    "[required]": "[必填]",
    "Show this message and exit.": "显示帮助并退出。",
    "Example:  {command}": "例：  {command}",
    # elman
    "Recurrent networks with the interface of torch.nn, fast C++ kernels, and every state and gate open to inspection.": (
        "循环神经网络库：接口与 torch.nn 相同，C++ 内核速度快，每个状态、每个门都可以查看。"
    ),
    "Print the version and exit.": "显示版本号并退出。",
    "The language of the output; by default that of the locale.": "输出语言；默认取系统区域设置。",
    "Print JSON.": "输出 JSON。",
    "Seed of the weights and the data.": "权重和数据的随机种子。",
    # elman tour
    "Inspect three recurrent networks: shapes, states, weights, common mistakes, and speed compared with torch.nn.": (
        "讲解三个循环神经网络：形状、状态、权重、常见错误，以及与 torch.nn 的速度比较。"
    ),
    "Kind of network: rnn, gru or lstm.": "网络种类：rnn、gru 或 lstm。",
    "Print the parameters of all three networks, not only the first.": "打印全部三个网络的参数，而不只是第一个。",
    "Where the networks run.": "运行网络的设备。",
    # elman explain
    "Inspect a network of any size: tensors, parameters, cost, backend, and one number worked out by hand.": (
        "查看任意规模的网络：张量、参数、计算量、后端，还可以手算其中一个数。"
    ),
    "With --lengths or --reset it shows which steps of each sequence are run, and where it ends.": (
        "给出 --lengths 或 --reset 时，显示每条序列实际运行哪些时间步、在哪里结束。"
    ),
    "Network": "网络",
    "Data": "数据",
    "Lengths and resets": "长度与重置",
    "One number by hand": "手算",
    "I, features per step.": "I，每个时间步的特征数。",
    "H, hidden units.": "H，隐藏单元数。",
    "L, layers.": "L，层数。",
    "Read each sequence in both directions.": "双向读取每条序列。",
    "RNN only: the activation function.": "激活函数（仅 RNN）。",
    "LSTM only: P, the size that h is projected to; 0 for no projection.": "P，h 投影后的维度，0 表示不投影（仅 LSTM）。",
    "Leave out the biases.": "不用偏置。",
    "Dropout probability between layers, in training only.": "层间 dropout 的概率，仅训练时生效。",
    "Dtype of weights and data.": "权重和数据的 dtype。",
    "T, steps; by default 5, or the longest of --lengths.": "T，时间步数；默认 5，或 --lengths 中的最大值。",
    "B, sequences in the batch; by default 3, or as many as --lengths.": "B，批次大小；默认 3，或 --lengths 的个数。",
    "Make x and output (B, T, ...).": "x 和 output 的形状改为 (B, T, ...)。",
    "Steps of each sequence: 5,3,0.": "各序列的时间步数，如 5,3,0。",
    "Where sequences start afresh: 2 is step 2 of all; 0:2,1:1 is step 2 of sequence 0 and step 1 of sequence 1.": (
        "重置的位置：2 表示所有序列的第 2 步；0:2,1:1 表示序列 0 的第 2 步和序列 1 的第 1 步。"
    ),
    "Work out one step of one unit by hand; with --lengths or --reset: print the final states.": (
        "手算一个单元的一个时间步；与 --lengths 或 --reset 同用时，打印最终状态。"
    ),
    "Which step; by default the second that the direction takes.": "要手算的时间步；默认是该方向的第二步。",
    "Which hidden unit.": "要手算的隐藏单元。",
    "Which sequence of the batch.": "要手算的序列（批次中的编号）。",
    "Which layer.": "要手算的层。",
    "Which direction.": "要手算的方向。",
    "Compare the speed with torch.nn.": "与 torch.nn 比较速度。",
    # elman config
    "Show versions, the instruction set, the backends and why others are unavailable, and the number of threads.": (
        "显示版本、指令集、可用的后端（以及其他后端不可用的原因）和线程数。"
    ),
    "instruction set": "指令集",
    "backends": "后端",
    "not available": "不可用",
    "threads": "线程数",
    "{python} on Linux {machine}": "{python}（Linux {machine}）",
    "{python} on Darwin {machine}": "{python}（macOS {machine}）",
    "{python} on Windows {machine}": "{python}（Windows {machine}）",
    "{isa} of {isas} (ELMAN_ISA forces one)": "{isa}，可选 {isas}（用 ELMAN_ISA 指定）",
    "none: the kernels are not available ({reason})": "无：没有可用的内核（{reason}）",
    "{count} (torch.set_num_threads changes it)": "{count}（用 torch.set_num_threads 修改）",
    # elman bench
    "Compare the speed of Elman with torch.nn, JAX (jitted scan) and ONNX Runtime, interleaved in one process. A cell of your own or the "
    "zoo's is compared with the same step in a Python loop, with that loop compiled, and with JAX.": (
        "在同一进程中交替运行 Elman、torch.nn、JAX（jit 编译的 scan）和 ONNX Runtime，比较速度。"
        "自定义 cell 和 zoo 中的 cell 则与同一 step 的 Python 循环、编译后的该循环和 JAX 比较。"
    ),
    "Libraries that are not installed are skipped, with a notice. Ctrl-C prints what has been measured so far.": (
        "没有安装的库会跳过并给出提示。按 Ctrl-C 可提前结束，已有结果照常输出。"
    ),
    "What is measured": "测量内容",
    "How it is measured": "测量方法",
    "Output": "输出",
    "What to compare. sizes: usual sizes; tour: the tour's three networks; edge: awkward sizes; all: these three; long: 512 steps; "
    "sequences: lengths, resets, traces and streams, each with the alternative, Elman and torch only; cells: each cell of elman.zoo. By "
    "default sizes, on a GPU in bfloat16 or float32 long.": (
        "测量内容。sizes：常见规模；tour：elman tour 的三个网络；edge：不规则的规模；all：前三者；long：512 步；"
        "sequences：长度、重置、trace 和流式推理，各与替代做法比较，只比 Elman 和 torch；cells：elman.zoo 的每种 cell。"
        "默认为 sizes，在 GPU 上用 bfloat16 或 float32 时默认为 long。"
    ),
    "On a GPU, or in another dtype": "在 GPU 上，或用其他 dtype",
    "cuda: compare on the GPU, timed by events.": "cuda：在 GPU 上比较，用 CUDA 事件计时。",
    "Compare with torch.nn, or a cell with its own step, in this dtype. On the CPU bfloat16 or float16; beside torch.nn Elman is also "
    "timed in float32. On a GPU bfloat16 by default; torch.nn is then also timed in float16.": (
        "用这种 dtype 与 torch.nn 比较，cell 则与它自己的逐步循环比较。CPU 上支持 bfloat16 和 float16，"
        "与 torch.nn 比较时还测量 float32 的 Elman。"
        "GPU 上默认 bfloat16，还测量 float16 的 torch.nn。"
    ),
    "With --device cuda or --dtype: sequences of different lengths, uniform in 1..T.": (
        "与 --device cuda 或 --dtype 一起使用：序列长度不等，在 1..T 上均匀分布。"
    ),
    "Only these rows of the grid: 4,8 or 2-5.": "只测其中几行，如 4,8 或 2-5。",
    "Inference, training or both.": "推理（infer）、训练（train）或两者都测（both）。",
    "Libraries to compare with; torch is always included. For cells such as zoo.MGU or your own: loop, compile, jax.": (
        "参与比较的库；torch 始终参与。对 zoo.MGU 这样的 cell 和自定义 cell，可选 loop、compile、jax。"
    ),
    "Compare torch.compile with eager calls, Elman and torch only.": "比较 torch.compile 与 eager 模式，只测 Elman 和 torch。",
    "Threads of each library; by default 2, or 1 on a single core. With several numbers, as in 1,2,4: Elman only, with each of them.": (
        "每个库的线程数；默认 2，单核机器为 1。给出多个数（如 1,2,4）时只测 Elman 在各线程数下的速度。"
    ),
    "With several numbers of threads: run this many other processes meanwhile, each keeping a core busy.": (
        "给出多个线程数时可用：测量期间另开若干个进程，每个占满一个核。"
    ),
    "Rounds; by default 15, with --quick 5.": "轮数；默认 15，--quick 时为 5。",
    "Fewer and shorter rounds.": "减少轮数，缩短每轮时间。",
    "Compare Elman with itself in every row, not only in the first.": "每一行都让 Elman 与自己比较，而不只是第一行。",
    "Print Markdown tables.": "输出 Markdown 表格。",
    "Write all measurements as JSON; - prints only these.": "把全部测量结果写成 JSON；- 表示只打印 JSON。",
    "Draw the geometric means as SVG files, for light and for dark pages; needs matplotlib.": (
        "把几何平均画成 SVG 图（浅色、深色各一份），需要 matplotlib。"
    ),
    # elman train
    "Train a network on data of your own.": "用你自己的数据训练网络。",
    "Train a character model: it learns to predict the next character and is evaluated on held-out files. Ctrl-C keeps the model.": (
        "训练字符模型：学习预测下一个字符，并在留出的文件上评估。按 Ctrl-C 可提前结束并保留模型。"
    ),
    "Text files and folders; by default Python's standard library. In folders, hidden files, environments, caches, --out and the output of "
    "earlier runs are skipped.": (
        "文本文件和文件夹；默认用 Python 标准库。文件夹中的隐藏文件、虚拟环境、缓存、--out 以及以前训练的输出会跳过。"
    ),
    "Model": "模型",
    "Training": "训练",
    "Hidden units of each layer.": "每层的隐藏单元数。",
    "Number of layers.": "层数。",
    "How long to train; by default {seconds} seconds.": "训练时长；默认 {seconds} 秒。",
    "Train for this many steps instead: the same seed then gives the same model.": "改为训练固定步数：种子相同则模型相同。",
    "Peak learning rate of Adam. Lower it if training diverges.": "Adam 的最大学习率。训练发散时请调低。",
    "Batch size: parts of the text read side by side.": "批次大小，即并行读取的文本流数。",
    "Truncated backpropagation: the number of characters through which gradients flow back.": "截断反向传播的长度（字符数）。",
    "Seed of the weights, the cell's random numbers, and the sample.": "权重、cell 的随机数和采样的随机种子。",
    "Continue the unfinished training in --out: repeat the original command and add --resume.": (
        "继续 --out 中未完成的训练：使用开始训练时的命令，并加上 --resume。"
    ),
    "Folder for picture, sample, metrics and weights.": "输出文件夹，存放图、样本、指标和权重。",
    "Print the metrics as JSON.": "以 JSON 输出指标。",
}
