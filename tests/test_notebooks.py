"""The notebooks run, give what they show, and are one notebook in two languages.

After a change of a cell, this stores what the notebooks now show:  .venv/bin/python tests/test_notebooks.py
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest

pytest.importorskip("ipykernel", reason="notebooks run in a kernel; `make test` installs one")
nbclient = pytest.importorskip("nbclient", reason="something must run the notebooks; `make test` installs it")

from jupyter_client.kernelspec import KernelSpec  # noqa: E402
from jupyter_client.manager import AsyncKernelManager  # noqa: E402

if TYPE_CHECKING:
    from nbformat import NotebookNode

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[1] / "examples"
PAIRS = [("tour.ipynb", "tour.zh-CN.ipynb"), ("invent.ipynb", "invent.zh-CN.ipynb")]
NAMES = [name for pair in PAIRS for name in pair]

# What the checks of each notebook print, by cell.
CHECKS = {
    "tour": {
        "one-check": ["True"] * 6,
        "two-check": ["True", "True", "False"],
        "three-check": ["True", "False"],
        "torch-check": ["True"] * 4,  # one of them is an option's own
    },
    "invent": {"check": ["True"], "train": ["True"], "look": ["True"], "race": ["True"]},
}
TIMED = "race"  # a cell that prints how long something took, on what

NUMBER = re.compile(r"-?\d+(?:\.\d*)?(?:e[+-]\d+)?")
LAST_PLACE = 1.001e-4  # one more or less in the last of the four places that torch prints: instruction sets round differently


def read(name: str) -> NotebookNode:
    return nbformat.read(EXAMPLES / name, as_version=4)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell: NotebookNode) -> str:
    """What a cell wrote to the standard output. Anything else that a cell may leave, an error or a warning, is refused."""
    assert all(output.output_type == "stream" and output.name == "stdout" for output in cell.outputs), cell.outputs
    return "".join(output.text for output in cell.outputs)


class _ThisPython(AsyncKernelManager):
    """Starts this very interpreter: which kernels a machine has installed under which name does not matter."""

    kernel_spec = KernelSpec(argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], language="python")


def run(notebook: NotebookNode) -> NotebookNode:
    """The notebook with its cells' outputs as they come out now."""
    return nbclient.NotebookClient(notebook, kernel_manager_class=_ThisPython, timeout=120, record_timing=False).execute()


@pytest.fixture(scope="module", params=NAMES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[NotebookNode, NotebookNode]:
    """A notebook as it is stored, and as it is after running."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))  # nobody's own start-up files
        return read(request.param), run(read(request.param))


def assert_alike(got: str, stored: str) -> None:
    """Raise unless two texts have the same words, and the same numbers to the last place printed."""
    assert NUMBER.sub("#", got).split() == NUMBER.sub("#", stored).split()
    for one, other in zip(NUMBER.findall(got), NUMBER.findall(stored), strict=True):
        assert float(one) == pytest.approx(float(other), rel=0, abs=LAST_PLACE), f"expected {other}, got {one}"


def test_running_gives_what_is_stored(pair: tuple[NotebookNode, NotebookNode]) -> None:
    stored, fresh = pair
    for before, after in zip(code_cells(stored), code_cells(fresh), strict=True):
        if before.id == TIMED:
            assert len(printed(after).splitlines()) == len(printed(before).splitlines())
        else:
            assert_alike(printed(after), printed(before))


def test_every_check_comes_out_as_the_text_says(pair: tuple[NotebookNode, NotebookNode], request: pytest.FixtureRequest) -> None:
    _, fresh = pair
    answers_of = {cell.id: re.findall(r"\b(?:True|False)\b", printed(cell)) for cell in code_cells(fresh)}
    notebook = request.node.callspec.params["pair"].split(".")[0]
    assert {name: answers for name, answers in answers_of.items() if answers} == CHECKS[notebook]


@pytest.mark.parametrize("pair", PAIRS[0], indirect=True)
def test_torch_differs_by_roundings_alone(pair: tuple[NotebookNode, NotebookNode]) -> None:
    (cell,) = (cell for cell in code_cells(pair[1]) if cell.id == "torch-check")
    differences = [float(line.split()[-1]) for line in printed(cell).splitlines()]
    assert len(differences) == 3
    assert max(differences) < 1e-6


# --- As files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_files_are_valid_small_and_for_any_python(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert (EXAMPLES / name).stat().st_size < 50_000
    assert not any(cell.metadata for cell in notebook.cells), "no times of day, no state of somebody's editor"
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))


def skeleton(code: str) -> str:
    """Code without its comments and without the words that it prints."""
    tree = ast.parse(code)
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "print":
            call.args = [ast.Constant("") if isinstance(a, ast.Constant) and isinstance(a.value, str) else a for a in call.args]
    return ast.unparse(tree)


@pytest.mark.parametrize("names", PAIRS)
def test_both_languages_have_the_same_cells(names: tuple[str, str]) -> None:
    english, chinese = map(read, names)
    assert [(cell.cell_type, cell.id) for cell in english.cells] == [(cell.cell_type, cell.id) for cell in chinese.cells]
    for one, other in zip(code_cells(english), code_cells(chinese), strict=True):
        assert skeleton(one.source) == skeleton(other.source)


# --- What checks, on what is wrong ------------------------------------------------------------------------------------


def test_alike_is_not_anything() -> None:
    assert_alike("x 0.1235 [5, 3]", "x 0.1234\n[5, 3]")
    for got in ("x 0.1236 [5, 3]", "x 0.1234 [5, 4]", "y 0.1234 [5, 3]", "x 0.1234 [5]", "x 0.1234 [5, 3] 1"):
        with pytest.raises(AssertionError):
            assert_alike(got, "x 0.1234 [5, 3]")


def test_a_skeleton_keeps_all_but_words() -> None:
    assert skeleton('print("eins:", x)  # one') == skeleton('print("one:", x)')
    assert skeleton('print("one:", x)') != skeleton('print("one:", y)')
    assert skeleton('f("a")') != skeleton('f("b")')


if __name__ == "__main__":
    for name in NAMES:
        nbformat.write(run(read(name)), EXAMPLES / name)
