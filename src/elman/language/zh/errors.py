"""Errors, warnings and backends' reasons in Chinese. They are made in English; `elman.language.translated` finds them here."""

SENTENCES = {
    "elman: {message}": "elman：{message}",
    "No module named {name}": "找不到模块 {name}",
    "ELMAN_ISA is {value}, but the kernels are not built here ({reason}); unset it": (
        "ELMAN_ISA 设为 {value}，但这里没有编译好的内核（{reason}），请取消该设置"
    ),
    "{what} runs on the compiled kernels, which are not built here ({reason}): install Elman with a C++ compiler": (
        "{what} 只能在编译好的内核上运行，而这里没有编译（{reason}），请在有 C++ 编译器的环境里安装 Elman"
    ),
    "ELMAN_ISA is {value}, but there is {error}; set it to one of these, or unset it for the best": (
        "ELMAN_ISA 设为 {value}，但{error}，请改为其中之一，或取消设置以自动选用最快的"
    ),
    "no instruction set {name} here: this processor and this build offer {offered}": "没有 {name} 指令集，当前处理器和构建支持 {offered}",
    "this is the pure-Python package": "当前安装的是纯 Python 版",
    "warning: {message}": "警告：{message}",
    "interrupted": "已中断",
    # Networks and their data
    "unknown kind {value}": "未知的网络类型：{value}",
    "unknown {what} {value}": "未知的 {what}：{value}",
    "did you mean {value}?": "是不是 {value}？",
    "expected one of {known}": "可选值：{known}",
    "expected {name} to be at least {least}, got {value}": "{name} 至少为 {least}，收到 {value}",
    "expected {name} to be at least {least}, got {value} (torch.nn: {words})": "{name} 至少为 {least}，收到 {value}（torch.nn：{words}）",
    "{name} must be greater than zero": "{name} 必须大于 0",
    "expected {name} to be at most {most} here, got {value}": "{name} 在这里最多为 {most}，收到 {value}",
    "expected {name} to fit into 64 bits, got {value}": "{name} 必须能用 64 位表示，收到 {value}",
    "expected at most {most} numbers in this network and its data, got {count}": "网络和数据合计最多 {most} 个数，这里有 {count} 个",
    "expected {name} to be one of {known}, got {value}": "{name} 的可选值为 {known}，收到 {value}",
    "expected {name} to be below {other}, {limit}, got {value}": "{name} 必须小于 {other}（{limit}），收到 {value}",
    "leave it out for no projection": "不需要投影时请去掉该选项",
    "expected {name} to be a probability, a number from 0 to 1, got {value}": "{name} 是概率，必须在 0 到 1 之间，收到 {value}",
    "expected no {name}, got {given}: only an {kind} takes it": "不支持 {name}（收到 {given}）：只有 {kind} 有这个选项",
    "this network has no reverse direction; add --bidirectional": "该网络没有反向，请加 --bidirectional",
    "{name} must be between {least} and {most}, got {value}": "{name} 必须在 {least} 到 {most} 之间，收到 {value}",
    "expected a length for each sequence of the batch, {batch} in all, got {count}": "批次中有 {batch} 条序列，但给出了 {count} 个长度",
    # The command line
    "standard output is closed; to discard the output add > /dev/null": "标准输出已关闭；如需丢弃输出，请加 > /dev/null",
    "missing command; choose one of those above": "缺少子命令，请从上面选择一个",
    "expected a path, got {value}; for the current folder use .": "需要路径，收到 {value}；当前文件夹请写 .",
    "all --lengths are 0; give the number of steps with --seq-len": "--lengths 全为 0，请用 --seq-len 给出时间步数",
    "--lengths: expected whole numbers like 5,3,0, got {value}": "--lengths 应为整数，如 5,3,0，收到 {value}",
    "--reset: expected steps like 2, or sequences and steps like 0:2,1:1, got {value}": (
        "--reset 应为时间步（如 2），或序列和时间步（如 0:2,1:1），收到 {value}"
    ),
    "--step, --unit, --sequence, --layer and --direction choose what --numbers works out; add --numbers": (
        "--step、--unit、--sequence、--layer 和 --direction 用来选择 --numbers 手算的内容，请加上 --numbers"
    ),
    "--step, --unit, --sequence, --layer and --direction cannot be combined with --lengths or --reset": (
        "--step、--unit、--sequence、--layer、--direction 不能与 --lengths 或 --reset 同时使用"
    ),
    "--json: expected a file name, or - for standard output, got {value}": "--json 应为文件名，或用 - 表示标准输出，收到 {value}",
    "--json: cannot write {path}: {error}": "--json：无法写入 {path}：{error}",
    "--cell: unknown kind {value}": "--cell：未知的网络类型：{value}",
    "name the cell in it, too: --cell {name}": "请同时写出文件中 cell 的名字：--cell {name}",
    "race it without {kinds}: --cell {name}": "请去掉 {kinds}，单独比较它：--cell {name}",
    "did you mean --cell {name}?": "是不是 --cell {name}？",
    "--numbers is for rnn, gru and lstm only, got {kind}": "--numbers 仅适用于 rnn、gru 和 lstm，收到 {kind}",
    "--against: expected libraries from {known}, got {value}": "--against 的可选值为 {known}，收到 {value}",
    "--threads: expected different numbers from 1 to {most} like 2 or 1,2,4, got {value}": (
        "--threads 应为 1 到 {most} 之间互不相同的数，如 2 或 1,2,4，收到 {value}"
    ),
    "--threads: --grid sequences takes a single number, got {value}": "--threads：--grid sequences 只接受一个数，收到 {value}",
    "--busy: needs several numbers of threads, as in --threads 1,2; add them": "--busy：需要给出多个线程数，如 --threads 1,2",
    "--ragged: needs --device cuda or --dtype; add one of them": "--ragged：需要与 --device cuda 或 --dtype 一起使用",
    "--dtype: on the CPU expected bfloat16 or float16 (without the option it is float32), got {value}": (
        "--dtype：在 CPU 上应为 bfloat16 或 float16（不写该选项即为 float32），收到 {value}"
    ),
    "--rows: --grid sequences has no rows to choose from, got {value}; leave it out": (
        "--rows：--grid sequences 没有可选的行，收到 {value}；请去掉该选项"
    ),
    "--rows: expected the smaller row first, like 2-5, got {value}": "--rows：应先写较小的行号，例如 2-5，收到 {value}",
    "--rows: this grid has rows 1 to {last}, got {value}": "--rows：行号应在 1 到 {last} 之间，收到 {value}",
    "--rows: expected row numbers like 4,8 or 2-5, got {value}": "--rows 应为行号，如 4,8 或 2-5，收到 {value}",
    "--chart: compares libraries, so it takes neither --grid sequences nor several numbers of threads": (
        "--chart 画的是各个库的比较，不能与 --grid sequences 或多个线程数同时使用"
    ),
    "--device: torch finds no CUDA device here": "--device：torch 在这里找不到 CUDA 设备",
    "{option} does not take {other}; leave it out": "{option} 不能与 {other} 同时使用，请去掉后者",
    "{who}: {name} has a relative error of {error}, torch's of {other}": "{who}：{name} 的相对误差为 {error}，torch 的为 {other}",
    "--chart: needs matplotlib, which is not installed: pip install matplotlib": (
        "--chart 需要 matplotlib，请先安装：pip install matplotlib"
    ),
    "--chart: cannot write to {path}: {error}": "--chart：无法写入 {path}：{error}",
    # What typer says
    "No such option: {option}": "没有选项 {option}",
    "No such option: {option} Did you mean {other}?": "没有选项 {option}，是不是 {other}？",
    "No such option: {option} (Possible options: {others})": "没有选项 {option}（相近的有：{others}）",
    "No such command {command}.": "没有命令 {command}。",
    "No such command {command}. Did you mean {other}?": "没有命令 {command}，是不是 {other}？",
    "Missing argument {name}.": "缺少参数 {name}。",
    "Missing option {name}.": "缺少选项 {name}。",
    "Missing command.": "缺少子命令。",
    "Option {option} requires an argument.": "选项 {option} 需要一个值。",
    "Option {option} does not take a value.": "选项 {option} 不接受值。",
    "Got unexpected extra argument ({value})": "多余的参数（{value}）",
    "Got unexpected extra argument(s) ({values})": "多余的参数（{values}）",
    "Got unexpected extra arguments ({values})": "多余的参数（{values}）",
    "Invalid value for {name}: {reason}": "{name} 的值无效：{reason}",
    "Invalid value: {reason}": "值无效：{reason}",
    "Input should be a valid integer, unable to parse string as an integer": "应为整数",
    "Input should be a valid number, unable to parse string as a number": "应为数字",
    "Input should be greater than or equal to {least}": "应不小于 {least}",
    "Input should be less than or equal to {most}": "应不大于 {most}",
    "{value} is not a valid {kind}.": "{value} 不是合法的 {kind}。",
    "{value} is not one of {known}.": "{value} 不在可选值 {known} 之内。",
    "{value} is not in the range {range}.": "{value} 超出范围 {range}。",
    # Files, memory and modules
    "No such file or directory": "没有这个文件或目录",
    "Is a directory": "这是一个目录",
    "Not a directory": "不是目录",
    "Permission denied": "没有权限",
    "No space left on device": "磁盘空间不足",
    "Read-only file system": "文件系统只读",
    "File exists": "文件已存在",
    "File name too long": "文件名过长",
    "not enough memory": "内存不足",
    "not enough memory for the values that a call computes on its way: use a smaller batch, shorter sequences (elman.chunks) or "
    "recompute=True": "内存不足，放不下计算过程中的中间值：请减小批次，用 elman.chunks 缩短序列，或设置 recompute=True",
    "not enough memory: {size} GB more are needed": "内存不足：还需要 {size} GB",
    # Benchmarks
    "{who} computed {got}, torch {expected}": "{who} 算出的是 {got}，torch 算出的是 {expected}",
    "{who}: {name} has shape {got}, torch's {expected}": "{who}：{name} 的形状为 {got}，torch 的为 {expected}",
    "{who}: {name} is {difference} away from torch's, whose largest value is {largest}": (
        "{who}：{name} 与 torch 的结果相差 {difference}，而 torch 结果的最大值为 {largest}"
    ),
    "expected at least 1 round, got {value}": "至少需要 1 轮，收到 {value}",
    "ONNX Runtime's CPU package does not train": "ONNX Runtime 的 CPU 版不支持训练",
    # Training
    "{option}: expected a positive and finite number, got {value}": "{option} 应为正的有限数，收到 {value}",
    "{name} must be positive and finite, got {value}": "{name} 必须是正的有限数，收到 {value}",
    "--steps and --seconds cannot be combined": "--steps 和 --seconds 不能同时使用",
    "expected exactly one of steps and seconds, got neither": "steps 和 seconds 必须指定一个，但都没有指定",
    "expected exactly one of steps and seconds, got both": "steps 和 seconds 只能指定一个，但两个都指定了",
    "--out: expected a folder for the results, {path} is a file": "--out 应为存放结果的文件夹，但 {path} 是文件",
    "--out: the results cannot be written to {path}: {error}; choose another folder": "--out：结果无法写入 {path}：{error}；请换一个文件夹",
    "{path} does not hold a character model: {error}": "{path} 中没有字符模型：{error}",
    "{path} does not hold a character model: its format is {got}, not {expected}": "{path} 中没有字符模型：格式为 {got}，应为 {expected}",
    "this training takes {needed} of memory, and {free} is free: lower --hidden-size ({hidden}), --num-layers ({layers}), --streams "
    "({streams}) or --chunk ({chunk})": (
        "训练需要 {needed} 内存，可用 {free}：请调低 --hidden-size（{hidden}）、--num-layers（{layers}）、"
        "--streams（{streams}）或 --chunk（{chunk}）"
    ),
    "expected as many streams as {processes} processes can share equally, got {streams}: let --streams be a multiple of {divisor}": (
        "--streams 应能由 {processes} 个进程平分，收到 {streams}：请改为 {divisor} 的倍数"
    ),
    "expected the same text in all {processes} processes, got another here: let all read the same files": (
        "{processes} 个进程应读取相同的文本，而此处的文本不同：请让所有进程读取相同的文件"
    ),
    "training in {processes} processes needs lightning-fabric, which is not installed: pip install lightning-fabric": (
        "用 {processes} 个进程训练需要 lightning-fabric，尚未安装：pip install lightning-fabric"
    ),
    "--resume: expected an unfinished training in {path}, found none: it has finished or was ended before it saved anything, or "
    "--out is another folder; leave out --resume to start one": (
        "--resume：{path} 中没有未完成的训练：训练已经完成，或在保存任何内容之前就已结束，或者 --out 不是原来的文件夹；"
        "要从头训练，请去掉 --resume"
    ),
    "--resume: expected the text that the training was started with, got another: give the same files": (
        "--resume：文本与开始训练时不同：请指定相同的文件"
    ),
    "--resume: expected the options that the training was started with, {before}, got {now}": (
        "--resume：选项与开始训练时不同：当时为 {before}，现在为 {now}"
    ),
    "--resume: expected a training of this network, {name} {form}, got {got}: the cell or the file has been changed": (
        "--resume：训练状态不属于这个网络：{name} 应为 {form}，实际为 {got}；cell 或保存训练状态的文件已被修改"
    ),
    "--resume: expected the state of a random generator, got another: {error}": "--resume：随机数生成器的状态无效：{error}",
    "--resume: {path} does not hold a training: {error}": "--resume：{path} 中没有训练状态：{error}",
    "--resume: {path} does not hold a training: its format is {got}, not {expected}": (
        "--resume：{path} 中没有训练状态：格式为 {got}，应为 {expected}"
    ),
    "the training goes on, but --resume cannot continue it: {error}": "训练继续进行，但无法用 --resume 恢复：{error}",
    "nothing to learn from: {path} holds {count} characters of text": "没有可训练的内容：{path} 中只有 {count} 个字符",
    "{message}; {count} files and folders in it were passed over": "{message}；其中跳过了 {count} 个文件和文件夹",
    "neither a file nor a folder: {path}": "既不是文件也不是文件夹：{path}",
    "no such file or folder: {path}": "没有这个文件或文件夹：{path}",
    "{path} would be read and then overwritten: let --out be another folder, or move the file": (
        "{path} 读取之后会被覆盖：请为 --out 换一个文件夹，或移走该文件"
    ),
    "{path} and what comes before it are {size} of text: too much for the memory": "{path} 及其之前的文本共 {size}，超出内存",
    "cannot read {path}: {error}": "无法读取 {path}：{error}",
    # Warnings of the library
    "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects num_layers greater than 1, but got "
    "dropout={value} and num_layers=1": "num_layers=1 时 dropout={value} 不生效：它作用于层与层之间，即除最后一层外每一层的输出",
    # Backends
    "{dtype} on the CPU": "{dtype}（CPU）",
    "{dtype} on the GPU": "{dtype}（GPU）",
    "{backend} is not built here ({reason})": "{backend} 后端没有编译（{reason}）",
    "{backend} does not run on {device} (CPU only)": "{backend} 后端不支持 {device}（仅支持 CPU）",
    "{backend} does not run {dtype} (float32, float64, bfloat16 and float16 only)": (
        "{backend} 后端不支持 {dtype}（仅支持 float32、float64、bfloat16、float16）"
    ),
    "{backend} has no kernel for {cell}": "{backend} 后端没有 {cell} 的内核",
    "{backend} does not run empty tensors": "{backend} 后端不处理空张量",
    "{backend} does not run under torch.func's transforms": "{backend} 后端不支持 torch.func 的变换",
    "{backend} does not run under torch.func's transforms where operators are recorded": (
        "{backend} 后端在记录算子时不支持 torch.func 的变换"
    ),
    "{backend} does not run under torch.func.functionalize": "{backend} 后端不支持 torch.func.functionalize",
    "{backend} does not run under nested gradients": "{backend} 后端不支持嵌套求梯度（如 torch.func.grad 套 grad）",
    "{backend} does not run forward-mode differentiation": "{backend} 后端不支持前向模式微分",
    "{backend} does not run under torch.jit.trace": "{backend} 后端不支持 torch.jit.trace",
    "{backend} does not run sharded parameters (FSDP gathers them for a call: ask between rnn.unshard() and rnn.reshard())": (
        "{backend} 后端不支持分片的参数（FSDP 在调用时会恢复完整的参数：请在 rnn.unshard() 与 rnn.reshard() 之间查询）"
    ),
    "{backend} does not run tensor subclasses, nor layouts other than strided": "{backend} 后端不支持张量子类和非 strided 布局",
    "{backend} does not run float64 under autocast": "{backend} 后端在 autocast 下不支持 float64",
    "{backend} does not run on {device} (CUDA only)": "{backend} 后端不支持 {device}（仅支持 CUDA）",
    "{backend} does not run {dtype} (bfloat16, float16 and float32 only)": (
        "{backend} 后端不支持 {dtype}（仅支持 bfloat16、float16 和 float32）"
    ),
    "{backend} does not run projections under torch.jit.trace": "{backend} 后端在 torch.jit.trace 下不支持投影",
    "{backend} does not run more than {most} steps or sequences": "{backend} 后端的时间步数和序列数都不能超过 {most}",
    "{backend} does not run a PackedSequence through a cell of your own under torch.compile, torch.export or a torch mode": (
        "{backend} 后端不支持在 torch.compile、torch.export 或 torch 模式中用自定义 cell 运行 PackedSequence"
    ),
    "{backend} does not run a cell of your own under torch.compile, torch.export or a torch mode without the kernels for the CPU": (
        "没有编译好的 CPU 内核时，{backend} 后端不支持在 torch.compile、torch.export 或 torch 模式中运行自定义 cell"
    ),
    "{backend} does not run a cell that reads a tensor on another device than the CPU": ("{backend} 后端不支持读取非 CPU 张量的 cell"),
    "{backend} does not run a cell of so many states, parameters and constants": "{backend} 后端不支持状态、参数和常数过多的 cell",
    "{backend} does not run ensembles of cells of your own": "{backend} 后端不支持由自定义 cell 组成的集成网络",
    "{backend} does not run a PackedSequence with step inputs or random numbers (pass a padded tensor and lengths= instead)": (
        "{backend} 后端不支持 PackedSequence 与逐步输入或随机数同时使用（请改为传入填充后的张量和 lengths=）"
    ),
    "{backend} does not run a cell whose input_gates are empty": "{backend} 后端不支持 input_gates 为空的 cell",
    "{backend} does not run resets": "{backend} 后端不支持重置",
    "{backend} does not run this dtype": "{backend} 后端不支持这种 dtype",
    "{backend} does not run torch.jit.trace or float64 under autocast": "{backend} 后端不支持在 autocast 下使用 torch.jit.trace 或 float64",
    "{backend} does not run forward-mode differentiation, nor under torch.func's transforms": (
        "{backend} 后端不支持前向模式微分和 torch.func 的变换"
    ),
    "{backend} does not run under torch modes": "{backend} 后端不支持在 torch 模式下运行",
    "{backend} does not export projections to ONNX": "{backend} 后端不能把投影导出为 ONNX",
    "{backend} does not run tensor subclasses": "{backend} 后端不支持张量子类",
    "{backend} does not run a step that asks for dtypes, or whether autocast is on, in 16 bits": (
        "{backend} 后端在 16 位精度下不支持根据 dtype 或 autocast 改变行为的 step"
    ),
    "{backend} does not know the dtypes that this step gives under autocast": "{backend} 后端无法确定该 step 在 autocast 下各结果的 dtype",
    "{backend} does not run a cell of your own under torch.jit.trace": "{backend} 后端在 torch.jit.trace 下不支持自定义 cell",
    "{backend} does not run random numbers of a cell of your own under torch.func's transforms": (
        "{backend} 后端在 torch.func 变换下不支持自定义 cell 的随机数"
    ),
    "{backend} does not run packed sequences of a cell of your own": "{backend} 后端不支持自定义 cell 的打包序列（PackedSequence）",
    # What a step does that no kernel runs
    "{backend} does not run a cell with an option of type {type}": "{backend} 后端不支持含有 {type} 类型选项的 cell",
    "{backend} does not run a cell that is made in compiled code": "{backend} 后端不支持在编译的代码中创建的 cell",
    "{backend} does not record a step that reads a tensor beside its arguments": (
        "{backend} 后端在编译或导出时不支持 step 读取其输入以外的张量"
    ),
    "{backend} does not run a cell with an option that holds itself": "{backend} 后端不支持选项引用自身的 cell",
    "{backend} does not run a cell that reads a tensor of more than one number, in an option or a global (a "
    "parameter that init fills may hold a vector, a gate's recurrent rows a matrix)": (
        "{backend} 后端不支持在选项或全局变量中读取多元素张量的 cell（向量可改用由 init 填充的自有参数，矩阵可改用门的循环权重）"
    ),
    "{backend} does not run a step with {error}, at {place}": "{backend} 后端记录 step 时出现 {error}（{place}）",
    "{backend} does not run a step that finds {name} while it runs, at {place} (call it by its name)": (
        "{backend} 后端不支持在运行时才查找到函数 {name} 的 step，位置：{place}（请用函数名直接调用）"
    ),
    "{backend} does not run a step that is first run under a profiler and a debugger at once": (
        "{backend} 后端不支持首次运行时同时启用性能分析器和调试器的 step"
    ),
    "{backend} does not run a step that reads {name}, which may change unseen": (
        "{backend} 后端不支持读取 {name} 的 step，因为无法察觉它的变化"
    ),
    "{backend} does not run a step that reads {name}, which may change unseen, at {place}": (
        "{backend} 后端不支持读取 {name} 的 step，因为无法察觉它的变化（{place}）"
    ),
    "{backend} does not run a step that raises {error} with another H (write s.h.shape[-1] for it), at {place}": (
        "{backend} 后端不支持换一个 H 就出现 {error} 的 step（H 请写作 s.h.shape[-1]，{place}）"
    ),
    "{backend} does not run the operation {name}, at {place}": "{backend} 后端不支持 step 中的 {name} 操作（{place}）",
    "{backend} does not run {name} in place, at {place}": "{backend} 后端不支持 step 中的就地操作 {name}（{place}）",
    "{backend} does not run {name} with these arguments, at {place}": "{backend} 后端不支持在 step 中以这样的参数调用 {name}（{place}）",
    "{backend} does not run an operation in place ({name}), at {place}": "{backend} 后端不支持 step 中的就地操作 {name}（{place}）",
    "{backend} does not run an operation over the batch, at {place}": "{backend} 后端不支持 step 中沿批次维的操作（{place}）",
    "{backend} does not run an operation on tensors of shape {one} and {other}, at {place}": (
        "{backend} 后端不支持 step 中形状 {one} 与 {other} 之间的操作（{place}）"
    ),
    "{backend} does not run a norm over more than the last axis, at {place}": "{backend} 后端只支持 step 中沿最后一维的归一化（{place}）",
    "{backend} does not run a new axis other than the last, or the first of a vector, at {place}": (
        "{backend} 后端在 step 中只支持在末尾增加维度，向量也可在最前增加（{place}）"
    ),
    "{backend} does not run indexing of tensors, at {place}": "{backend} 后端不支持 step 中对张量的索引和迭代（{place}）",
    "{backend} does not run a norm other than the Euclidean, at {place}": "{backend} 后端只支持 step 中的欧几里得范数（{place}）",
    "{backend} does not run random numbers other than the cell's draws, at {place}": (
        "{backend} 后端不支持 step 中未在 draws 声明的随机数（{place}）"
    ),
    "{backend} does not run rounding division, at {place}": "{backend} 后端不支持 step 中的取整除法和取余（{place}）",
    "{backend} does not run matrix products other than r(...), at {place}": (
        "{backend} 后端只支持在 step 中用 r(...) 做矩阵乘法（{place}）"
    ),
    "{backend} does not run a copy other than clone(), at {place}": "{backend} 后端不支持在 step 中用 clone() 以外的方式复制（{place}）",
    "{backend} does not run a power whose exponent is not a number, at {place}": "{backend} 后端只支持 step 中指数为常数的幂（{place}）",
    "{backend} does not run logical operations on anything but comparisons, at {place}": (
        "{backend} 后端只支持在 step 中对比较结果做逻辑运算（{place}）"
    ),
    "{backend} does not run a step that does not return its states": "{backend} 后端不支持没有返回全部状态的 step",
    "{backend} does not run the gradient of {name}": "{backend} 后端不支持 {name} 自定义的梯度",
    "{backend} does not run a step that does something else when it is recorded (it may ask for its tensors' type)": (
        "{backend} 后端不支持记录时与实际运行时行为不一致的 step（它可能依赖张量的类型）"
    ),
    "{backend} does not run a step of more than {count} operations, at {place}": (
        "{backend} 后端不支持超过 {count} 个操作的 step（{place}）"
    ),
    "{backend} does not run a step that uses the rows of gate {gate} twice, at {place}": (
        "{backend} 后端不支持在 step 中两次使用门 {gate} 的循环权重（{place}）"
    ),
    "{backend} does not run a step that turns gradients off (v.detach() does), at {place}": (
        "{backend} 后端不支持在 step 中关闭梯度（请改用 v.detach()，{place}）"
    ),
    "{backend} does not run a torch.autograd.Function, at {place}": "{backend} 后端不支持 step 中的 torch.autograd.Function（{place}）",
    "{backend} does not run a step that makes a tensor of a given size "
    "(use torch.ones_like(v), or a parameter that init fills), at {place}": (
        "{backend} 后端不支持 step 按给定大小创建张量（请用 torch.ones_like(v)，或由 init 填充的自有参数，{place}）"
    ),
    "{backend} does not run len() of a number, at {place}": "{backend} 后端不支持在 step 中对单个数取 len()（{place}）",
    "{backend} does not run a step that turns autocast on, at {place}": "{backend} 后端不支持在 step 中开启 autocast（{place}）",
    "{backend} does not run {name} of comparisons alone (c.to(v.dtype) makes them numbers), at {place}": (
        "{backend} 后端不支持在 step 中只对比较结果做 {name}（可用 c.to(v.dtype) 转成数值，{place}）"
    ),
    "{backend} does not run a choice between two numbers that is of another dtype than the step, at {place}": (
        "{backend} 后端要求在 step 中从两个常数里选择时，结果的 dtype 与 step 相同（{place}）"
    ),
    "{backend} does not run a step that changes the dtype to {dtype}, at {place}": "{backend} 后端不支持在 step 中转为 {dtype}（{place}）",
    "{backend} does not run a step that computes with the size {size}, at {place}": (
        "{backend} 后端不支持 step 用大小 {size} 做计算（{place}）"
    ),
    "{backend} does not run a step that depends on the values of its tensors, at {place}": (
        "{backend} 后端不支持 step 依赖张量的具体数值，如按数值分支（{place}）"
    ),
    "{backend} does not run a step with a tensor from outside that has more than one number or requires a gradient "
    "(a parameter that init fills may hold a vector, a gate's recurrent rows a matrix), at {place}": (
        "{backend} 后端不支持 step 使用外部的多元素张量或需要梯度的张量"
        "（向量可改用由 init 填充的自有参数，矩阵可改用门的循环权重，{place}）"
    ),
    "{backend} does not run r({gate}, v) with a v of a shape other than (B, H), at {place}": (
        "{backend} 后端要求 r({gate}, v) 的 v 形状为 (B, H)（{place}）"
    ),
    "{backend} cannot run: {reason}": "{backend} 后端无法运行：{reason}",
    "{backend} does not run on {card}, whose compute capability is below 8.0": "{backend} 后端不支持 {card}：计算能力低于 8.0",
    "{backend} has no plan for hidden_size={size} in {dtype} on {card}": (
        "{backend} 后端在 {card} 上不支持 {dtype} 的 hidden_size={size}（没有可用的内核配置）"
    ),
    "{backend} has no plan for hidden_size={size} in {dtype} on {card} that is fast with many sequences": (
        "{backend} 后端在 {card} 上不支持 {dtype} 的 hidden_size={size}（序列较多时没有足够快的内核配置）"
    ),
    "torch is built for ROCm, not for CUDA": "torch 是 ROCm 版本，不是 CUDA 版本",
    "torch is built without CUDA": "torch 没有编译 CUDA 支持",
    "there is no CUDA device": "没有 CUDA 设备",
}
