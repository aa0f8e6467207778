from __future__ import annotations

from typing import Any

from torch import Tensor

from flowar.ops import backend, reference

_forward = backend.op("latent_resample")


@backend.defined_by(reference.latent_resample)
def latent_resample(tokens: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Apply a separable linear operator to a grid of tokens. Equivalent to `reference.latent_resample`.

    Args:
        tokens: [B, h * w, C] row-major, floating. Read in place where the tokens of an image are adjacent.
        rows: [h', h], floating; its zeros are skipped. It has no gradient.
        columns: [w', w], likewise.

    Returns:
        Contiguous [B, h' * w', C] of the dtype of `tokens`; matrices and sums are float32 (float64 for float64),
        rounded once.

    Raises:
        ValueError: `tokens` has not h * w tokens, a matrix is no matrix, or a dtype is not floating.
    """
    result: Tensor = _forward(tokens, rows, columns)
    return result


def _fake(tokens: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return tokens.new_empty((tokens.shape[0], rows.shape[0] * columns.shape[0], tokens.shape[2]))


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    rows, columns = ctx.saved_tensors
    return _forward(grad, rows.t(), columns.t()), None, None


backend.register_fake("latent_resample", _fake)
backend.register_autograd("latent_resample", _autograd, _setup_context)
