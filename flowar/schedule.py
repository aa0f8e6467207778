"""When the ODE of each scale is evaluated, and how strongly guidance acts there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Schedule:
    """Times of the ODE (1 is noise, 0 is data) and the guidance that goes with them.

    Attributes:
        times: strictly decreasing from 1 to 0; a step goes from each to the next.
        guidance_scale: w at the last scale; scale k of K is guided by `1 + (w - 1) k / (K - 1)`.
        guidance_interval: guidance acts where low <= t <= high, t at the start of the step.

    Raises:
        ValueError: for times, scale or interval out of range, naming what was expected and what came.
    """

    times: Sequence[float]
    guidance_scale: float = 1.0
    guidance_interval: Sequence[float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", tuple(float(t) for t in self.times))
        object.__setattr__(self, "guidance_interval", tuple(float(t) for t in self.guidance_interval))
        decreasing = all(a > b for a, b in zip(self.times, self.times[1:], strict=False))
        if len(self.times) < 2 or not decreasing or self.times[0] != 1 or self.times[-1] != 0:
            raise ValueError(f"times: expected strictly decreasing values from 1 to 0, got {self.times}")
        if not 0 <= self.guidance_scale < float("inf"):
            raise ValueError(f"guidance_scale: expected a finite number >= 0, got {self.guidance_scale}")
        interval = self.guidance_interval
        if len(interval) != 2 or not 0 <= interval[0] <= interval[1] <= 1:
            raise ValueError(f"guidance_interval: expected 0 <= low <= high <= 1, got {interval}")

    @staticmethod
    def published(
        num_inference_steps: int, guidance_scale: float, guidance_interval: Sequence[float] = (0.0, 1.0)
    ) -> Schedule:
        """The authors' time grids: 25 "steps" are 24 evaluations, denser near the data; any other number is uniform.

        Raises:
            ValueError: unless `num_inference_steps` is a positive integer.
        """
        if not isinstance(num_inference_steps, int) or num_inference_steps < 1:
            raise ValueError(f"num_inference_steps: expected a positive integer, got {num_inference_steps!r}")
        # In float64: floor(1000 t) of the time embedding tells 0.98 from its float32 neighbour below.
        if num_inference_steps == 25:
            times = np.concatenate((np.linspace(1, 0.3, 12), np.linspace(0.25, 0, 13)))
        else:
            times = np.linspace(1, 0, num_inference_steps + 1)
        return Schedule(times.tolist(), guidance_scale, guidance_interval)

    def guidance_weights(self, scale: int, num_scales: int) -> list[float]:
        """The weight of every step at one scale; 1 means that guidance does nothing there."""
        growth = scale / (num_scales - 1) if num_scales > 1 else 1.0
        weight = 1 + (self.guidance_scale - 1) * growth
        low, high = self.guidance_interval
        return [weight if low <= t <= high else 1.0 for t in self.times[:-1]]
