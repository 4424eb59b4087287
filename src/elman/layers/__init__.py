"""The modules: parameters, shapes, errors."""

from elman.layers.gru import GRU, GRUCell
from elman.layers.lstm import LSTM, LSTMCell
from elman.layers.rnn import RNN, RNNCell
from elman.layers.why import why

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell", "why"]
