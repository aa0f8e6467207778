"""How much a variant trains and is judged by: the same for all of a budget."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flowar import FlowARConfig
from flowar.training.config import OptimConfig


@dataclass(frozen=True)
class Budget:
    """One scale of the experiments.

    Attributes:
        images: of the training split, the first so many.
        steps, batch_size, lr: of AdamW.
        width: of both transformers.
        ar_depth, ar_heads, flow_depth, flow_heads: of them.
        samples: that a model is judged by.
        inference_steps: of every scale, where the experiment does not vary them.
        tokenizer_steps: of the tokenizers that the experiments train.
        guidance_scale: of every sample.
        seeds: of weights, data order and noise; each gives a row.
    """

    images: int
    steps: int
    batch_size: int
    lr: float
    width: int
    ar_depth: int
    ar_heads: int
    flow_depth: int
    flow_heads: int
    samples: int
    inference_steps: int
    tokenizer_steps: int
    guidance_scale: float = 2.0
    seeds: tuple[int, ...] = (0, 1, 2)

    def config(self) -> FlowARConfig:
        """The base model: Fashion-MNIST on a 7x7 grid, scales doubling."""
        return FlowARConfig(
            latent_size=7,
            num_classes=10,
            ar_width=self.width,
            ar_depth=self.ar_depth,
            ar_heads=self.ar_heads,
            flow_width=self.width,
            flow_depth=self.flow_depth,
            flow_heads=self.flow_heads,
            dropout=0.0,
            num_inference_steps=self.inference_steps,
            guidance_scale=self.guidance_scale,
        )

    def optim(self) -> OptimConfig:
        """AdamW: a tenth of the steps warm up; the average forgets what is a tenth of the run ago."""
        tenth = max(1, self.steps // 10)
        return OptimConfig(
            batch_size=self.batch_size,
            steps=self.steps,
            lr=self.lr,
            warmup_steps=tenth,
            ema_decays=(1 - 1 / (tenth + 1),),
        )


SMALL = Budget(
    images=20_000,
    steps=1000,
    batch_size=32,
    lr=2e-3,
    width=64,
    ar_depth=4,
    ar_heads=4,
    flow_depth=2,
    flow_heads=2,
    samples=1000,
    inference_steps=10,
    tokenizer_steps=1000,
)
BUDGETS = {
    "small": SMALL,
    "gpu": replace(
        SMALL,
        images=60_000,
        steps=1200,
        batch_size=256,
        lr=1e-3,
        width=128,
        samples=5000,
        inference_steps=25,
        tokenizer_steps=3000,
    ),
}
