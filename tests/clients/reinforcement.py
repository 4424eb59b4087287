"""sb3-contrib: recurrent PPO, whose policy holds LSTMs, steps an environment and learns from what it saw.

requires: sb3-contrib
"""

from __future__ import annotations

import numpy as np
import torch
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from swap import check, recurrent
from torch import nn

import elman


def agent() -> RecurrentPPO:
    return RecurrentPPO("MlpLstmPolicy", "CartPole-v1", n_steps=64, batch_size=16, n_epochs=2, seed=0, device="cpu")


def evaluate(policy: nn.Module) -> tuple[torch.Tensor, ...]:
    observations, starts = torch.randn(12, 4), torch.tensor([1.0, 0, 0, 1, 0, 0] * 2)
    layers, _, width = policy.lstm_hidden_state_shape
    states = tuple(torch.zeros(layers, 2, width) for _ in range(2))
    return policy.evaluate_actions(observations, torch.zeros(12), RNNStates(states, states), starts)[:2]


check("sb3-contrib", lambda: agent().policy, evaluate)

# What it saw and thought in its first 64 steps; then it learns from it. Two trainings drift apart, since Adam divides by tiny gradients.
with_torch = agent()
with elman.patched():
    with_elman = agent()
assert all(isinstance(module, elman.LSTM) for module in recurrent(with_elman.policy))
seen = []
for each in (with_torch, with_elman):
    torch.manual_seed(0)  # which action is drawn
    seen.append(each.learn(64).rollout_buffer)
assert np.array_equal(seen[0].actions, seen[1].actions)
for name in ("values", "log_probs", "hidden_states_pi", "cell_states_pi"):
    np.testing.assert_allclose(getattr(seen[0], name), getattr(seen[1], name), rtol=1e-4, atol=1e-5)
print("sb3-contrib: 64 steps in an environment, the same; then trained")
