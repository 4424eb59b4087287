"""The processes that train together: this one alone, or those that ``torchrun`` has started, by Lightning's Fabric.

Each runs its share of the streams. Fabric's DDP averages the gradients, so that all take the step that one process would take with all of
them. What else there is to do (evaluate, print, write) is the first process's.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, TypeVar, cast

from torch import distributed

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

T = TypeVar("T")


class OneProcess:
    """This process alone. It has those of Fabric's methods that a training calls, so that it needs no Fabric."""

    world_size, global_rank = 1, 0

    def setup(self, model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """The two as they take part."""
        return model, optimizer

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of the mean of all processes' losses."""
        loss.backward()  # type: ignore[no-untyped-call]

    def all_reduce(self, number: Tensor) -> Tensor:
        """The mean of what all processes give."""
        return number

    def all_gather(self, given: Tensor) -> Tensor:
        """What all processes give, along a new first axis."""
        return given.unsqueeze(0)

    def broadcast(self, given: T) -> T:
        """What the first process gives."""
        return given


def started() -> OneProcess:
    """Those that torchrun has started, of which this is one, once they are connected; this one without torchrun.

    Raises:
        RuntimeError: there are several, and Fabric is not installed.
    """
    if not (distributed.is_available() and distributed.is_torchelastic_launched()) or (count := int(os.environ["WORLD_SIZE"])) == 1:
        return OneProcess()
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise RuntimeError(
            f"training in {count} processes needs lightning-fabric, which is not installed: pip install lightning-fabric"
        ) from error
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it would print who is who
    fabric = Fabric(accelerator="cpu", strategy="ddp", devices=on_this_machine(), num_nodes=count // on_this_machine())
    fabric.launch()
    return cast("OneProcess", fabric)


def on_this_machine() -> int:
    """How many of the processes there are here."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
