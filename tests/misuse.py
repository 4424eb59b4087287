"""Random misuse of modules, by the million: attributes written past every guard, PackedSequences made by hand, operators, streams.

Whatever happens must be an exception, or a result of the right shape. What is read or written outside of an operand is found where the
kernels are built with AddressSanitizer (`make sanitize`), as torch's memory is then guarded too. ``python tests/misuse.py 1000 0`` makes
1000 calls from seed 0.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections import Counter
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

import elman
from elman.backends import Stack
from elman.cells import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

I, H, T, B = 6, 8, 5, 3  # noqa: E741
NUMBERS = (-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 31, 2**31, 2**62)
DTYPES = (torch.float32, torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool)
COUNTS = (1, 2, 3, 5, 6, 8, 0)
SIZES = (0, 1, 2, 3, 5, 8, 2**24, 2**31, 2**62)
HIDDEN_ATTRIBUTES = ("_names", "_learned", "_state_names", "_read")


@contextmanager
def restored(module: nn.Module) -> Iterator[None]:
    """Whatever is done to a module is undone afterwards: to its attributes, its parameters and its stack."""
    entries, parameters, stack, sizes = dict(vars(module)), dict(module._parameters), module.stack, dict(vars(module.stack))
    memory = [(p, p.data) for p in parameters.values() if p is not None]
    try:
        yield
    finally:
        for there, before in ((vars(stack), sizes), (vars(module), entries), (entries["_parameters"], parameters)):
            there.clear()
            there.update(before)
        for p, data in memory:
            p.data, p.grad = data, None


class Misuse:
    """Makes one wrong call after another; ``outcomes`` counts them by kind and by how they ended."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        torch.manual_seed(seed)
        self.outcomes: Counter[str] = Counter()
        self.layers = [
            build(I, H, num_layers=layers, bidirectional=both, batch_first=first, dtype=dtype, **options)
            for build, options in (
                (elman.RNN, {}),
                (elman.RNN, {"nonlinearity": "relu", "bias": False}),
                (elman.GRU, {"learn_initial_state": True}),
                (elman.GRU, {"recompute": True}),
                (elman.LSTM, {}),
                (elman.LSTM, {"proj_size": 3, "recompute": True}),
            )
            for layers, both, first, dtype in (
                (1, False, False, torch.float32),
                (2, True, True, torch.float64),
                (3, False, False, torch.float32),
            )
        ]
        self.layers += [elman.LSTM(I, H, dtype=torch.bfloat16)]
        self.cells = [build(I, H, dtype=torch.float32) for build in (elman.RNNCell, elman.GRUCell, elman.LSTMCell)]
        self.stacks = [
            Stack(BY_NAME[name](), size, units, layers, both, bias, 2 if name == "lstm" and units > 2 and bias else 0)
            for name in BY_NAME
            for size, units in ((I, H), (3, 5), (H, I), (I, 1), (2**31, H), (I, 2**40))
            for layers, both in ((1, False), (2, True))
            for bias in (True, False)
        ]

    def run(self, calls: int) -> None:
        kinds: tuple[tuple[str, Callable[[], object]], ...] = (
            ("attribute", self.write_attributes),
            ("packed", self.make_packed),
            ("operator", self.call_operator),
            ("stream", self.step_stream),
        )
        for _ in range(calls):
            name, misuse = self.rng.choice(kinds)
            try:
                with torch.set_grad_enabled(self.maybe()):
                    misuse()
            except AssertionError:
                raise
            except Exception as error:  # anything is right but a crash and a wrong result
                self.outcomes[f"{name}: {type(error).__name__}"] += 1
            else:
                self.outcomes[f"{name}: ran"] += 1

    # --- What is handed over ---

    def maybe(self, often: float = 0.5) -> bool:
        return self.rng.random() < often

    def tensor(self, *shape: int, dtype: torch.dtype | None = None, spoil: float = 0.06) -> Tensor:
        """Of about this shape, and lying anyhow."""
        sizes = list(shape)
        if self.maybe(spoil):
            axis = self.rng.randrange(len(sizes) + 1)
            sizes[axis : axis + self.rng.randrange(2)] = [self.rng.choice(COUNTS)] * self.rng.randrange(3)
        dtype = self.rng.choice(DTYPES) if self.maybe(spoil / 2) else dtype or torch.float32
        x = torch.zeros(sizes, dtype=dtype) if not dtype.is_floating_point else torch.empty(sizes, dtype=dtype).uniform_(-1, 1)
        lie = self.rng.randrange(9) if self.maybe(2 * spoil) else 9
        if lie == 0 and x.dim() > 1:
            x = x.transpose(0, 1).contiguous().transpose(0, 1)
        elif lie == 1 and x.dim() > 0:
            x = x.repeat_interleave(2, -1)[..., ::2]
        elif lie == 2 and x.dim() > 0:
            x = x[..., :1].expand(x.shape)
        elif lie == 3 and dtype.is_floating_point:
            x = torch._neg_view(x)
        elif lie == 4 and dtype.is_floating_point:
            x = x.requires_grad_()
        elif lie == 5:
            x = torch.empty(x.shape, dtype=dtype, device="meta")
        elif lie == 6 and x.dim() == 2:
            x = x.to_sparse()
        elif lie == 7:
            x = x[:0] if x.dim() else x
        return x

    def counts(self, number: int, most: int, name: str = "") -> Any:
        """Lengths, batch sizes or indices, right or wrong."""
        found = [self.rng.randint(0, most) for _ in range(number)]
        if name == "batch_sizes":
            found = sorted((max(1, n) for n in found), reverse=True)
        elif name == "permutation":
            found = self.rng.sample(range(number), number)
        if found and self.maybe(0.4):
            found[self.rng.randrange(len(found))] = self.rng.choice((-1, -7, 0, most, most + 1, 1000, 2**40, 2**63 - 1, *found))
        if self.maybe(0.15):
            found = found[: self.rng.randrange(len(found) + 1)] + [1] * self.rng.randrange(2)
        tensor = torch.tensor(found, dtype=torch.int64)
        spoil = self.rng.randrange(20)
        if spoil == 0:
            tensor = tensor.to(self.rng.choice((torch.int32, torch.float32, torch.bool, torch.uint8)))
        elif spoil == 1:
            tensor = tensor[None]
        elif spoil == 2:
            tensor = tensor.repeat_interleave(2)[::2]
        return tensor

    def value(self) -> Any:
        """Anything an attribute may be set to."""
        makers: tuple[Callable[[], Any], ...] = (
            lambda: self.rng.choice(NUMBERS),
            lambda: self.rng.choice(NUMBERS),
            self.maybe,
            lambda: self.rng.choice((None, 0.5, "tanh", "x", (), ("weight_ih_l0",), ("hx",), ("h_0", "c_0"), torch.float32, torch.float64)),
            lambda: self.tensor(self.rng.choice(COUNTS), self.rng.choice(COUNTS)),
            lambda: nn.Parameter(self.tensor(self.rng.choice((H, 3 * H, 4 * H)), self.rng.choice((I, H)), spoil=0)),
            lambda: self.rng.choice(self.stacks),
            lambda: self.rng.choice(self.layers).stack,
            lambda: self.rng.choice(self.cells).stack,
            lambda: self.rng.choice(self.layers)._names,
            lambda: self.rng.choice(self.layers)._read,
            lambda: self.rng.choice(self.layers)._parameters,
        )
        return self.rng.choice(makers)()

    # --- Attributes ---

    def write_attributes(self) -> None:
        """Of a layer or a cell, or of its stack; then a call of it, forward and backward."""
        module = self.rng.choice(self.layers + self.cells)
        with restored(module):
            for _ in range(self.rng.choice((1, 1, 1, 2, 3))):
                self._write(module)
            self.call(module)

    def _write(self, module: nn.Module) -> None:
        names = [name for name in vars(module) if not name.startswith("_") and name != "training"]
        way = self.rng.randrange(8)
        if way == 0:
            setattr(module, self.rng.choice((*names, *module._parameters)), self.value())
        elif way == 1:
            object.__setattr__(module, self.rng.choice(names), self.value())
        elif way == 2:
            module._parameters[self.rng.choice(list(module._parameters))] = self.value()
        elif way == 3:
            vars(module.stack)[
                self.rng.choice(
                    ("input_size", "hidden_size", "bidirectional", "bias", "proj_size", "recompute", "numbers", "shapes", "state_sizes")
                )
            ] = self.value()
        elif way == 4:
            vars(module)[self.rng.choice(HIDDEN_ATTRIBUTES)] = self.value()
        elif way == 5:
            parameter = self.rng.choice([p for p in module._parameters.values() if p is not None])
            parameter.data = self.tensor(*parameter.shape, dtype=parameter.dtype, spoil=0.5)
        else:
            vars(module)[self.rng.choice(names)] = self.value()

    def call(self, module: nn.Module) -> None:
        """Of shapes that fit what the module says, what it said, or neither."""
        x = self.input(module)
        like = {"dtype": next(iter(module._parameters.values())).dtype} if self.maybe(0.9) else {}
        spans: dict[str, Any] = {}
        hx: Any = None
        if isinstance(module, elman.RNNCell | elman.GRUCell | elman.LSTMCell):
            if self.maybe():
                hx = [self.tensor(*x.shape[:-1], H, **like) for _ in range(self.rng.choice((1, 2)))]
        else:
            batch, steps = (x.shape[0], x.shape[1]) if module.batch_first and x.dim() == 3 else (x.shape[min(1, x.dim() - 1)], x.shape[0])
            if self.maybe():
                layers = self.rng.choice((module.stack.num_layers * module.stack.num_directions, module.num_layers, 1, 2))
                hx = [self.tensor(int(layers) if 0 <= layers < 9 else 1, batch, H, **like) for _ in range(self.rng.choice((1, 2)))]
            if self.maybe(0.3):
                spans["lengths"] = self.counts(batch, steps)
            if self.maybe(0.3):
                shape = (batch, steps) if module.batch_first else (steps, batch)
                spans["reset"] = self.tensor(*shape, dtype=torch.bool) if self.maybe(0.9) else self.tensor(*shape)
        if hx is not None:
            hx = tuple(hx) if len(hx) > 1 else hx[0]
        result = module(x, hx, **spans)
        output = result if isinstance(result, Tensor) else result[0]
        assert isinstance(output, Tensor)
        assert output.shape[:-1] == x.shape[:-1]
        assert output.isfinite().all() or not torch.is_tensor(x)
        if output.requires_grad:
            if self.maybe(0.2):  # what was saved is given other memory, which no count of writes tells
                moved = self.rng.choice([x, *(p for p in module._parameters.values() if p is not None)])
                moved.data = self.tensor(*moved.shape, dtype=moved.dtype, spoil=0.5)
            output.float().sum().backward()

    def input(self, module: nn.Module) -> Tensor:
        size = getattr(module, "input_size", I) if self.maybe(0.3) else I
        size = size if type(size) is int and 0 <= size < 40 else I
        cell = isinstance(module, elman.RNNCell | elman.GRUCell | elman.LSTMCell)
        shape = (B, size) if cell else (T, B, size) if self.maybe(0.8) else (T, size)
        dtype = next(p.dtype for p in module._parameters.values() if isinstance(p, Tensor))
        x = self.tensor(*shape, dtype=dtype, spoil=0.1)
        return x.requires_grad_() if x.is_leaf and x.is_floating_point() and self.maybe() else x

    # --- PackedSequences ---

    def make_packed(self) -> None:
        layer = self.rng.choice(self.layers)
        sizes = self.counts(T, B, "batch_sizes")
        whole = sizes if sizes.dim() == 1 else sizes[0]
        rows = int(whole.clamp(0, 10).sum()) if self.maybe(0.9) else self.rng.choice(COUNTS)
        first = int(whole[:1].clamp(0, 10).sum())
        data = self.tensor(rows, I, dtype=next(layer.parameters()).dtype, spoil=0.05)
        indices = [self.counts(first, first, "permutation") if self.maybe(0.7) else None for _ in range(2)]
        if self.maybe(0.6):  # an order and its inverse, or neither
            order = torch.tensor(self.rng.sample(range(first), first), dtype=torch.int64)
            indices = [order, order.argsort()] if self.maybe(0.7) else [None, None]
        packed = tuple.__new__(PackedSequence, (data, sizes, *indices))
        directions = layer.stack.num_layers * layer.stack.num_directions
        hx: Any = None
        if self.maybe(0.7):
            batch = first if self.maybe(0.9) else self.rng.choice(COUNTS)
            hx = [self.tensor(directions, batch, width, dtype=data.dtype, spoil=0.05) for width in layer.stack.state_sizes]
            hx = tuple(hx) if len(hx) > 1 else hx[0]
        reset = self.tensor(*((first, T) if layer.batch_first else (T, first)), dtype=torch.bool) if self.maybe(0.2) else None
        if self.maybe(0.2):
            traced = layer.trace(packed, hx, reset=reset)
            assert traced.output.data.shape[0] == data.shape[0]
            return
        result = layer(packed, hx, reset=reset)[0]
        assert result.data.shape[0] == data.shape[0]
        assert result.data.isfinite().all()
        if result.data.requires_grad:
            result.data.float().sum().backward()

    # --- The operator ---

    def call_operator(self) -> None:
        layer = self.rng.choice(self.layers)
        stack, dtype = layer.stack, next(layer.parameters()).dtype
        packed, lengths = self.maybe(0.3), self.maybe(0.3)
        batch_sizes = self.counts(T, B, "batch_sizes") if packed else None
        rows = int(batch_sizes.clamp(0, 10).sum()) if batch_sizes is not None else 0
        first = int(batch_sizes.flatten()[:1].clamp(0, 10).sum()) if batch_sizes is not None else B
        x = self.tensor(rows, I, dtype=dtype) if packed else self.tensor(T, B, I, dtype=dtype)
        directions = stack.num_layers * stack.num_directions
        states = [self.tensor(directions, first, width, dtype=dtype) for width in stack.state_sizes] if self.maybe() else []
        params = [p.detach().clone().requires_grad_(self.maybe(0.3)) for p in layer._params()]
        if self.maybe(0.15):
            params[self.rng.randrange(len(params))] = self.tensor(self.rng.choice(COUNTS), self.rng.choice(COUNTS), dtype=dtype)
        if self.maybe(0.05):
            params.pop()
        reset = self.tensor(T, first, dtype=torch.bool) if self.maybe(0.3) else None
        fresh = [self.tensor(directions, width, dtype=dtype) for width in stack.state_sizes] if self.maybe(0.3) else []
        size = H, stack.num_layers, stack.bidirectional
        options: list[Any] = [stack.cell.name, *size, stack.bias, stack.proj_size, stack.recompute, False]
        if self.maybe(0.4):
            place = self.rng.randrange(len(options))
            options[place] = self.rng.choice((*BY_NAME, "x")) if place == 0 else self.rng.choice((*SIZES, -1, 16, 2**40))
        spans = [batch_sizes, self.counts(B, T) if lengths else None, reset, *[*fresh, None, None][:2]]
        starts = [*states, None, None][:2]
        output, h_n, c_n, *saved = torch.ops.elman.scan(x, *starts, params, *spans, *options, self.maybe(0.9))
        assert output.shape[:-1] == x.shape[:-1]
        assert output.isfinite().all()
        saved = [output, *(each if each.dim() > 1 else None for each in saved)]  # as the gradient takes what there is not
        if self.maybe(0.4):
            place = self.rng.choice([place for place, each in enumerate(saved) if each is not None])
            other = saved[place]
            saved[place] = self.rng.choice((other[:0], other[..., :-1], self.tensor(*other.shape, dtype=dtype, spoil=0.5), x))
        if self.maybe(0.2):
            place = self.rng.randrange(len(options))
            options[place] = self.rng.choice(tuple(BY_NAME)) if place == 0 else self.rng.choice(SIZES)
        if self.maybe(0.2):
            spans[1] = self.counts(B, T)
        grad_output = self.tensor(*output.shape, dtype=dtype) if self.maybe(0.8) else None
        grad_h_n = self.tensor(*h_n.shape, dtype=dtype) if self.maybe() else None
        grad_c_n = self.tensor(*c_n.shape, dtype=dtype) if self.maybe() else None
        given = [x, *states, *fresh, *params]
        needs = [self.maybe(0.8) for _ in range(len(given) + self.maybe(0.05))]
        gradients = torch.ops.elman.scan_backward(grad_output, grad_h_n, grad_c_n, x, *starts, params, *spans, *saved, *options, needs)
        assert [g.shape for g in gradients] == [t.shape for t, need in zip(given, needs, strict=True) if need]

    # --- Streams ---

    def step_stream(self) -> None:
        layer = self.rng.choice([layer for layer in self.layers if not layer.bidirectional])
        dtype = next(layer.parameters()).dtype
        with restored(layer):
            stream = elman.stream(layer, self.rng.choice((1, B)) if self.maybe(0.95) else self.value())
            for _ in range(self.rng.choice((1, 2, 3))):
                self.outcomes["stream, on the way"] += 1
                with suppress(RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError):  # a stream goes on after an error
                    self._use(stream, dtype)

    def _use(self, stream: Any, dtype: torch.dtype) -> None:
        batch = stream.batch_size if type(stream.batch_size) is int and 0 < stream.batch_size < 9 else 1
        use = self.rng.randrange(8)
        if use < 3:
            x: Any = self.tensor(batch, I, dtype=dtype, spoil=0.2) if batch > 1 or self.maybe() else self.tensor(I, dtype=dtype, spoil=0.2)
            given = (
                x.detach().numpy() if self.maybe() and x.device.type == "cpu" and x.dtype is not torch.bfloat16 and not x.is_neg() else x
            )
            y = stream.step(given)
            assert y.shape[:-1] == given.shape[:-1]
        elif use == 3:
            x = self.tensor(T, batch, I, dtype=dtype)
            x = x.transpose(0, 1) if stream.rnn.batch_first else x
            assert stream.run(x).shape[:-1] == x.shape[:-1]
        elif use == 4:
            stream.reset(
                self.rng.choice(
                    (
                        None,
                        [0],
                        [batch],
                        [-1],
                        2**40,
                        self.counts(batch, batch - 1),
                        torch.ones(batch, dtype=torch.bool),
                        [True] * batch,
                        "x",
                        [0.5],
                    )
                )
            )
        elif use == 5:
            states = [self.tensor(stream.rnn.stack.num_layers, batch, width, dtype=dtype) for width in stream.rnn.stack.state_sizes]
            stream.state = tuple(states) if self.maybe() or len(states) > 1 else states[0]
        elif use == 6:
            if self.maybe():
                setattr(stream, self.rng.choice(("batch_size", "rnn", "state")), self.value())
            else:
                name = self.rng.choice(("_batch_size", "_batch", "values", "_fresh", "_has_layers"))
                vars(stream if name in vars(stream) else stream._state)[name] = self.value()
        else:
            self._write(stream.rnn)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    calls, seed = map(int, sys.argv[1:])
    misuse = Misuse(seed)
    for done in range(0, calls, 1000):
        misuse.run(min(1000, calls - done))
    print(f"{calls} calls from seed {seed}:", *sorted(misuse.outcomes.items()), sep="\n  ")
