"""Recurrent cells from the literature, for ``elman.Recurrent`` and ``elman.RecurrentCell``.

>>> import elman, torch
>>> net = elman.Recurrent(elman.zoo.MGU(), 10, 20, num_layers=2, bidirectional=True)
>>> output, h_n = net(torch.randn(5, 3, 10), lengths=[5, 2, 4])

A constructor raises a TypeError if a number, a flag or a cell is of another type, and a ValueError if a number is out of range or a choice
unknown. ``dt``, a step input of CfC, GRUD and PhasedLSTM, has the shape (T, B), in any unit of time.
"""

from elman.zoo.antisymmetric_rnn import AntisymmetricRNN, antisymmetric
from elman.zoo.cfc import CfC
from elman.zoo.cornn import CoRNN
from elman.zoo.coupled_lstm import CoupledLSTM
from elman.zoo.fast_grnn import FastGRNN
from elman.zoo.gru2014 import GRU2014
from elman.zoo.grud import GRUD, GRUDInput
from elman.zoo.indrnn import IndRNN
from elman.zoo.janet import JANET
from elman.zoo.layer_norm_gru import LayerNormGRU
from elman.zoo.layer_norm_lstm import LayerNormLSTM
from elman.zoo.leaky_rnn import LeakyRNN
from elman.zoo.ligru import LiGRU
from elman.zoo.mgu import MGU
from elman.zoo.min_gru import MinGRU
from elman.zoo.min_lstm import MinLSTM
from elman.zoo.peephole_lstm import PeepholeLSTM
from elman.zoo.phased_lstm import PhasedLSTM
from elman.zoo.slstm import SLSTM
from elman.zoo.sru import SRU
from elman.zoo.star import STAR
from elman.zoo.ugrnn import UGRNN

CELLS = (
    PeepholeLSTM,
    CoupledLSTM,
    LayerNormLSTM,
    LayerNormGRU,
    GRU2014,
    MGU,
    MinGRU,
    MinLSTM,
    IndRNN,
    LeakyRNN,
    UGRNN,
    SRU,
    LiGRU,
    JANET,
    STAR,
    FastGRNN,
    AntisymmetricRNN,
    CoRNN,
    SLSTM,
    CfC,
    GRUD,
    PhasedLSTM,
)
"""All of them, in the order of the documentation."""

__all__ = ["CELLS", "GRUDInput", "antisymmetric", *sorted(cell.__name__ for cell in CELLS)]


def __dir__() -> list[str]:
    """The cells, not the modules that they are in: what a tab completes, and what Python suggests for a name that is not there."""
    return __all__
