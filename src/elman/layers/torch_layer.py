"""Makes RNN, GRU and LSTM instances of torch.nn's classes, with the attributes that code written for those reads.

torch.nn's layers keep a second list of their parameters, ``_flat_weights``, which their forward reads, and which goes stale where something
replaces a parameter behind its back. Elman's read the parameters themselves; here that list is a view of them.
"""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, SupportsIndex

from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# What torch.nn's forward asks its own object: a subclass may answer in another way, and is asked too (``asked``).
ASKED = ("check_forward_args", "check_input", "check_hidden_size", "get_expected_hidden_size", "get_expected_cell_size", "permute_hidden")
# What torch.nn's layers keep their second list of parameters with. Elman's have none, so nothing would come of another way.
_BOOKKEEPING = (
    "_flat_weights",
    "_flat_weights_names",
    "_all_weights",
    "all_weights",
    "_flat_weight_refs",
    "_init_flat_weights",
    "_update_flat_weights",
    "_weights_have_changed",
)

_TORCHS = (nn.RNNBase, nn.RNN, nn.GRU, nn.LSTM)


def overridden(cls: type, names: Iterable[str]) -> list[str]:
    """Those of the names that mean something else in the class than in torch.nn's and Elman's layers."""
    own = (*_TORCHS, TorchLayer)
    return [name for name in names if not any(vars(kind).get(name) is _attribute(cls, name) for kind in own)]


def bookkeeping_overridden(cls: type) -> list[str]:
    """The methods that a class overrides although Elman's layers do not call them."""
    return overridden(cls, _BOOKKEEPING)


def _attribute(cls: type, name: str) -> object:
    return next((vars(kind)[name] for kind in cls.__mro__ if name in vars(kind)), None)


class FlatWeights(list[Any]):
    """A layer's parameters in order. An item that is set is set in the layer; the list's length stays.

    A tensor that is no parameter, such as one that dropout has made of a weight, takes the parameter's place in calls alone, until one of
    the parameters is set or ``to`` converts the module: the module's attribute and its ``state_dict`` keep the parameter.

    >>> import elman, torch
    >>> gru = elman.GRU(10, 20)
    >>> gru._flat_weights[0] = torch.nn.Parameter(torch.ones(60, 10))
    >>> gru.weight_ih_l0.sum()
    tensor(600., grad_fn=<SumBackward0>)
    """

    def __init__(self, layer: TorchLayer) -> None:
        self._layer = layer
        super().__init__(layer._weights())

    def __setitem__(self, index: SupportsIndex | slice, value: Any) -> None:
        names = self._layer._names[index]
        if isinstance(names, str):
            self._layer._set_weight(names, value)
        else:
            value = list(value)
            if len(value) != len(names):  # before the first of them is set
                kind = type(self._layer).__name__
                raise ValueError(f"expected {len(names)} of the {len(self)} parameters of this {kind}, got {len(value)}")
            for name, each in zip(names, value, strict=True):
                self._layer._set_weight(name, each)
        super().__setitem__(index, value)

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"expected the {len(self)} parameters of this {type(self._layer).__name__} to stay, got their number changed")

    append = extend = insert = remove = pop = clear = sort = reverse = __delitem__ = __iadd__ = __imul__ = _refuse

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[type, tuple[list[Any]]]:
        """A copy is a list, which sets nothing in the layer."""
        return list, (list(self),)


class TorchLayer(nn.RNNBase):
    """What a layer of torch.nn is by its name, with Elman's parameters. Abstract: a subclass has ``_names`` and runs the network."""

    _names: Any
    stack: Any
    _run: Callable[..., Any]
    _run_asking: Callable[..., Any]
    _announce_change: Callable[[], None]
    _weights: Callable[[], tuple[Any, ...]]
    _take_instead: Callable[[dict[str, Tensor]], None]
    _weights_instead: tuple[tuple[Any, ...], dict[str, Tensor]] | None

    def __init__(self) -> None:
        super(nn.RNNBase, self).__init__()  # past torch.nn's constructor, which makes parameters

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if names := bookkeeping_overridden(cls):
            raise TypeError(
                f"expected {cls.__name__} not to override {', '.join(names)}: torch.nn's layers keep a second list of parameters with it, "
                "Elman's read the parameters themselves at each call, so set those"
            )
        if overridden(cls, ASKED):
            cls._run = cls._run_asking

    @property
    def _flat_weights_names(self) -> list[str]:
        return list(self._names)

    @_flat_weights_names.setter
    def _flat_weights_names(self, names: Iterable[str]) -> None:
        self._refuse_other("_flat_weights_names", list(names))

    @property
    def _all_weights(self) -> list[list[str]]:
        tensors = self.stack.tensors_per_direction
        return [list(self._names[i : i + tensors]) for i in range(0, len(self._names), tensors)]

    @_all_weights.setter
    def _all_weights(self, names: Iterable[Iterable[str]]) -> None:
        self._refuse_other("_all_weights", [list(each) for each in names])

    @property
    def _flat_weights(self) -> list[Tensor | None]:
        return FlatWeights(self)

    @_flat_weights.setter
    def _flat_weights(self, weights: Iterable[Tensor | None]) -> None:
        FlatWeights(self)[:] = list(weights)

    @property
    def _flat_weight_refs(self) -> list[Any]:  # type: ignore[override]
        return [None if weight is None else weakref.ref(weight) for weight in self._flat_weights]

    def _set_weight(self, name: str, value: Any) -> None:
        others = {} if self._weights_instead is None else {k: v for k, v in self._weights_instead[1].items() if k != name}
        if isinstance(value, nn.Parameter) or not isinstance(value, Tensor):
            if value is not getattr(self, name, None):
                setattr(self, name, value)
            self._take_instead(others)
        elif self._parameters.get(name) is not None:
            self._take_instead({**others, name: value})
        elif not isinstance(getattr(type(self), name, None), property):  # a parametrization computes it anew for each call
            setattr(self, name, value)
            self._take_instead(others)

    def _refuse_other(self, attribute: str, names: list[Any]) -> None:
        if names != getattr(self, attribute):
            raise AttributeError(f"expected {attribute} to stay {getattr(self, attribute)}, got {names}: the kernels take these parameters")

    @property
    def all_weights(self) -> list[list[Any]]:
        """The parameters in a list for each layer and direction: w_ih, w_hh, b_ih, b_hh, w_hr, of these the ones that the layer has."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    def __setattr__(self, name: str, value: Any) -> None:
        super(nn.RNNBase, self).__setattr__(name, value)
        if name in ASKED:
            self._ask_if_set()
        if name == "forward" or name in ASKED:
            self._announce_change()
        elif self._weights_instead is not None and name in self._names:
            replaced, tensors = self._weights_instead  # torch.nn's sets one item of its list, and makes it anew if a parameter is another
            is_same = value is replaced[self._names.index(name)]
            self._take_instead({each: tensor for each, tensor in tensors.items() if is_same and each != name})

    def _ask_if_set(self) -> None:
        """Let calls ask what was set as an attribute of this object, in place of the class's method."""
        own = vars(self)
        if any(name in own for name in ASKED):
            own["_run"] = partial(type(self)._run_asking, self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super(nn.RNNBase, self).__setstate__(state)  # type: ignore[no-untyped-call]

    def _apply(self, *arguments: Any, **named: Any) -> Any:
        applied = super(nn.RNNBase, self)._apply(*arguments, **named)  # type: ignore[no-untyped-call]
        self._init_flat_weights()
        return applied

    def _replicate_for_data_parallel(self) -> Any:
        return super(nn.RNNBase, self)._replicate_for_data_parallel()  # type: ignore[no-untyped-call]

    def flatten_parameters(self) -> None:
        """Do nothing. In torch.nn's layers it lays the weights out for cuDNN."""

    def _init_flat_weights(self) -> None:
        self._take_instead({})
        self.flatten_parameters()

    def _update_flat_weights(self) -> None:
        """Do nothing: the list is never stale."""

    def _weights_have_changed(self) -> bool:
        return False
