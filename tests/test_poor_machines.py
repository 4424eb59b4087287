"""A first call on a machine that lacks something: kernels, vector instructions, a home, a place to write. It works, and says on what."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch

import elman
from elman.backends import kernels

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

# Hides a module from all that would find it.
HIDES = """
def hide(module):
    class Hiding:
        def __init__(self, finder):
            self._find_spec = finder.find_spec
        def find_spec(self, name, path=None, target=None):
            return None if name == module else self._find_spec(name, path, target)
    sys.meta_path[:] = map(Hiding, sys.meta_path)
"""

# What a machine may lack, as code that runs before anything else. All writing goes through Python here: that of files fails, for root too.
LACKING = {
    "nothing": "",
    "a place to write": """
import errno, os
def refuse(event, arguments):
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    if event in {"os.mkdir", "os.rename", "os.remove"} or (event == "open" and arguments[2] & writes and arguments[0] != os.devnull):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), arguments[0])
sys.addaudithook(refuse)
try:
    open("written", "w")
except OSError:
    pass
else:
    raise AssertionError("the test does not keep anybody from writing")
""",
    "a user": """
import os, pwd
def unknown(_):
    raise KeyError("getpwuid(): uid not found")
os.environ.pop("HOME", None)
pwd.getpwuid = unknown
""",
    "kernels": f"{HIDES}hide('elman._native')",
    "matplotlib": f"{HIDES}hide('matplotlib')",
    "kernels that load": """
from importlib.machinery import ModuleSpec
class Broken:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name == "elman._native" else None
    def create_module(self, spec):
        raise ImportError("GLIBC_9.99 not found")
    def exec_module(self, module): ...
sys.meta_path.insert(0, Broken())
""",
}

AS_EVER = "native" if kernels.available() else "reference"

WHAT_RUNS = """
import elman, torch
rnn, x = elman.RNN(10, 20), torch.randn(5, 3, 10)
output, h_n = rnn(x)
output.sum().backward()
elman.stream(rnn, batch_size=3).step(x[0])
elman.show_config()
print("why:", elman.why(rnn, x))
"""


def first_call(lacking: str, tmp_path: Path, code: str, **environment: str) -> str:
    """What ``code`` prints in a fresh Python, with nothing on stderr, in an empty folder that is as empty afterwards."""
    folder = tmp_path / "folder"
    folder.mkdir(exist_ok=True)
    inherited = {name: value for name, value in os.environ.items() if name != "ELMAN_ISA"}
    result = subprocess.run(
        [sys.executable, "-c", f"import sys\n{LACKING[lacking]}\n{code}"],
        cwd=folder, env=inherited | environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    assert list(folder.iterdir()) == []
    return result.stdout


def command(*arguments: str) -> str:
    """Code that runs the command ``elman``."""
    return f"sys.argv = {['elman', *arguments]}\nfrom elman_cli import main\nmain()"


def line(name: str, printed: str) -> str:
    (found,) = (line for line in printed.splitlines() if line.startswith(name))
    return found.removeprefix(name).strip()


@pytest.mark.parametrize("lacking", ["nothing", "a place to write", "a user"])
def test_it_runs_as_ever_where_nothing_can_be_written(lacking: str, tmp_path: Path) -> None:
    printed = first_call(lacking, tmp_path, WHAT_RUNS)
    expected = first_call("nothing", tmp_path, "import elman; elman.show_config()")
    assert printed.startswith(expected)
    assert line("why:", printed).startswith(AS_EVER)


def test_a_home_that_is_not_there_is_not_missed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    home = str(tmp_path / "file" / "home")  # nobody can make a folder there, root neither
    for code in (WHAT_RUNS, command("tour")):
        assert first_call("nothing", tmp_path, code, HOME=home, XDG_CACHE_HOME=home, XDG_CONFIG_HOME=home)


@pytest.mark.parametrize(
    ("lacking", "reason"),
    [("kernels", "this is the pure-Python package"), ("kernels that load", "GLIBC_9.99 not found")],
)
def test_without_kernels_the_reference_runs_and_the_reason_is_told(lacking: str, reason: str, tmp_path: Path) -> None:
    printed = first_call(lacking, tmp_path, WHAT_RUNS)
    assert line("instruction set", printed) == f"none: the kernels are not available ({reason})"
    assert line("why:", printed) == f"reference: native is not built here ({reason})"


LOADS = """
import elman, torch
x, lengths, expected = torch.load("../numbers.pt")
program = torch.export.load("../program.pt2").module()
assert torch.allclose(program(x, lengths), expected, atol=1e-5)
assert torch.allclose(torch.compile(program, backend="aot_eager")(x, lengths), expected, atol=1e-5)
for call in (
    lambda: program(x.requires_grad_(), lengths).sum().backward(),
    lambda: torch.ops.elman.program([x], None, None, "", [], False),
):
    try:
        call()
    except RuntimeError as error:
        print(error)
"""


@pytest.mark.skipif(not kernels.available(), reason="the kernels are not built here")
@pytest.mark.parametrize("batch_first", [False, True])
def test_an_exported_program_runs_without_the_kernels_it_was_exported_with(batch_first: bool, tmp_path: Path) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = elman.LSTM(6, 5, 2, bidirectional=True, batch_first=batch_first)

        def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            output, (h_n, c_n) = self.rnn(x, lengths=lengths)
            return torch.cat([output.flatten(), h_n.flatten(), c_n.flatten()])

    model, numbers = Model(), (torch.randn(4, 4, 6), torch.tensor([4, 1, 0, 3]))
    torch.export.save(torch.export.export(model, numbers), tmp_path / "program.pt2")
    torch.save((*numbers, model(*numbers).detach()), tmp_path / "numbers.pt")
    printed = first_call("kernels", tmp_path, LOADS)
    reason = "runs on the compiled kernels, which are not built here (this is the pure-Python package)"
    for said, what in zip(printed.splitlines(), ("the gradient of torch.ops.elman.scan", "torch.ops.elman.program"), strict=True):
        assert said.startswith(f"{what} {reason}")


@pytest.mark.skipif(not kernels.available(), reason="the kernels are not built here")
def test_without_vector_instructions_the_scalar_kernels_run(tmp_path: Path) -> None:
    printed = first_call("nothing", tmp_path, WHAT_RUNS, ELMAN_ISA="scalar")
    assert line("instruction set", printed).startswith("scalar of ")
    assert line("why:", printed).startswith("native (scalar)")


@pytest.mark.parametrize(("lacking", "backend"), [("a place to write", AS_EVER), ("kernels", "reference")])
def test_the_tour_runs_and_says_on_what(lacking: str, backend: str, tmp_path: Path) -> None:
    assert backend in first_call(lacking, tmp_path, command("tour"))
    assert backend in first_call(lacking, tmp_path, command("tour", "--json"))


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_picture_that_is_promised_and_missing_says_how_to_get_it(lang: str, tmp_path: Path) -> None:
    text, out = tmp_path / "text", tmp_path / "out"
    text.write_text("some words " * 40, encoding="utf-8")
    train = command("train", "text", str(text), "--steps", "2", "--hidden-size", "4", "--out", str(out), "--lang", lang)
    assert "pip install matplotlib" in first_call("matplotlib", tmp_path, train)
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "sample.txt", "metrics.json"}
