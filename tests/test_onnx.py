"""Networks in ONNX, run by ONNX Runtime: any number of steps and sequences, numbers within float32's bounds."""

from __future__ import annotations

import io
import itertools
import logging
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.fx.experimental.proxy_tensor import make_fx

import elman
import pieces
from cases import Case, T, allow, assert_same, assert_within, build, expect
from elman.backends import Operands, Spans, onnx
from kinds import GRU, LSTM, PROJECTED, Kind, as_hx, as_states, every_kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
# The exporters warn of torch's own modules.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:# The axis name"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:Exporting a model to ONNX with a batch_size other than 1"),
]
STEPPING = {"RNN", "GRU", "LSTM", "Scan", "Loop"}
STEPS, BATCH = Dim("steps"), Dim("batch")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The exporter's log says which packages it does not find."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


class _Calls(nn.Module):
    """Calls of networks side by side, since an export takes a second: each with some of the same arguments, time first.

    A call is a network and the names of what it is given besides x.
    """

    def __init__(self, calls: Sequence[tuple[nn.Module, tuple[str, ...]]]) -> None:
        super().__init__()
        self.networks, self.given = nn.ModuleList([network for network, _ in calls]), [given for _, given in calls]

    def forward(self, x: Tensor, lengths: Tensor, reset: Tensor, states: tuple[Tensor, ...]) -> list[Tensor]:
        results: list[Tensor] = []
        for network, given in zip(self.networks, self.given, strict=True):
            flip, layers = network.batch_first, network.num_layers * network.stack.num_directions
            output, hx = network(
                x.transpose(0, 1) if flip else x,
                as_hx(tuple([state[:layers] for state in states])) if "states" in given else None,
                lengths=lengths if "lengths" in given else None,
                reset=(reset.t() if flip else reset) if "reset" in given else None,
            )
            results += [output.transpose(0, 1) if flip else output, *as_states(hx)]
        return results


def _draw(kind: Kind, layers: int, steps: int, batch: int, dtype: torch.dtype) -> tuple[Any, ...]:
    """Arguments for ``_Calls``."""
    return (
        torch.randn(steps, batch, 3, dtype=dtype),
        torch.randint(0, steps + 1, (batch,)),
        torch.rand(steps, batch) < 0.4,
        tuple(torch.randn(layers, batch, width, dtype=dtype) for width in kind.widths(4)),
    )


def _export(module: nn.Module, arguments: tuple[Any, ...], shapes: Any, **options: Any) -> tuple[Any, set[str]]:
    """A module in ONNX: what runs it, and the names of the nodes that go step by step."""
    module = module.eval() if isinstance(module, nn.Module) else module
    program = torch.onnx.export(module, arguments, dynamo=True, dynamic_shapes=shapes, verbose=False, **options)
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session, {node.op_type for node in program.model.graph} & STEPPING


def _run(session: Any, arguments: Sequence[Tensor]) -> list[Tensor]:
    """A run by ONNX Runtime, which knows of the inputs that the network reads."""
    names = [each.name for each in session.get_inputs()]
    given = dict(zip(("x", "lengths", "reset", "states_0", "states_1"), arguments, strict=False))
    return [torch.from_numpy(result) for result in session.run(None, {name: given[name].numpy() for name in names})]


def _export_calls(calls: Sequence[tuple[nn.Module, tuple[str, ...]]], arguments: tuple[Any, ...]) -> tuple[Any, set[str]]:
    dynamic = {0: STEPS, 1: BATCH}
    return _export(_Calls(calls), arguments, (dynamic, {0: BATCH}, dynamic, tuple({1: BATCH} for _ in arguments[-1])))


def _by_call(results: list[Tensor], kind: Kind) -> list[dict[str, Tensor]]:
    names = ("output", *(f"{name}_n" for name in kind.states))
    return [dict(zip(names, results[i : i + len(names)], strict=True)) for i in range(0, len(results), len(names))]


def _cases(kind: Kind) -> list[Case]:
    """Eight choices of the options, in which any two of them meet in every way."""
    return [
        Case(kind, 1 + a, b, c, a ^ b, a ^ c, "ragged" if b ^ c else "padded") for a, b, c in itertools.product((False, True), repeat=3)
    ]


@pytest.mark.slow
@every_kind
def test_onnx_runtime_is_within_float32s_bounds(kind: Kind) -> None:
    cases = _cases(kind)
    calls = [(build(elman, case, torch.float32), ("states",) * case.given_state + ("lengths",) * (case.form == "ragged")) for case in cases]
    session, nodes = _export_calls(calls, _draw(kind, 4, 7, 2, torch.float32))
    assert nodes == {"Scan" if kind is PROJECTED else kind.layer}
    for case, call in zip(cases, calls, strict=True):
        numbers = case.numbers(torch.float32)
        states = [numbers[f"{name}_0"] for name in kind.states]
        for row, length in enumerate(case.lengths):
            numbers["x"][length:, row] = float("nan")
        states = [torch.cat([state] * (4 // len(state))) for state in states]
        reset = torch.zeros(numbers["x"].shape[:2], dtype=torch.bool)
        got = _by_call(_run(session, (numbers["x"], torch.tensor(case.lengths), reset, *states)), kind)[calls.index(call)]
        assert_within(got, {name: expect(case)[name] for name in got}, allow(case))


@pytest.mark.slow
@every_kind
def test_resets_and_projections_are_the_pieces_one_by_one(kind: Kind) -> None:
    """What ONNX's nodes do not know, in float64, against torch.nn."""
    pairs = [
        kind.pair(3, 4, num_layers=1 + deep, bidirectional=both, batch_first=both, bias=deep, dtype=torch.float64)
        for deep, both in ((False, False), (False, True), (True, True))
    ]
    given = ("reset",), ("reset", "lengths"), ("reset", "lengths", "states")
    session, nodes = _export_calls(
        [(ours, names) for (_, ours), names in zip(pairs, given, strict=True)], _draw(kind, 4, 7, 2, torch.float64)
    )
    assert nodes == {"Scan"}
    batch = pieces.Batch.draw(kind, 4, [6, 0, 3, 5], 0.4)
    assert batch.states is not None
    x = batch.x.detach().nan_to_num()
    arguments = x, torch.tensor(batch.lengths), batch.reset, *[state.detach() for state in batch.states]
    for (theirs, _), names, got in zip(pairs, given, _by_call(_run(session, arguments), kind), strict=True):
        layers = theirs.num_layers * (2 if theirs.bidirectional else 1)
        own = pieces.Batch(
            x,
            tuple(state[:layers] for state in batch.states) if "states" in names else None,
            batch.lengths if "lengths" in names else None,
            batch.reset,
        )
        theirs.batch_first = False
        output, finals = pieces.run(theirs, own)
        expected = {"output": output, **{f"{name}_n": final for name, final in zip(kind.states, finals, strict=True)}}
        assert_same(got, {name: value.detach() for name, value in expected.items()}, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [GRU, LSTM], ids=str)
def test_learned_initial_states_go_along(kind: Kind) -> None:
    rnn = kind.build(elman, 3, 4, bidirectional=True, learn_initial_state=True, dtype=torch.float64)
    for name in rnn._learned:
        nn.init.normal_(getattr(rnn, name))
    session, _ = _export_calls([(rnn, ("reset",))], _draw(kind, 2, 7, 2, torch.float64))
    x, lengths, reset, states = _draw(kind, 2, 5, 3, torch.float64)
    output, hx = rnn(x, reset=reset)
    for got, expected in zip(_run(session, (x, lengths, reset, *states)), (output, *as_states(hx)), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


class _Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm, self.head = nn.Embedding(11, 3), elman.LSTM(3, 4, batch_first=True, bidirectional=True), nn.Linear(8, 5)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(tokens), lengths=lengths)[0])


@pytest.mark.slow
def test_a_model_around_it_goes_along(tmp_path: Path) -> None:
    """Also one that torch.export has recorded, saved and loaded."""
    model, arguments = _Tagger(), (torch.randint(11, (2, 5)), torch.tensor([5, 2]))
    shapes = {"tokens": {0: BATCH, 1: STEPS}, "lengths": {0: BATCH}}
    torch.export.save(torch.export.export(model, arguments, dynamic_shapes=shapes), tmp_path / "tagger.pt2")
    for what in (model, torch.export.load(tmp_path / "tagger.pt2")):
        session, nodes = _export(what, arguments if what is model else (), shapes if what is model else None)
        assert nodes == {"LSTM"}
        tokens, lengths = torch.randint(11, (3, 9)), torch.tensor([1, 9, 4])
        given = {"tokens": tokens.numpy(), "lengths": lengths.numpy()}
        got = torch.from_numpy(session.run(None, given)[0])
        torch.testing.assert_close(got, model(tokens, lengths), rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["RNNCell", "GRUCell", "LSTMCell"])
def test_a_cell_goes_along(name: str) -> None:
    cell, x = getattr(elman, name)(3, 4), torch.randn(2, 3)
    session, _ = _export(cell, (x,), ({0: BATCH},))
    x = torch.randn(5, 3)
    for got, expected in zip(session.run(None, {"input": x.numpy()}), as_states(cell(x)), strict=True):
        torch.testing.assert_close(torch.from_numpy(got), expected, rtol=0, atol=1e-6)


def test_packed_sequences_are_refused_in_one_sentence() -> None:
    """ONNX has none."""
    gru = elman.GRU(3, 4)
    with pytest.raises(RuntimeError, match="expected padded sequences, since ONNX has no packed ones"):
        onnx.run(gru.stack, Operands(torch.randn(3, 3), None, list(gru.parameters()), Spans(batch_sizes=torch.tensor([2, 1]))))


class _Call(nn.Module):
    """A call with what an older exporter can name: one tensor after the other."""

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.names, others, strict=True))
        states = tuple([given.pop(name) for name in self.names if name.startswith("state")])
        output, hx = self.network(x, as_hx(states) if states else None, **given)
        return output, *as_states(hx)


def _export_older(network: nn.Module, names: Sequence[str], arguments: Sequence[Tensor]) -> Any:
    """A network by torch's older exporter, which is on its way out: what runs it."""
    axes = ("batch", "steps") if network.batch_first else ("steps", "batch")
    dynamic = dict(enumerate(axes))
    shapes = {name: {0: "batch"} if name == "lengths" else {1: "batch"} if name.startswith("state") else dynamic for name in ("x", *names)}
    file = io.BytesIO()
    call = _Call(network, names).eval()
    torch.onnx.export(call, tuple(arguments), file, dynamo=False, input_names=["x", *names], dynamic_axes=shapes)
    return onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("index", range(8))
@every_kind
@pytest.mark.slow
def test_the_older_exporter_is_within_float32s_bounds(kind: Kind, index: int) -> None:
    case = _cases(kind)[index]
    network = build(elman, case, torch.float32)
    names = ["lengths"] * (case.form == "ragged") + [f"states_{k}" for k in range(len(kind.states))] * case.given_state
    steps = T if kind is PROJECTED else 7  # projections are written step by step
    x, lengths, _, states = _draw(kind, case.num_layers * (1 + case.bidirectional), steps, 2, torch.float32)
    lengths[0] = steps
    sample = [x.transpose(0, 1) if case.batch_first else x, *[lengths] * (case.form == "ragged"), *states * case.given_state]
    session = _export_older(network, names, sample)
    numbers = case.numbers(torch.float32)
    for row, length in enumerate(case.lengths):
        numbers["x"][length:, row] = float("nan")
    x = numbers["x"].transpose(0, 1).contiguous() if case.batch_first else numbers["x"]
    results = _run(session, (x, torch.tensor(case.lengths), x, *[numbers[f"{name}_0"] for name in kind.states]))
    (got,) = _by_call(results, kind)
    got["output"] = got["output"].transpose(0, 1) if case.batch_first else got["output"]
    assert_within(got, {name: expect(case)[name] for name in got}, allow(case))


@pytest.mark.parametrize("kind", [GRU, LSTM], ids=str)
def test_the_older_exporter_writes_resets_step_by_step(kind: Kind) -> None:
    rnn = kind.build(elman, 3, 4, bidirectional=True)
    x, lengths, reset, _ = _draw(kind, 2, 5, 2, torch.float32)
    session = _export_older(rnn, ["lengths", "reset"], (x, lengths, reset))
    x, lengths, reset, _ = _draw(kind, 2, 5, 3, torch.float32)
    output, hx = rnn(x, lengths=lengths, reset=reset)
    for got, expected in zip(_run(session, (x, lengths, reset)), (output, *as_states(hx)), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_nobody_but_the_exporter_replaces_the_operator() -> None:
    """Though what replaces it stands in torch's table of decompositions."""
    rnn, x = elman.GRU(3, 4), torch.randn(5, 2, 3)
    graph = make_fx(
        lambda x: rnn(x)[0], decomposition_table=torch._decomp.decomposition_table, tracing_mode="symbolic", _allow_non_fake_inputs=True
    )(x)
    assert [node.target for node in graph.graph.nodes].count(torch.ops.elman.scan.default) == 1
    assert torch.equal(graph(x), rnn(x)[0])
