"""Pins: what is known is arrived at, and what is free sees it on the way."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from conftest import error, inference_plan, small_model
from torch import Tensor

from flowar import FlowAR, Schedule
from flowar.engine import program as program_module
from flowar.sampling.callbacks import Callbacks
from flowar.sampling.noise import image_seeds
from flowar.sampling.pins import Pins, pin
from flowar.sampling.solvers import SOLVERS, integrate

LABELS = [1, 3]


def some_pins(model: FlowAR, shares: list[float], seed: int = 0) -> Pins:
    """Random latents, and masks whose first tokens have the share of their scale."""
    generator = torch.Generator().manual_seed(seed)
    targets, _ = model.pyramid(torch.randn(2, model.config.latent_channels, *model.config.grid, generator=generator))
    masks = []
    for n, share in zip(model.config.scale_lengths, shares, strict=True):
        mask = torch.zeros(2, n, 1)
        mask[:, : -(-n // 2)] = share
        masks.append(mask)
    return Pins(targets.split(list(model.config.scale_lengths), 1), masks)


@pytest.mark.parametrize("naive", [True, False])
@pytest.mark.parametrize("solver", SOLVERS)
def test_pinned_tokens_are_reproduced_exactly(solver: str, naive: bool) -> None:
    model = small_model()
    pins, schedule = some_pins(model, [0.0, 1.0, 1.0]), Schedule((1, 0.6, 0.3, 0), 2.0, solver=solver)
    seen: list[Tensor] = []
    model.sample(
        LABELS, schedule=schedule, pins=pins, naive=naive, on_scale=lambda k, tokens: seen.append(tokens.clone())
    )
    free = model.sample(LABELS, schedule=schedule, naive=naive)
    for k in (1, 2):
        held = pins.masks[k].expand_as(seen[k]) == 1
        assert torch.equal(seen[k][held], pins.tokens[k][held])
    other = (pins.masks[2] == 0).expand_as(seen[2])
    assert error(seen[2][other], free.flatten(2).transpose(1, 2)[other]) > 1e-2  # the rest took notice


@pytest.mark.parametrize("shares", [[0.0, 1.0, 0.5], [1.0, 1.0, 0.7], [0.3, 0.0, 1.0]])
def test_engine_and_naive_path_agree(shares: list[float]) -> None:
    model = small_model(flow_block="attn_cross_mlp")
    pins = some_pins(model, shares)
    calls: dict[str, Any] = {"schedule": Schedule((1, 0.7, 0.2, 0), 2.5, (0, 0.8), solver="ab2"), "seed": 4}
    expected = model.sample(LABELS, pins=pins, naive=True, **calls)
    assert error(model.sample(LABELS, pins=pins, **calls), expected) < 1e-5
    assert error(model.sample(LABELS, **calls), expected) > 1e-2


@pytest.mark.parametrize("times", [[1.0, 0.0], [1.0, 0.9, 0.3, 0.2, 0.0], [i / 20 for i in range(20, -1, -1)]])
@pytest.mark.parametrize("solver", SOLVERS)
def test_masks_between_mix_by_their_share(solver: str, times: list[float]) -> None:
    """Whatever the steps are: beside a straight path to something else, the result is the mean of both."""
    noise, own, token = torch.randn(3, 2, 5, 4).double()
    mask = torch.tensor([0.0, 0.2, 0.5, 0.99, 1.0])[None, :, None].double()
    state, evaluations = noise.clone(), SOLVERS[solver](times, ())
    held = partial(pin, state, noise, token, mask)
    integrate(lambda i: noise - own, state, evaluations, constrain=held)
    torch.testing.assert_close(state, torch.lerp(own, token, mask))


def test_first_scales_that_are_pinned_everywhere_need_no_ode() -> None:
    model, steps = small_model(), []
    pins = some_pins(model, [1.0, 0.0, 0.0])
    pins = Pins(pins.tokens, [pins.masks[0], torch.ones(1, 4, 1), pins.masks[2]])
    assert pins.held == 2
    expected = model.sample(LABELS, 4, 2.0, pins=pins, naive=True)
    plan, evaluations = inference_plan(model, torch.float32), []
    plan.networks.flow.input_proj.register_forward_hook(lambda *_: evaluations.append(1))
    own = pins.to(torch.device("cpu"), torch.float32)
    tokens = plan.sample(
        torch.tensor(LABELS), model.schedule(4, 2.0), image_seeds(0, 2), Callbacks(lambda: steps.append(1)), own
    )
    assert (len(steps), len(evaluations)) == (3 * 4, 4)
    assert error(model.pyramid.to_grid(tokens, 2), expected) < 1e-5


def test_nothing_pinned_is_plain_sampling() -> None:
    model = small_model()
    assert torch.equal(model.sample(LABELS, 4, 2.0, pins=some_pins(model, [0.0] * 3)), model.sample(LABELS, 4, 2.0))


def test_images_keep_their_pins_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU large batches are integrated group by group."""
    model = small_model()
    pins = some_pins(model, [0.0, 1.0, 0.6])
    whole = model.sample(LABELS, 4, 2.0, pins=pins)
    monkeypatch.setattr(program_module, "ACTIVATION_BUDGET", 1)
    assert error(model.sample(LABELS, 4, 2.0, pins=pins), whole) < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": []}, r"pins: expected tokens of shapes \[\[2, 1, 4\], \[2, 4, 4\], \[2, 16, 4\]\], got \[\]"),
        ({"masks": [torch.zeros(2, 1, 1)]}, r"pins: expected masks of shapes .*, got \[\[2, 1, 1\]\]"),
        ({"masks": [torch.zeros(2, n, 4) for n in (1, 4, 16)]}, "pins: expected masks of shapes"),
        ({"masks": [torch.full((2, n, 1), 2.0) for n in (1, 4, 16)]}, r"expected masks in \[0, 1\], got values from 2"),
        ({"masks": [torch.full((2, n, 1), torch.nan) for n in (1, 4, 16)]}, r"expected masks in \[0, 1\], got"),
    ],
)
def test_pins_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    model = small_model()
    pins = some_pins(model, [0.0] * 3)
    with pytest.raises(ValueError, match=message):
        model.sample(LABELS, pins=Pins(**{"tokens": pins.tokens, "masks": pins.masks} | change))
