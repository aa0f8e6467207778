"""Whether a loss and its gradient are those of the published algorithm: nothing else is worth timing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from agreement import ERROR_RATIO, Disagreement
from naive_training import Batch, NaiveTraining
from torch import Tensor
from training_variants import Variant

from flowar import FlowAR
from flowar.system.precision import PRECISIONS, Precision

FLOAT32_TOLERANCE = 1e-4  # of the gradient's error, relative to its size
LOSS_TOLERANCE = {"float32": 1e-5}  # relative
LOW_PRECISION_LOSS_TOLERANCE = 1e-2


class Expected:
    """The published loss and gradient of one batch, in float32, without dropout."""

    def __init__(self, model: FlowAR, batch: Batch) -> None:
        self.model, self.batch = model, batch
        self.naive = NaiveTraining(model).loss
        self.loss, self.gradient = self.gradient_of(Variant(self.naive, PRECISIONS["float32"]))
        self.allowed: dict[Precision, float] = {PRECISIONS["float32"]: FLOAT32_TOLERANCE}

    def check(self, variant: Variant) -> str:
        """How well a variant agrees: in float32 to its rounding, otherwise about as well as the naive one does.

        Raises:
            Disagreement: if not well enough.
        """
        if variant.precision not in self.allowed:
            naive = self.gradient_of(Variant(self.naive, variant.precision))[1]
            self.allowed[variant.precision] = ERROR_RATIO * self.error(naive)
        loss, gradient = self.gradient_of(variant)
        loss_error, error = abs(loss - self.loss) / abs(self.loss), self.error(gradient)
        allowed = self.allowed[variant.precision]
        loss_allowed = LOSS_TOLERANCE.get(variant.precision.name, LOW_PRECISION_LOSS_TOLERANCE)
        verdict = f"loss off by {loss_error:.1e}, gradient by {error:.1e}"
        if not (loss_error <= loss_allowed and error <= allowed):
            raise Disagreement(f"{verdict}, expected at most {loss_allowed:.0e} and {allowed:.1e}")
        return verdict

    def gradient_of(self, variant: Variant) -> tuple[float, list[Tensor]]:
        """Loss and gradient; the model has none afterwards."""
        self.model.train().zero_grad(set_to_none=True)
        with without_dropout(self.model):
            loss = float(variant.backward(self.batch))
        gradient = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        self.model.zero_grad(set_to_none=True)
        if len(gradient) < len(list(self.model.parameters())):
            raise Disagreement("expected a gradient of every parameter")
        return loss, gradient

    def error(self, gradient: Sequence[Tensor]) -> float:
        """The size of the difference over that of the gradient, all parameters together."""
        differences = torch._foreach_sub(gradient, self.gradient)
        norms = (torch.stack(torch._foreach_norm(tensors)).norm() for tensors in (differences, self.gradient))
        difference, size = norms
        return float(difference / size)


@contextmanager
def without_dropout(model: FlowAR) -> Iterator[None]:
    """In training mode, in which checkpointing acts."""
    layers = [block.attn for block in model.ar_transformer.blocks]
    rates = [layer.dropout for layer in layers]
    for layer in layers:
        layer.dropout = 0.0
    try:
        yield
    finally:
        for layer, rate in zip(layers, rates, strict=True):
            layer.dropout = rate
