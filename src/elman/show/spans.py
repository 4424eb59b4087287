"""Finds out which steps of a batch's rows are run and where each row ends, and checks it on the numbers of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from elman.show.alone import run
from elman.show.facts import End, Row, Spans
from elman.show.places import rounding
from elman.show.tensors import directions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from elman.show.spec import Spec

# Of a state so many numbers are listed.
MOST_NUMBERS = 8


class _Run(NamedTuple):
    """A network and what it made of its data, steps first: x, output (T, B, ...), the top layer's final states (D, B, H), last (B, D·H)."""

    network: nn.Module
    x: Tensor
    output: Tensor
    finals: Tensor
    last: Tensor
    backend: str


def study_spans(spec: Spec, lengths: tuple[int, ...] | None, reset: Sequence[tuple[int | None, int]]) -> Spans:
    """Run the network on rows of these lengths with these resets, and tell what is run of each row and where it ends.

    >>> from elman.show.spec import Spec
    >>> spans = study_spans(Spec("rnn", 10, 20), lengths=(5, 3, 0), reset=[(None, 2)])
    >>> spans.rows[1].pieces, spans.rows[1].padding, spans.rows[1].ends[0].state, spans.rows[1].ends[0].where
    (((0, 1), (2, 2)), 'output[3:, 1]', 'h_n[0, 1]', 'output[2, 1]')

    Args:
        spec: the network and its data.
        lengths: one for each row of the batch; None: every row has all steps.
        reset: rows, and the steps at which a fresh sequence begins in them; None for the row stands for all rows.

    Raises:
        ValueError: not one length for each row, or a length, a step or a row that the data does not have.
    """
    _check(spec, lengths, reset)
    cuts = tuple(sorted({(row, step) for at, step in reset for row in (range(spec.batch) if at is None else (at,))}))
    ran = _run(spec, lengths, cuts)
    return Spans(
        spec=spec,
        lengths=lengths,
        reset=cuts,
        code=_lines(spec, lengths, reset),
        rows=tuple(_row(spec, row, spec.seq_len if lengths is None else lengths[row], cuts, ran) for row in range(spec.batch)),
        backend=ran.backend,
    )


def _run(spec: Spec, lengths: tuple[int, ...] | None, cuts: Sequence[tuple[int, int]]) -> _Run:
    import torch

    import elman

    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        network = spec.build(getattr(elman, spec.about.module))
        x = spec.data()
        reset = torch.zeros(spec.batch, spec.seq_len, dtype=torch.bool)
        for cut in cuts:
            reset[cut] = True
        rows = None if lengths is None else list(lengths)
        mask = None if not cuts else reset if spec.batch_first else reset.t()
        told, backend = network.trace(x, lengths=rows, reset=mask), elman.why(network, x, lengths=rows, reset=mask)
    h_n = told.final[0] if isinstance(told.final, tuple) else told.final
    x, output = ((each.transpose(0, 1) if spec.batch_first else each) for each in (x, told.output))
    return _Run(network, x, output, h_n[-spec.num_directions :], told.last, backend)


def _row(spec: Spec, row: int, length: int, cuts: Sequence[tuple[int, int]], ran: _Run) -> Row:
    begins = sorted({0, *(step for at, step in cuts if at == row)})
    begins = [step for step in begins if step < length]
    pieces = tuple((first, after - 1) for first, after in zip(begins, [*begins[1:], length], strict=False))
    return Row(
        row=row,
        length=length,
        pieces=pieces,
        padding=None if length == spec.seq_len else _code(spec, f"{length or ''}:", row),
        padding_is_zero=not ran.output[length:, row].any(),
        ends=tuple(_end(spec, row, direction, pieces, ran) for direction in directions(spec)),
    )


def _end(spec: Spec, row: int, direction: str, pieces: Sequence[tuple[int, int]], ran: _Run) -> End:
    """The forward direction ends with the last piece, at its last step; the reverse direction with the first one, at its first."""
    side = directions(spec).index(direction)
    half = slice(side * spec.output_units, (side + 1) * spec.output_units)
    columns = "" if not spec.bidirectional else f", :{half.stop}" if side == 0 else f", {half.start}:"
    state = ran.finals[side, row]
    piece = None if not pieces else pieces[-1] if direction == "forward" else pieces[0]
    if piece is None:
        where, found, alone = None, state, state.new_zeros(state.shape)
    else:
        step = piece[1] if direction == "forward" else piece[0]
        where, found = _code(spec, step, row, columns), ran.output[step, row, half]
        alone = _alone(spec, side, ran.x[piece[0] : piece[1] + 1, row : row + 1], ran.network)
    difference = float((state - alone).abs().max())
    return End(
        direction=direction,
        state=f"h_n[{(spec.num_layers - 1) * spec.num_directions + side}, {row}]",
        last=f"last[{row}{columns}]",
        where=where,
        piece=piece,
        holds=state.equal(found) and state.equal(ran.last[row, half]) and difference <= rounding(spec, state),
        difference=difference,
        numbers=tuple(state[:MOST_NUMBERS].tolist()),
    )


def _alone(spec: Spec, side: int, piece: Tensor, network: nn.Module) -> Tensor:
    """The top layer's final state in one direction after a piece, (T, 1, I), that is run by itself."""
    import torch

    with torch.no_grad():
        _, finals = run(network, piece.transpose(0, 1) if spec.batch_first else piece)
    return finals[0][side - spec.num_directions, 0]


def _code(spec: Spec, step: int | str, row: int, columns: str = "") -> str:
    return f"output[{row}, {step}{columns}]" if spec.batch_first else f"output[{step}, {row}{columns}]"


def _lines(spec: Spec, lengths: tuple[int, ...] | None, reset: Sequence[tuple[int | None, int]]) -> tuple[str, ...]:
    """The lines that make this network and run it so: typed in after ``import elman, torch`` they give the very numbers shown."""
    *lines, call = spec.code
    given = ""
    if lengths is not None:
        lines.append(f"lengths = {list(lengths)}")
        given += ", lengths=lengths"
    if reset:
        sizes = f"{spec.batch}, {spec.seq_len}" if spec.batch_first else f"{spec.seq_len}, {spec.batch}"
        lines.append(f"reset = torch.zeros({sizes}, dtype=torch.bool)")
        for row, step in reset:
            at = (":" if row is None else row, step)
            lines.append("reset[{}, {}] = True".format(*(at if spec.batch_first else reversed(at))))
        given += ", reset=reset"
    return (*lines, call.replace("(x)", f"(x{given})"), f"last = {spec.kind}.trace(x{given}).last")


def _check(spec: Spec, lengths: tuple[int, ...] | None, reset: Sequence[tuple[int | None, int]]) -> None:
    if lengths is not None and len(lengths) != spec.batch:
        raise ValueError(f"lengths must be one for each row of the batch, {spec.batch}, got {len(lengths)}")
    for length in lengths or ():
        if not 0 <= length <= spec.seq_len:
            raise ValueError(f"a length must be between 0 and the number of steps, {spec.seq_len}, got {length}")
    for row, step in reset:
        if not 0 <= step < spec.seq_len:
            raise ValueError(f"a reset must be at a step between 0 and {spec.seq_len - 1}, got {step}")
        if row is not None and not 0 <= row < spec.batch:
            raise ValueError(f"a reset must be in a row between 0 and {spec.batch - 1}, got {row}")
