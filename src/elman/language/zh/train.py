"""`elman train` in Chinese, its picture included."""

SENTENCES = {
    "A character model learns {name}": "训练字符模型：{name}",
    "the standard library of Python {version}": "Python {version} 标准库",
    "one file: {train_characters} characters for training, its last {held_out_characters} held out": (
        "单个文件：{train_characters} 个字符用于训练，末尾 {held_out_characters} 个字符留出"
    ),
    "training files: {train} ({train_characters} characters); held-out files: {held_out} ({held_out_characters} characters)": (
        "训练文件 {train} 个，共 {train_characters} 个字符；留出文件 {held_out} 个，共 {held_out_characters} 个字符"
    ),
    "Ctrl-C stops early and keeps what has been learned.": "按 Ctrl-C 可提前结束，已训练的模型会保留。",
    "Skipped:": "已跳过：",
    "{names} and {more} more": "{names} 等，另有 {more} 个",
    "hidden": "隐藏文件",
    "environments and caches": "虚拟环境和缓存",
    "links to folders": "指向文件夹的链接",
    "written by an earlier training run": "以前训练的输出",
    "this run's --out": "本次训练的 --out",
    "not UTF-8 text": "不是 UTF-8 文本",
    "cannot be read": "无法读取",
    "The text is short: using --streams {streams} --chunk {chunk}.": "文本较短，实际使用 --streams {streams} --chunk {chunk}。",
    "{processes} processes, {streams} streams each": "{processes} 个进程，每个读 {streams} 个文本流",
    "Evaluating": "评估",
    "char/s": "字符/秒",
    "{time} left": "剩余 {time}",
    "bits/char": "比特/字符",
    "On the held-out text": "留出文本上的结果",
    "compressed size": "压缩后大小",
    "Elman network": "Elman 网络",
    "{name} (strongest)": "{name}（最高压缩率）",
    "gzip and xz compress only the held-out files, joined into one.": "gzip 和 xz 压缩的只是留出文件（合并成一个）。",
    "gzip and xz compress only the held-out file.": "gzip 和 xz 压缩的只是留出文件。",
    "gzip and xz compress only the held-out end of the file.": "gzip 和 xz 压缩的只是留出的文件末尾。",
    "{compressed} The network has read {characters} characters of the training text before; its {weights} of weights are not counted.": (
        "{compressed}网络事先读过 {characters} 个字符的训练文本，其 {weights} 的权重没有计入。"
    ),
    "Stopped early, after {percent} of the training.": "训练提前结束，完成 {percent}。",
    "{steps} steps, {characters} characters in {seconds} s: {speed} char/s. {backend}": (
        "{steps} 步，{seconds} 秒读入 {characters} 个字符，每秒 {speed} 个。{backend}"
    ),
    "What it writes": "模型生成的文字",
    "Files written": "输出文件",
    "learning curve, and hidden units over a line of text": "学习曲线，以及隐藏单元在一行文字上的激活",
    "sample text": "生成的样本",
    "all metrics": "全部指标",
    "weights": "权重",
    "the unfinished training: the same command with --resume continues it": "未完成的训练：原命令加上 --resume 即可继续",
    "No picture: it needs matplotlib. To install it: pip install matplotlib": ("没有画图：需要 matplotlib，安装：pip install matplotlib"),
    # What ends it early
    "the weights of step {step} are in {path}": "第 {step} 步的权重已保存到 {path}",
    "training diverged at step {step} ({bits} bits per character; random guessing gives 8): lower --lr from {before} to {rate}; {saved}": (
        "训练在第 {step} 步发散（每字符 {bits} 比特，随机猜测为 8）：请把 --lr 从 {before} 降到 {rate}；{saved}"
    ),
    "training cannot begin: the untrained network costs {bits} bits per character (random guessing gives 8); check the cell's step and its "
    "initial values": "无法开始训练：未训练的网络每字符 {bits} 比特（随机猜测为 8），请检查 cell 的 step 和初始值",
    "interrupted; the weights are in {path}": "已中断；权重已保存到 {path}",
    "the evaluation": "评估",
    "training has finished, but {what} failed: {error}; the weights are in {path}": (
        "训练已完成，但处理“{what}”时出错：{error}；权重已保存到 {path}"
    ),
    # The picture
    "the picture's labels are in English: no Chinese font is installed": "系统没有中文字体，图中的文字为英文",
    "An Elman network reads {name}": "Elman 网络在 {name} 上的表现",
    "{layers} × {units} tanh units, {characters} characters read in {seconds} s; {held_out}": (
        "{layers} 层，每层 {units} 个 tanh 单元；{seconds} 秒读入 {characters} 个字符；{held_out}"
    ),
    "evaluated on the file's last {characters} characters": "在文件末尾 {characters} 个字符上评估",
    "evaluated on one held-out file, {characters} characters": "在 1 个留出文件（{characters} 个字符）上评估",
    "evaluated on {files} held-out files, {characters} characters": "在 {files} 个留出文件（{characters} 个字符）上评估",
    "Learning curve": "学习曲线",
    "bits per character, lower is better": "每字符比特数，越低越好",
    "millions of characters read": "读入的字符数（百万）",
    "thousands of characters read": "读入的字符数（千）",
    "training text": "训练文本",
    "held-out text": "留出文本",
    "Bits for each character of a held-out line": "一行留出文本中每个字符的比特数",
    "{total} in total, {mean} on average": "合计 {total}，平均 {mean}",
    "hidden units after each character, from -1 (blue) to +1 (red); r: correlation with the feature over {count} held-out characters": (
        "读完每个字符后隐藏单元的值，从 -1（蓝）到 +1（红）；r：与所标特征的相关系数，基于 {count} 个留出字符"
    ),
    "unit {unit}": "单元 {unit}",
    "column in the line": "行内列号",
    "depth of indentation": "缩进深度",
    "in a word": "单词内",
    "in capitals": "大写字母",
    "in a number": "数字内",
    "in brackets": "括号内",
    "in a string": "字符串内",
    "in a docstring": "文档字符串内",
    "in a comment": "注释内",
}
