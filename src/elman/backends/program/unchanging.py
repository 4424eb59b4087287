"""Kinds of objects that do not change inside."""

from __future__ import annotations

import datetime
import decimal
import functools
import io
import logging
import operator
import re
import threading
import types

import numpy as np
import torch

CONSTANT = (
    int,
    float,
    str,
    bool,
    type(None),
    complex,
    bytes,
    torch.dtype,
    torch.device,
    types.CodeType,
    types.ModuleType,  # the names that a step asks of it are followed
)
# What of others' classes does not change, or not what comes of it.
UNCHANGING = frozenset(
    (
        *(datetime.date, datetime.datetime, datetime.timedelta, decimal.Decimal, functools._lru_cache_wrapper, io.TextIOWrapper),
        *(logging.Logger, np.ufunc, operator.attrgetter, operator.itemgetter, operator.methodcaller, range, re.Pattern, slice),
        *(torch.Generator, torch.Size, torch.finfo, torch.iinfo, torch.layout, torch.memory_format, torch._ops.OpOverload),
        *(torch._ops.OpOverloadPacket, type(threading.Lock()), types.EllipsisType, types.GenericAlias, types.NotImplementedType),
        *(types.UnionType,),
    )
)
