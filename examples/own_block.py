"""An own block for the flow transformer: attention and GEGLU side by side, trained for a moment and sampled from.

    python examples/own_block.py         # writes own_block.png

It learns from samples of the shipped model, so that there is nothing to download.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from flowar import FlowAR, FlowARConfig, FlowARPipeline
from flowar.images import image_grid
from flowar.networks import AttnMLPBlock, BlockContext, ResidualStream


class ParallelBlock(AttnMLPBlock):
    """Both branches read one modulated norm, as in GPT-J and ViT-22B:

    h = norm(x) * (1 + scale) + shift
    x += gate1 * Attention(h) + gate2 * GEGLU(h)
    """

    def __init__(self, width: int, heads: int, condition_width: int, qk_norm: bool) -> None:
        super().__init__(width, heads, condition_width, qk_norm)
        self.position_modulation = nn.Linear(width, 4 * width)
        nn.init.zeros_(self.position_modulation.weight)  # closed gates: the block starts as the identity
        nn.init.zeros_(self.position_modulation.bias)

    def forward(
        self, stream: ResidualStream, context: BlockContext, rotation: Tensor, lengths: Sequence[int]
    ) -> ResidualStream:
        gate1, gate2, scale, shift = context.by_position.chunk(4, -1)  # [B, N, W] each
        stream, h = stream.modulated(scale, shift)
        stream = stream.add(gate1, self.attn(h, rotation, lengths))
        return stream.add(gate2, self.mlp(h))


def parallel_model(config: FlowARConfig) -> FlowAR:
    """A new model whose flow transformer is made of such blocks."""
    model, flow = FlowAR(config), nn.ModuleList()
    for _ in range(config.flow_depth):
        flow.append(ParallelBlock(config.flow_width, config.flow_heads, config.ar_width, config.qk_norm))
    model.flow_transformer.blocks = flow
    return model


def main(steps: int = 25) -> None:
    torch.manual_seed(0)
    shipped = FlowARPipeline.from_pretrained("flowar-fashion")
    labels = torch.arange(10).repeat(2)
    latents = shipped.sample(labels, schedule="draft")  # [20, 4, 7, 7]

    small = {"ar_width": 64, "ar_depth": 2, "ar_heads": 2, "flow_width": 64, "flow_depth": 2, "flow_heads": 2}
    model = parallel_model(replace(shipped.model.config, **small))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(steps):
        loss = model.loss(latents, labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in (0, steps - 1):
            print(f"step {step + 1}: loss {loss:.3f}")

    images = FlowARPipeline(model.eval(), shipped.tokenizer)(list(range(10)), schedule="draft").images
    image_grid(images, columns=10).save("own_block.png")


if __name__ == "__main__":
    main()
