from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from flowar.ops import backend, reference

_forward = backend.op("latent_pyramid")


@backend.defined_by(reference.latent_pyramid)
def latent_pyramid(latents: Tensor, rows: Sequence[Tensor], columns: Sequence[Tensor]) -> Tensor:
    """`latent_resample` of one grid by many operators at once. Equivalent to `reference.latent_pyramid`.

    Args:
        latents: [B, C, h, w], floating. It has no gradient: latents are data.
        rows: up to 32 matrices [h_i, h], floating; their zeros are skipped.
        columns: as many matrices [w_i, w], likewise.

    Returns:
        Contiguous tokens [B, sum(h_i * w_i), C] of the dtype of `latents`; matrices and sums are float32 (float64 for
        float64), rounded once.

    Raises:
        ValueError: the matrices do not fit the grid or each other, or a dtype is not floating.
    """
    result: Tensor = _forward(latents, rows, columns)
    return result


def _fake(latents: Tensor, rows: Sequence[Tensor], columns: Sequence[Tensor]) -> Tensor:
    tokens = sum(r.shape[0] * c.shape[0] for r, c in zip(rows, columns, strict=True))
    return latents.new_empty((latents.shape[0], tokens, latents.shape[1]))


backend.register_fake("latent_pyramid", _fake)
