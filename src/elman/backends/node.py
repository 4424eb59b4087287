"""What all of Elman's nodes in torch's graph have in common."""

from __future__ import annotations

import torch


class Node(torch.autograd.Function):
    """A node of torch's graph, which as torch's own is none in inference mode, even where gradients are enabled."""

    @classmethod
    def apply(cls, *given):  # type: ignore[no-untyped-def]
        if torch.is_inference_mode_enabled():
            with torch.no_grad():
                return super().apply(*given)  # type: ignore[no-untyped-call]
        return super().apply(*given)  # type: ignore[no-untyped-call]


def may_keep() -> bool:
    """Whether a node may keep results for its gradient, besides what torch saves for it.

    Not where hooks decide what is saved: torch.utils.checkpoint's, save_on_cpu's, a user's own. Nor in inference mode, where no gradient
    follows, and torch counts no writes.
    """
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is None and not torch.is_inference_mode_enabled()
