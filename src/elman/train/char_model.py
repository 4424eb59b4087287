"""The model: reads characters, says how likely each next one is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from elman import RNN, Recurrent

if TYPE_CHECKING:
    from elman import Cell

VOCABULARY = 256
"""Characters are bytes: every text can be read, none needs a table of its own."""


class CharModel(nn.Module):
    """An embedding, a recurrent network and a linear head, nothing else.

    >>> import torch
    >>> model = CharModel(hidden_size=32)
    >>> text = torch.frombuffer(bytearray(b"def f(x):"), dtype=torch.uint8).long()
    >>> logits, state = model(text[:, None])
    >>> logits.shape, state.shape
    (torch.Size([9, 1, 256]), torch.Size([2, 1, 32]))

    Args:
        embedding_size: numbers by which a character is described to the network.
        hidden_size: hidden units in each layer.
        num_layers: layers of the network.
        cell: what it is a network of; by default an Elman network (tanh).
    """

    rnn: Recurrent[Any]

    def __init__(self, embedding_size: int = 64, hidden_size: int = 256, num_layers: int = 2, cell: Cell | None = None) -> None:
        super().__init__()
        self.sizes = {"embedding_size": embedding_size, "hidden_size": hidden_size, "num_layers": num_layers}
        self.embedding = nn.Embedding(VOCABULARY, embedding_size)
        self.cell = cell
        self.rnn = (
            RNN(embedding_size, hidden_size, num_layers) if cell is None else Recurrent(cell, embedding_size, hidden_size, num_layers)
        )
        self.head = nn.Linear(hidden_size, VOCABULARY)
        for name, parameter in self.rnn.named_parameters():
            if name.startswith("weight_hh") and cell is None:  # another cell has initial values of its own
                nn.init.orthogonal_(parameter)

    @property
    def numbers_per_character(self) -> int:
        """How many numbers the model works out for a character: embedding, hidden units of every layer, scores and their logarithms."""
        return self.sizes["embedding_size"] + self.sizes["hidden_size"] * self.sizes["num_layers"] + 2 * VOCABULARY

    @staticmethod
    def count_parameters(embedding_size: int, hidden_size: int, num_layers: int, cell: Cell | None = None) -> int:
        """How many numbers such a model's weights are, without making it.

        >>> CharModel.count_parameters(8, 16, 2) == sum(weight.numel() for weight in CharModel(8, 16, 2).parameters())
        True
        """
        around = VOCABULARY * embedding_size + VOCABULARY * (hidden_size + 1)
        if cell is not None:
            rnn = Recurrent(cell, embedding_size, hidden_size, num_layers, device="meta")
            return around + sum(parameter.numel() for parameter in rnn.parameters())
        layer = hidden_size * (hidden_size + 2)
        return around + num_layers * layer + hidden_size * (embedding_size + (num_layers - 1) * hidden_size)

    def forward(self, characters: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """The scores of what comes after each character.

        Args:
            characters: (T, B) of integers below 256.
            state: (L, B, H), the state that an earlier call returned; None for a text's beginning.

        Returns:
            The logits (T, B, 256) and the state after the last character, (L, B, H).
        """
        output, state = self.hidden(characters, state)
        return self.head(output), state

    def hidden(self, characters: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """What the head sees: the last layer's hidden units after each character, (T, B, H), and the last state, (L, B, H)."""
        output, state = self.rnn(self.embedding(characters.long()), state)
        return output, state
