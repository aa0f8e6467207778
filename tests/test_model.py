"""The teacher-forced model: recorded conditions, velocities, losses and gradients; labels; precision of tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, error, recorded_model, recording, small_model

from flowar import FlowAR
from flowar.networks.layers import Constants
from flowar.storage.published import published_names


@pytest.mark.parametrize("name", TINY)
@pytest.mark.usefixtures("served_by")
class TestRecorded:
    def test_conditions(self, name: str) -> None:
        recorded = recording(name)
        z = recorded_model(name).conditions(recorded["train.latents"], recorded["train.labels"])
        assert error(z, recorded["train.conditions"]) < 1e-4

    def test_velocity_of_every_scale(self, name: str) -> None:
        recorded, model = recording(name), recorded_model(name)
        lengths = list(model.config.scale_lengths)
        parts = (
            recorded[f"train.{part}"].split(lengths, 1) for part in ("target_tokens", "noise", "conditions", "velocity")
        )
        for k, (targets, noise, z, expected) in enumerate(zip(*parts, strict=True)):
            t = recorded["train.times"][k]
            x_t = (1 - t[:, None, None]) * targets + t[:, None, None] * noise
            assert error(model.velocity(x_t, t, z), expected) < 1e-4

    def test_loss_and_gradients(self, name: str) -> None:
        recorded, model = recording(name), recorded_model(name)
        model.zero_grad()
        arguments = (recorded[f"train.{part}"] for part in ("latents", "labels", "noise", "times"))
        out = model.loss(*arguments)
        out.loss.backward()
        assert error(out.loss, recorded["train.loss"]) < 1e-4
        weights = torch.tensor(model.config.scale_lengths) / model.config.scale_lengths[-1]
        torch.testing.assert_close(out.per_scale * weights, recorded["train.scale_losses"], rtol=1e-4, atol=0)
        checked = 0
        for ours, parameter in model.named_parameters():
            names = published_names(ours, model.config)
            assert parameter.grad is not None
            for theirs, gradient in zip(names, parameter.grad.chunk(len(names)), strict=True):
                assert error(gradient.norm(), recorded[f"grad_norm.{theirs}"]) < 1e-4, theirs
                checked += 1
        assert checked == len(recorded.metadata["parameters"])


def test_loss_draws_noise_times_and_null_labels() -> None:
    model = small_model(class_dropout=0.5).train()
    latents, labels = torch.randn(64, 4, 4, 4), torch.zeros(64, dtype=torch.int64)
    assert model.loss(latents, labels).loss != model.loss(latents, labels).loss
    assert 10 < model.draw_dropped(labels).sum() < 54
    assert not model.eval().draw_dropped(labels).any()


def test_dropped_labels_count_as_the_null_class() -> None:
    model = small_model()
    latents, labels = torch.randn(2, 4, 4, 4), torch.tensor([0, 1])
    given = {"noise": torch.randn(2, model.config.tokens, 4), "times": torch.rand(len(model.config.grids), 2)}
    loss = model.loss(latents, labels, **given, dropped=torch.tensor([False, True])).per_image
    expected = model.loss(latents, torch.tensor([0, model.config.null_class]), **given).per_image
    assert torch.equal(loss, expected)
    assert not torch.equal(loss, model.loss(latents, labels, **given).per_image)
    with pytest.raises(ValueError, match=r"dropped: expected shape \[2\], got \[3\]"):
        model.loss(latents, labels, dropped=torch.zeros(3, dtype=torch.bool))


def test_dropout_acts_in_training_alone() -> None:
    model = small_model(dropout=0.5)
    latents, labels = torch.randn(2, 4, 4, 4), torch.tensor([0, 1])
    assert torch.equal(model.conditions(latents, labels), model.conditions(latents, labels))
    model.train()
    assert not torch.equal(model.conditions(latents, labels), model.conditions(latents, labels))


@pytest.mark.parametrize(
    "labels",
    [
        [0, 3, 4],
        (0, 3, 4),
        np.array([0, 3, 4], dtype=np.int16),
        *(torch.tensor([0, 3, 4], dtype=dtype) for dtype in (torch.uint8, torch.int32, torch.int64)),
    ],
    ids=lambda labels: f"{type(labels).__name__}-{getattr(labels, 'dtype', 'int')}",
)
def test_labels_of_any_integer_kind(labels: Any) -> None:
    assert torch.equal(small_model().check_labels(labels), torch.tensor([0, 3, 4]))


def test_one_label_is_one_image() -> None:
    assert torch.equal(small_model().check_labels(2), torch.tensor([2]))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 5], "integers from 0 to 4, got 5"),
        ([0, -1], "integers from 0 to 4, got -1"),
        ([], r"B >= 1, got shape \[0\]"),
        ([[0, 1]], r"got shape \[1, 2\]"),
        ([0.0, 1.0], "got dtype torch.float32"),
        ([True, False], "got dtype torch.bool"),
        (["cat"], "integers from 0 to 4, got"),
        ([2**70], "integers from 0 to 4, got"),
    ],
    ids=str,
)
def test_bad_labels(labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        small_model().sample(labels)
    assert "\n" not in str(raised.value)


def test_the_null_class_is_a_condition_but_no_label_to_sample() -> None:
    model = small_model()
    model.conditions(torch.randn(1, 4, 4, 4), torch.tensor([5]))
    with pytest.raises(ValueError, match="integers from 0 to 4, got 5"):
        model.sample([5])


@pytest.mark.parametrize(
    ("argument", "shape"),
    [("latents", (2, 4, 8, 8)), ("latents", (2, 3, 4, 4)), ("noise", (1, 21, 4)), ("times", (2, 3))],
)
def test_misshapen_training_input(argument: str, shape: tuple[int, ...]) -> None:
    given = {"latents": torch.randn(2, 4, 4, 4), "noise": torch.randn(2, 21, 4), "times": torch.rand(3, 2)}
    model = small_model()
    model.loss(class_labels=torch.tensor([0, 1]), **given)
    with pytest.raises(ValueError, match=rf"{argument}: expected shape .*, got \[{shape[0]}, "):
        model.loss(class_labels=torch.tensor([0, 1]), **(given | {argument: torch.rand(shape)}))


@pytest.mark.parametrize(
    ("x_t", "t", "z", "name"),
    [((2, 5, 4), 2, (2, 5, 32), "x_t"), ((2, 4, 3), 2, (2, 4, 32), "x_t"), ((2, 4, 4), 1, (2, 4, 32), "t"),
     ((2, 4, 4), 2, (2, 4, 16), "z_k")],
)  # fmt: skip
def test_misshapen_velocity_input(x_t: tuple[int, ...], t: int, z: tuple[int, ...], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        small_model().velocity(torch.randn(x_t), torch.rand(t), torch.randn(z))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tables_stay_float32(dtype: torch.dtype) -> None:
    model, reference = small_model().to(dtype), small_model()
    tables = [table for module in model.modules() if isinstance(module, Constants) for table in module.buffers()]
    expected = [table for module in reference.modules() if isinstance(module, Constants) for table in module.buffers()]
    assert len(tables) > 10
    assert all(table.dtype == torch.float32 for table in tables)
    assert all(map(torch.equal, tables, expected))
    assert all(parameter.dtype == dtype for parameter in model.parameters())


@pytest.mark.parametrize(
    ("flow_block", "backend"),
    [
        ("attn_cross_mlp", "aot_eager"),
        *(pytest.param(block, "inductor", marks=pytest.mark.slow) for block in ("attn_mlp", "attn_cross_mlp")),
    ],
)
def test_velocity_compiles_as_one_graph(flow_block: Any, backend: str) -> None:
    model = small_model(flow_block=flow_block)
    compiled = torch.compile(model.velocity, fullgraph=True, backend=backend)
    for tokens in (4, 16):
        x_t, t, z = torch.randn(2, tokens, 4), torch.rand(2), torch.randn(2, tokens, 32)
        assert error(compiled(x_t, t, z), model.velocity(x_t, t, z)) < 2e-5


@pytest.mark.parametrize(
    ("flow_block", "dtype", "checkpointing", "backend"),
    [
        pytest.param("attn_mlp", torch.bfloat16, "none", "aot_eager", marks=pytest.mark.slow),
        pytest.param("attn_cross_mlp", torch.float32, "all", "inductor", marks=pytest.mark.slow),
        pytest.param("attn_mlp", torch.bfloat16, "none", "inductor", marks=pytest.mark.slow),
    ],
)
def test_training_step_compiles_as_one_graph(
    flow_block: Any, dtype: torch.dtype, checkpointing: Any, backend: str
) -> None:
    """Loss and gradients as in eager mode, under autocast for bfloat16."""
    model = small_model(flow_block=flow_block, flow_depth=1, dropout=0.0).train()
    model.checkpointing = checkpointing
    latents, labels, dropped = torch.randn(2, 4, 4, 4), torch.arange(2), torch.tensor([True, False])
    noise, times = torch.randn(2, model.config.tokens, 4), torch.rand(len(model.config.grids), 2)

    def step(loss: Any) -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            value = loss(latents, labels, noise, times, dropped).loss
        value.backward()
        return value.detach(), torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])

    results = step(torch.compile(model.loss, fullgraph=True, backend=backend)), step(model.loss)
    for compiled, eager in zip(*results, strict=True):
        assert (compiled - eager).norm() <= (1e-5 if dtype == torch.float32 else 2e-2) * eager.norm()


def test_initial_velocity_is_zero_and_trains() -> None:
    """Gates and the output start closed (adaLN-zero); gradient steps must still open them."""
    model = FlowAR(small_model().config)
    latents, labels = torch.randn(8, 4, 4, 4), torch.arange(8) % 5
    noise, times = torch.randn(8, 21, 4), torch.rand(3, 8)
    assert not model.velocity(noise[:, :1], times[0], torch.randn(8, 1, 32)).any()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.eval()
    losses = []
    for _ in range(20):
        loss = model.loss(latents, labels, noise, times).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_what_depends_on_the_time_alone_is_computed_once_a_scale() -> None:
    model, shapes = small_model(flow_block="attn_cross_mlp"), []
    for block in model.flow_transformer.blocks:
        block.time_modulation.register_forward_hook(lambda _, inputs, output: shapes.append(inputs[0].shape))
    model.loss(torch.randn(2, 4, 4, 4), torch.tensor([0, 1]))
    assert shapes == [(2, len(model.config.grids), model.config.flow_width)] * len(model.flow_transformer.blocks)
