"""`elman bench` in Chinese."""

SENTENCES = {
    ": ": "：",
    "{cell} inference": "{cell} 推理",
    "{cell} training: forward, and backward to x and all weights": "{cell} 训练：前向传播，以及对 x 和全部权重的反向传播",
    "geometric mean": "几何平均",
    "vs torch": "比 torch",
    "vs best": "比最快者",
    "of peak": "占峰值",
    "CUT SHORT: rows are missing.": "提前结束：结果不完整。",
    "Medians of {rounds} interleaved rounds, in µs a call. ±: half the interquartile range, of the library that varied most. vs: time of "
    "torch, or of the best other library, over Elman's, median of the rounds' ratios.": (
        "数值为 {rounds} 轮交替测量的中位数，单位是每次调用的微秒数。±：波动最大的库的四分位距的一半。"
        "“比 torch”“比最快者”：torch 或其他库中最快者的耗时除以 Elman 的耗时，取各轮比值的中位数。"
    ),
    "T steps, B batch, I input features, H hidden units.": "T 时间步，B 批次大小，I 输入特征，H 隐藏单元。",
    "{mark}: Elman is not the fastest here.": "{mark}：Elman 在这一行不是最快的。",
    "{machine}, {cores} cores; threads of each library: {threads}. {system}.": "{machine}，{cores} 核；每个库 {threads} 个线程。{system}。",
    "Elman ran on {backend}.": "Elman 的后端：{backend}。",
    "Peak: {peak} GFLOP/s, multiply-adds in registers, threads: {threads}, in this run.": (
        "峰值：{peak} GFLOP/s，即本次运行中 {threads} 个线程只在寄存器里做乘加的速度。"
    ),
    "Elman against itself, {cell} row {row}, {mode}: {ratio}.": "Elman 与自己比较，{cell} 第 {row} 行，{mode}：{ratio}。",
    "Elman against itself, {cell} row {row}, {mode}: {ratio}; the machine was too noisy to tell smaller differences.": (
        "Elman 与自己比较，{cell} 第 {row} 行，{mode}：{ratio}；机器干扰较大，小于此的差异不可信。"
    ),
    "WARNING: other processes kept up to {busy} cores busy meanwhile, so that ratios may be far off, with several threads by thousands of "
    "times: measure again on a quiet machine.": (
        "警告：测量期间其他进程最多占用了 {busy} 个核，比值可能严重失真，多线程时可达数千倍；请在空闲的机器上重测。"
    ),
    "{title} (other processes were busy)": "{title}（测量时其他进程占用了 CPU）",
    "infer": "推理",
    "train": "训练",
    "{library} is skipped ({error}); to install it: pip install '.[peers]'": ("跳过 {library}（{error}）；安装：pip install '.[peers]'"),
    "No module named {module}": "找不到模块 {module}",
    # The chart
    "Time per call, relative to Elman": "单次调用耗时（以 Elman 为 1）",
    "shorter is faster": "越短越快",
    "inference": "推理",
    "training": "训练",
    "Geometric mean over {count} sizes, T, B, I, H from {first} to {last}.\n{threads} threads, {cpu}, {isa}; {versions}.": (
        "{count} 种规模的几何平均，T, B, I, H 从 {first} 到 {last}。\n{threads} 线程，{cpu}，{isa}；{versions}。"
    ),
    # --grid sequences
    "time of the alternative over Elman's": "替代做法与 Elman 的耗时比",
    "lengths uniform in 1..T, compared with torch's pack, run, unpack": "长度在 1..T 上均匀分布，与 torch 的打包、运行、解包比较",
    "the same lengths, compared with Elman's run of the whole padded batch": "同样的长度，与 Elman 运行整个填充批次比较",
    "resets at 1% of the steps, compared with the same call without resets": "在 1% 的时间步上重置，与不重置的同一调用比较",
    "trace(), compared with forward()": "trace() 与 forward() 比较",
    "10 steps of a cell in a Python loop, B=16, 64 units, compared with torch's cell": (
        "在 Python 循环里运行 cell 10 步，B=16，64 个单元，与 torch 的 cell 比较"
    ),
    "stream.step on a NumPy array, B=1, 64 units, compared with torch's cell without gradients": (
        "stream.step 处理 NumPy 数组，B=1，64 个单元，与不求梯度的 torch cell 比较"
    ),
    "stream, µs a step, Elman / torch: {steps}": "stream 每步微秒数，Elman / torch：{steps}",
    "medians of {rounds} interleaved rounds, threads: {threads}; {machine}.": "{rounds} 轮交替测量的中位数，线程数 {threads}；{machine}。",
    # --compiled
    "Compiled inference": "编译后的推理",
    "Compiled training": "编译后的训练",
    "over eager": "比 eager",
    "more": "多出",
    "over eager: the compiled layer's time over the eager one's, median of the rounds' ratios. more: the difference of medians, µs.": (
        "比 eager：编译后的耗时除以 eager 模式的耗时，取各轮比值的中位数。多出：两个中位数之差，单位微秒。"
    ),
    "vs torch: torch.nn's compiled layer over Elman's. torch.compile leaves torch.nn's layers as they are.": (
        "比 torch：torch.nn 编译后的耗时除以 Elman 编译后的耗时。torch.compile 并不改变 torch.nn 的循环层。"
    ),
    "The compiled layer against itself: {low} to {high}.": "编译后的层与自己比较：{low} 到 {high}。",
    # --threads 1,2
    "Elman by number of threads": "Elman 在不同线程数下的速度",
    "over fewest": "比最少线程",
    "ran on": "实际线程",
    "over fewest: the time over that with the fewest threads, median of the rounds' ratios.": (
        "比最少线程：耗时除以线程数最少时的耗时，取各轮比值的中位数。"
    ),
    "ran on: how many threads the kernel used (training: in the backward pass), and in what share of the calls; it tries other numbers now "
    "and then.": "实际线程：内核实际使用的线程数（训练时指反向传播），括号内为占调用次数的比例；内核会不时尝试其他线程数。",
    "Training: forward and backward without torch's own operators.": "训练：前向传播和反向传播，不含 torch 自带的算子。",
    "medians of {rounds} interleaved rounds; {machine}, {cores} cores.": "{rounds} 轮交替测量的中位数；{machine}，{cores} 核。",
    "Busy processes meanwhile: {busy}.": "测量期间另有 {busy} 个进程，各占满一个核。",
    # --device cuda
    "step": "每步",
    "vs {name}": "比 {name}",
    "error": "误差",
    "torch's": "torch 的",
    "{dtype}. Medians of {rounds} interleaved rounds, in µs a call. ±: half the interquartile range, of what varied most. vs: the other's "
    "time over Elman's, median of the rounds' ratios.": (
        "{dtype}。数值为 {rounds} 轮交替测量的中位数，单位是每次调用的微秒数。±：波动最大者的四分位距的一半。"
        "“比”：对方的耗时除以 Elman 的耗时，取各轮比值的中位数。"
    ),
    "fp16: torch.nn in float16.": "fp16：float16 下的 torch.nn。",
    "fp32: Elman in float32.": "fp32：float32 下的 Elman。",
    "step: Elman's µs a step. error: Elman's largest relative error, beside torch's; of the outputs, in training of the gradients.": (
        "每步：Elman 每个时间步的微秒数。误差：Elman 的最大相对误差，旁边是 torch 的；推理时看输出，训练时看梯度。"
    ),
    "Lengths uniform in 1..T: Elman takes lengths=, torch packs, runs and unpacks.": (
        "长度在 1..T 上均匀分布：Elman 使用 lengths=，torch 打包、运行、解包。"
    ),
    "torch.backends.cudnn.allow_tf32 is {allowed}.": "torch.backends.cudnn.allow_tf32 为 {allowed}。",
    "{card}, compute capability {capability}, driver {driver}; timed by events on the GPU.": (
        "{card}，计算能力 {capability}，驱动 {driver}；用 CUDA 事件计时。"
    ),
    "unknown": "未知",
}
