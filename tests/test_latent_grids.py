"""Latent grids that are no squares of 16: rectangles, and 32x32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import error, small_model
from PIL import Image
from test_data import write_class_folders
from test_flops import counted_flops
from torch import Tensor

from flowar import FlowAR, FlowARConfig, FlowARPipeline, Schedule, ops
from flowar.cli import main
from flowar.config import Grid
from flowar.data.transforms import to_tensor
from flowar.doctor.memory import transformer_bytes
from flowar.editing.edits import super_resolve, vary
from flowar.errors import DataError
from flowar.networks.attention import rotation_table
from flowar.networks.flops import published_flops, training_flops
from flowar.sampling.noise import scale_noise
from flowar.sampling.solvers import SOLVERS
from flowar.show.neighbours import neighbours_picture, open_training_images, pixels
from flowar.tokenizers.pixel import PixelTokenizer

BLOCKS = ["attn_mlp", "attn_cross_mlp"]
RECTANGLES: list[tuple[Grid, Any]] = [
    ((4, 8), None),
    ((3, 5), None),
    ((8, 2), None),
    ((1, 6), None),
    ((6, 9), [1, [2, 3], [6, 9]]),
    ((8, 4), [1, [3, 1], [3, 4], [8, 4]]),
]


def model_of(size: int | Grid, scales: Any = None, **fields: Any) -> FlowAR:
    return small_model(latent_size=size, scales=scales, **fields)


@pytest.mark.parametrize("flow_block", BLOCKS)
@pytest.mark.parametrize(("size", "scales"), RECTANGLES)
def test_engine_equals_naive(size: Grid, scales: Any, flow_block: Any) -> None:
    """Under three schedules, with guidance that changes over scales and times."""
    model = model_of(size, scales, flow_block=flow_block, qk_norm=size[0] > size[1])
    solvers = [[*SOLVERS][k % len(SOLVERS)] for k in range(len(model.config.grids))]
    schedules = [
        Schedule.published(4, 3.0, (0.0, 0.7)),
        Schedule([1, 0.6, 0.3, 0], 2.0, (0.1, 0.9), "cosine", solvers),
        model.schedule(base="draft"),
    ]
    for schedule in schedules:
        naive, engine = (model.sample([0, 3, 4], schedule=schedule, naive=naive) for naive in (True, False))
        assert naive.shape == (3, 4, *size)
        assert error(engine, naive) < 1e-4


def turned(model: FlowAR) -> FlowAR:
    """The model for transposed images: tables of positions transposed, and in each head of q and k the channels that
    turn with the row exchanged with those that turn with the column."""
    config, (height, width) = model.config, model.config.grid
    other = model_of((width, height), [grid[::-1] for grid in config.grids], flow_block=config.flow_block)
    weights = model.state_dict()
    for name, weight in weights.items():
        heads = config.ar_heads if name.startswith("ar_") else config.flow_heads
        assert heads is not None
        if name.endswith("_positions"):
            weights[name] = transposed(weight, config.grids)
        elif ".attn.qkv." in name or ".cross.q." in name or ".cross.kv." in name:
            rotated = 2 if ".attn." in name else 1  # q and k, or one of them; the values stay
            parts = 3 if ".attn." in name else 1 if ".q." in name else 2
            halves = weight.unflatten(0, (parts, heads, 2, -1)).clone()
            halves[:rotated] = halves[:rotated].flip(2)
            weights[name] = halves.flatten(0, 3)
    other.load_state_dict(weights)
    return other


def transposed(tokens: Tensor, grids: tuple[Grid, ...]) -> Tensor:
    """Tokens [B, S, C] of all scales with rows and columns exchanged."""
    parts = tokens.split([height * width for height, width in grids], 1)
    pairs = zip(parts, grids, strict=True)
    return torch.cat([part.unflatten(1, grid).transpose(1, 2).flatten(1, 2) for part, grid in pairs], 1)


@pytest.mark.parametrize("flow_block", BLOCKS)
@pytest.mark.parametrize(("size", "scales"), RECTANGLES[:3] + RECTANGLES[-1:])
def test_the_turned_model_draws_turned_latents(size: Grid, scales: Any, flow_block: Any) -> None:
    """No part takes rows for columns: not the pyramid, nor positions, nor rotations, nor the way back to a grid."""
    model = model_of(size, scales, flow_block=flow_block)
    other, config, labels = turned(model), model.config, torch.tensor([1, 4])
    noise = scale_noise(0, 2, config.scale_lengths, config.latent_channels, torch.device("cpu"))
    noise_turned = transposed(torch.cat(noise, 1), config.grids).split(list(config.scale_lengths), 1)
    for naive in (True, False):
        expected = model.sample(labels, 3, 2.0, noise=noise, naive=naive)
        got = other.sample(labels, 3, 2.0, noise=noise_turned, naive=naive)
        assert error(got, expected.transpose(2, 3)) < 1e-4
        untouched = model_of(config.grid[::-1], [grid[::-1] for grid in config.grids], flow_block=flow_block)
        assert error(untouched.sample(labels, 3, 2.0, noise=noise_turned, naive=naive), got) > 0.1


@pytest.mark.parametrize(("size", "scales"), RECTANGLES)
def test_rotations(size: Grid, scales: Any) -> None:
    """Token by token: the first half of a head turns with the row, the second with the column."""
    grids, head_dim = model_of(size, scales).config.grids, 16
    table = torch.view_as_complex(rotation_table(grids, head_dim).contiguous())
    frequencies = 10000.0 ** -(torch.arange(4, dtype=torch.float64) / 4)
    expected = []
    for height, width in grids:
        for row in range(height):
            for column in range(width):
                place = row * size[0] / height, column * size[1] / width
                expected.append(torch.cat([each * frequencies for each in place]))
    angles = torch.stack(expected)
    torch.testing.assert_close(table, torch.polar(torch.ones_like(angles), angles).to(table.dtype))


def loss_and_gradients(model: FlowAR) -> dict[str, Tensor]:
    config = model.config
    generator = torch.Generator().manual_seed(0)
    shapes = (config.latent_channels, *config.grid), (config.tokens, config.latent_channels)
    latents, noise = (torch.randn(3, *each, generator=generator, dtype=torch.float64) for each in shapes)
    times = torch.rand(len(config.grids), 3, generator=generator, dtype=torch.float64)
    out = model.loss(latents, torch.tensor([0, 2, 5]), noise, times)
    model.zero_grad()
    out.loss.backward()
    return {"loss": out.loss.detach()} | {
        name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None
    }


@pytest.mark.parametrize("flow_block", BLOCKS)
@pytest.mark.parametrize(("size", "scales"), RECTANGLES)
def test_loss_and_gradients_are_those_of_the_definition(size: Grid, scales: Any, flow_block: Any) -> None:
    model = model_of(size, scales, flow_block=flow_block).double()
    got = loss_and_gradients(model)
    with ops.use_reference():
        expected = loss_and_gradients(model)
    assert len(got) == 1 + len([*model.parameters()])
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=1e-6 * float(value.abs().max()), rtol=0)


@pytest.mark.parametrize("flow_block", BLOCKS)
def test_operations_of_a_rectangle(flow_block: Any) -> None:
    model = model_of((3, 5), flow_block=flow_block, ar_width=48, flow_width=96, latent_channels=6)
    schedule, labels = Schedule.published(3, 3.0, (0.0, 0.7)), torch.tensor([1, 2])
    counted = counted_flops(lambda: model.sample(labels, schedule=schedule, naive=True))
    assert published_flops(model.config, schedule, batch=2) == counted
    latents = torch.randn(2, 6, 3, 5)
    assert training_flops(model.config, batch=2) == 3 * counted_flops(lambda: model.loss(latents, labels))


def test_pictures_of_a_rectangle(tmp_path: Path) -> None:
    """Three times as wide as high, from the latents to the file of the command."""
    tokenizer = PixelTokenizer(image_channels=3, stride=2)
    model = model_of((2, 6), latent_channels=12, tokenizer=tokenizer.record())
    pipeline = FlowARPipeline(model, tokenizer)
    pipeline.save_pretrained(tmp_path)
    images, latents, *_ = pipeline([0, 3], 2)
    expected = ((F.pixel_shuffle(latents, 2).clamp(-1, 1) + 1) * 127.5).round()
    assert all(torch.equal(to_tensor(image), each.byte()) for image, each in zip(images, expected, strict=True))
    options = ["--classes", "0,3", "--num_inference_steps", "2", "--per_class", "2", "--zoom", "1", "--device", "cpu"]
    main(["sample", "--model", str(tmp_path), "--output", str(tmp_path / "grid.png"), *options])
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (2 * 12, 2 * 4)
    (again,) = vary(pipeline, images[0], 0, keep_scales=len(model.config.grids) - 1, num_inference_steps=2)
    assert again.size == (12, 4)
    with pytest.raises(ValueError, match="image: expected 12x4 pixels, got 4x12"):
        vary(pipeline, images[0].transpose(Image.Transpose.TRANSPOSE), 0, keep_scales=1)
    with pytest.raises(ValueError, match="expected the aspect of 12x4 pixels, got 9x5; crop it to 9x3"):
        super_resolve(pipeline, images[0].resize((9, 5)), 0)
    assert super_resolve(pipeline, images[0].resize((6, 2)), 0, num_inference_steps=2)[0].size == (12, 4)


def test_training_images_nearest_to_a_rectangle(tmp_path: Path) -> None:
    tokenizer = PixelTokenizer(image_channels=3, stride=2)
    pipeline = FlowARPipeline(model_of((2, 6), latent_channels=12, tokenizer=tokenizer.record()), tokenizer)
    source = open_training_images(str(write_class_folders(tmp_path)), pipeline)
    assert source.image_size == (4, 12)
    neighbours_picture(pipeline, torch.tensor([0]), 0, source, {"pixels": pixels}, 2)
    source.image_size = (12, 4)
    with pytest.raises(DataError, match="data: expected 2 images of 3x4x12 or more, got 4 of 3x12x4"):
        neighbours_picture(pipeline, torch.tensor([0]), 0, source, {"pixels": pixels}, 2)


def test_flowar_l_at_512() -> None:
    """As at 256, but for three tables of positions of 1365 tokens instead of 341; all in the estimate of memory."""
    sizes = {}
    for side in (16, 32):
        config = FlowARConfig.preset("L", latent_size=side)
        with torch.device("meta"):
            sizes[side] = sum(parameter.numel() for parameter in FlowAR(config).parameters())
        assert transformer_bytes(config, torch.bfloat16) == 2 * sizes[side]
    assert sizes[32] - sizes[16] == 3 * (1365 - 341) * 1024


class Test32x32:
    """Images of 512x512 at stride 16."""

    @pytest.fixture(params=BLOCKS)
    def model(self, request: pytest.FixtureRequest) -> FlowAR:
        return model_of(32, flow_block=request.param, dropout=0.0)

    def test_scales(self, model: FlowAR) -> None:
        assert model.config.grids == tuple((side, side) for side in (1, 2, 4, 8, 16, 32))
        assert model.config.tokens == model.ar_transformer.input_positions.shape[1] == 1365

    def test_sampling(self, model: FlowAR) -> None:
        naive, engine = (model.sample([0, 3], 2, 3.0, naive=naive) for naive in (True, False))
        assert engine.shape == (2, 4, 32, 32)
        assert error(engine, naive) < 1e-4

    def test_a_training_step(self, model: FlowAR) -> None:
        latents, labels, losses = torch.randn(2, 4, 32, 32), torch.tensor([1, 2]), []
        noise, times = torch.randn(2, 1365, 4), torch.rand(6, 2)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(2):
            out = model.loss(latents, labels, noise, times)
            optimizer.zero_grad()
            out.loss.backward()
            optimizer.step()
            losses.append(out.loss.item())
        assert out.per_scale.shape == (6,)
        assert losses[1] < losses[0]
