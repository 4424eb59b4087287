"""Every row of docs/compatibility.md is held by a test, in both languages."""

from __future__ import annotations

import abc
import ast
import copy
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.utils import parametrizations

import elman
from elman.backends.aten import AtenBackend
from elman.backends.reference import ReferenceBackend
from native import required

if TYPE_CHECKING:
    from collections.abc import Callable

TESTS = Path(__file__).parent
PAGES = [TESTS.parent / "docs" / name for name in ("compatibility.md", "compatibility.zh-CN.md")]


def held_by(page: Path) -> list[tuple[str, str]]:
    """The file and the test that each row of the table names."""
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| ") and "::" in line]
    return [(found[1], found[2]) for row in rows if (found := re.search(r"\| `(\w+\.py)::(\w+)` \|$", row))]


def test_every_row_names_a_test_that_there_is() -> None:
    table = PAGES[0].read_text(encoding="utf-8").split("|---|---|---|\n")[1].split("\n\n")[0]
    named = held_by(PAGES[0])
    assert len(named) == len(table.splitlines()) > 15
    for file, test in named:
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file} has no {test}"


def _changed(change: Callable[[nn.Module], object]) -> nn.Module:
    module = elman.GRU(3, 4)
    change(module)
    return module


def _from_a_file(module: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def _replica() -> Any:
    gru = elman.GRU(3, 4)
    replica = gru._replicate_for_data_parallel()
    for name, parameter in gru.named_parameters():
        setattr(replica, name, parameter.detach().clone())
    return replica


def _ensemble() -> Callable[[Tensor], Any]:
    members = [elman.GRU(3, 4) for _ in range(2)]
    return lambda x: vmap(lambda values: functional_call(members[0], values, (x,)))(stack_module_state(members)[0])


def _on_features() -> Callable[[Tensor], Any]:
    gru = elman.GRU(3, 4)

    def run(x: Tensor) -> Any:
        with torch.inference_mode():
            features = x.clone()
        with torch.enable_grad():
            return gru(features)

    return run


class _Theirs(nn.GRU):
    def forward(self, input: Tensor, hx: Tensor | None = None) -> Any:
        return super().forward(2 * input, hx)


class _Asked(elman.GRU):
    def permute_hidden(self, hx: Any, permutation: Any) -> Any:
        return super().permute_hidden(hx, permutation)


# By the test of its row, what each of the rows does that say "natively": it makes what is called with x, of shape (5, 2, 3).
NATIVELY: dict[str, Callable[[], Callable[[Tensor], Any]]] = {
    "test_a_compiled_model_has_one_graph_and_knows_what_its_layer_is": lambda: torch.compile(elman.GRU(3, 4), backend="aot_eager"),
    "test_a_class_may_have_other_bases_in_any_order": lambda: type("Mine", (abc.ABC, elman.GRU), {})(3, 4),
    "test_it_has_what_torchs_has": lambda: _changed(lambda gru: gru._flat_weights),
    "test_a_weight_that_is_set_in_the_list_is_set_in_the_layer": lambda: _changed(
        lambda gru: gru._flat_weights.__setitem__(0, nn.Parameter(torch.ones(12, 3)))
    ),
    "test_the_mode_may_be_set_to_the_other_nonlinearity": lambda: (rnn := elman.RNN(3, 4), setattr(rnn, "mode", "RNN_RELU"))[0],
    "test_its_checks_are_torchs": lambda: _changed(lambda gru: gru.check_forward_args(torch.zeros(5, 2, 3), torch.zeros(1, 2, 4), None)),
    "test_what_a_subclass_overrides_is_asked_as_torch_asks_it": lambda: _Asked(3, 4),
    "test_a_whole_model_from_a_file_is_converted": lambda: elman.convert(_from_a_file(nn.GRU(3, 4))),
    "test_a_subclass_keeps_its_class_and_its_methods": lambda: copy.deepcopy(elman.convert(type("Mine", (nn.GRU,), {})(3, 4))),
    "test_a_subclass_that_overrides_forward_is_named_and_its_super_is_ours": lambda: elman.convert(_Theirs(3, 4)),
    "test_reparametrisations_stay": lambda: elman.convert(parametrizations.weight_norm(nn.GRU(3, 4), "weight_hh_l0")),
    "test_an_optimizer_keeps_working": lambda: _changed(lambda gru: torch.optim.SGD(gru.parameters())),
    "test_a_model_on_the_meta_device_is_converted": lambda: elman.convert(nn.GRU(3, 4, device="meta")).to_empty(device="cpu"),
    "test_functional_call_takes_it": lambda: lambda x: functional_call(elman.GRU(3, 4), dict(elman.GRU(3, 4).named_parameters()), (x,)),
    "test_it_has_the_bits_of_its_members": _ensemble,
    "test_a_layer_is_trained_on_them": _on_features,
    "test_private_training_sees_what_it_sees_of_torchs": lambda: _changed(lambda gru: gru.register_forward_hook(lambda *_: None)),
    "test_a_replica_of_data_parallel_runs_with_the_parameters_that_it_is_given": _replica,
    "test_a_converted_model_is_compiled_and_exported": lambda: torch.compile(elman.convert(nn.GRU(3, 4)), fullgraph=True, backend="eager"),
    "test_export_takes_it": lambda: torch.export.export(elman.GRU(3, 4), (torch.zeros(5, 2, 3),)).module(),
    "test_torch_fx_records_a_call_as_one_node": lambda: torch.fx.symbolic_trace(nn.Sequential(elman.GRU(3, 4))),
    "test_torchs_layers_and_elmans_share_files": lambda: _changed(lambda gru: gru.load_state_dict(nn.GRU(3, 4).state_dict())),
}
# Their own tests count the backends that ran, or they lead to a module that is like any other.
BY_THEIR_OWN_TESTS = {
    "test_a_transform_gives_what_the_reference_gives",
    "test_examples_have_the_bits_of_one_batch",
    "test_two_processes_train_to_the_weights_of_one",
    "test_one_process_goes_on_from_what_two_have_saved",
    "test_a_file_serves_any_number_of_steps_and_sequences",
    "test_ahead_of_time_compiled_it_is_the_eager_one",
    "test_keras_files_make_modules_that_compute_the_same",
    "test_a_node_makes_a_module_that_computes_the_same",
}


@required
@pytest.mark.filterwarnings("ignore:these override forward:UserWarning")
@pytest.mark.parametrize("row", NATIVELY)
def test_what_is_said_to_run_natively_does(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.compiler.reset()
    call = NATIVELY[row]()
    for backend in (ReferenceBackend, AtenBackend):
        monkeypatch.setattr(backend, "run", lambda *_, **__: pytest.fail("another path"))
    with torch.no_grad():
        results = call(torch.randn(5, 2, 3))
    assert len(results) == 2


def test_every_row_that_says_natively_is_tried() -> None:
    table = PAGES[0].read_text(encoding="utf-8").split("|---|---|---|\n")[1].split("\n\n")[0]
    said = {
        test for line, (_, test) in zip(table.splitlines(), held_by(PAGES[0]), strict=True) if line.split("|")[2].startswith(" natively")
    }
    assert said == NATIVELY.keys() | BY_THEIR_OWN_TESTS


def test_both_languages_name_the_same_tests() -> None:
    assert held_by(PAGES[0]) == held_by(PAGES[1])


@pytest.mark.parametrize("row", ["| what | natively | `test_x.py` |", "| what | natively |"])
def test_a_row_without_a_test_is_seen(row: str, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(f"|---|---|---|\n{row}\n", encoding="utf-8")
    assert held_by(tmp_path / "page.md") == []
