"""Whether latents are those of the published algorithm: nothing else is worth timing."""

from __future__ import annotations

from dataclasses import dataclass

import samplers
import torch
from torch import Tensor

from flowar import FlowAR, Schedule

FLOAT32_TOLERANCE = 1e-4  # largest difference, relative to the standard deviation
ERROR_RATIO = 1.5  # in low precision: of a variant's error to that of naive autocast, both against naive float32
CHECKED_IMAGES = 2  # the first of every batch: image i does not depend on its neighbours


class Disagreement(Exception):
    """Latents that are not those of the published algorithm."""


@dataclass(frozen=True)
class Expected:
    """What the latents of the first images of every batch must be close to.

    Attributes:
        dtype: that is checked.
        naive: [N, c, h, w], of the naive sampler in this dtype,
        truth: and in float32.
    """

    dtype: torch.dtype
    naive: Tensor
    truth: Tensor

    @staticmethod
    def of(model: FlowAR, schedule: Schedule, dtype: torch.dtype) -> Expected:
        naive = samplers.naive(model, schedule, dtype)(CHECKED_IMAGES)
        exact = dtype == torch.float32
        return Expected(
            dtype, naive, naive if exact else samplers.naive(model, schedule, torch.float32)(CHECKED_IMAGES)
        )

    def check(self, latents: Tensor) -> str:
        """How well latents [B, c, h, w] agree.

        In float32 they must be the same numbers, to its rounding. In low precision both have rounded differently, so
        each is compared with the naive sampler in float32.

        Raises:
            Disagreement: if not well enough.
        """
        latents = latents[:CHECKED_IMAGES]
        naive, truth = self.naive[: len(latents)], self.truth[: len(latents)]
        if not bool(torch.isfinite(latents).all()):
            raise Disagreement("expected finite numbers")
        if self.dtype == torch.float32:
            error, allowed = float((latents - naive).abs().max() / naive.std()), FLOAT32_TOLERANCE
            verdict = f"largest difference {error:.1e} of the standard deviation"
        else:
            error, autocast = (float((each - truth).square().mean().sqrt() / truth.std()) for each in (latents, naive))
            allowed = ERROR_RATIO * autocast
            verdict = f"error {error:.1e} against {autocast:.1e} of naive autocast"
        if error > allowed:
            raise Disagreement(f"{verdict}, expected at most {allowed:.1e}")
        return verdict
