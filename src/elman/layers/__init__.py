"""The modules: parameters, shapes, errors."""

from elman.layers.gru import GRU, GRUCell
from elman.layers.lstm import LSTM, LSTMCell
from elman.layers.recurrent import Recurrent
from elman.layers.rnn import RNN, RNNCell
from elman.layers.single_step import RecurrentCell
from elman.layers.why import why

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell", "Recurrent", "RecurrentCell", "why"]
