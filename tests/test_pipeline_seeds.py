"""Seeds of a pipeline's call: given, drawn from generators, or fresh; any of them draws its picture again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pipelines import small_pipeline
from torch import Generator, Tensor

from flowar import FlowARPipeline
from flowar.editing import inpaint, vary
from flowar.pipeline.seeds import SEEDS
from flowar.sampling.noise import image_seeds, mix, single_seeds, unmix

pytestmark = pytest.mark.usefixtures("either_default")


@pytest.fixture(scope="module")
def pipe() -> FlowARPipeline:
    return small_pipeline()


def generator(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def same(one: Tensor, other: Tensor) -> bool:
    """In another batch products may round in another way."""
    return bool((one - other).abs().max() < 0.05 * other.std())


@pytest.mark.parametrize("value", [0, 1, 7, 2**63, 2**64 - 1, 0x9E3779B97F4A7C15])
def test_unmix_undoes_mix(value: int) -> None:
    assert unmix(mix(value)) == value
    assert mix(unmix(value)) % 2**64 == value


@pytest.mark.parametrize("seed", [0, 7, -3, 2**64 - 1])
def test_seeds_of_one_seed(seed: int) -> None:
    """Image i of a seed has the noise that it has always had, and a seed that draws it alone."""
    assert image_seeds(seed, 4).tolist() == [mix(mix(seed) + i) for i in range(4)]
    single = single_seeds(seed, 4)
    assert single[0] == seed
    assert [image_seeds(each, 1).item() for each in single] == image_seeds(seed, 4).tolist()


@pytest.mark.parametrize("options", [{}, {"seed": 5}, {"seed": [5, 6, 7]}, {"generator": 5}, {"naive": True}])
def test_what_was_drawn_can_be_drawn_again(pipe: FlowARPipeline, options: dict[str, Any]) -> None:
    options = options | ({"generator": generator(5)} if "generator" in options else {})
    out = pipe([0, 3, 1], **options)
    assert len(out.seeds) == 3
    naive = options.get("naive", False)
    assert torch.equal(pipe([0, 3, 1], seed=out.seeds, naive=naive).latents, out.latents)
    for label, seed, latents in zip([0, 3, 1], out.seeds, out.latents, strict=True):
        assert same(pipe(label, seed=seed, naive=naive).latents[0], latents)


def test_given_seeds_come_back(pipe: FlowARPipeline) -> None:
    assert pipe([0, 1], seed=[8, 9]).seeds == [8, 9]
    assert pipe(0, seed=torch.tensor(7)).seeds == [7]


def test_a_fresh_seed_each_call(pipe: FlowARPipeline) -> None:
    first, second = pipe([0, 0]), pipe([0, 0])
    assert len({*first.seeds, *second.seeds}) == 4
    assert not same(first.latents, second.latents)
    assert not same(first.latents[0], first.latents[1])
    assert all(0 <= seed < SEEDS for seed in first.seeds)


def test_manual_seed_fixes_fresh_seeds(pipe: FlowARPipeline) -> None:
    drawn = []
    for given in (None, None, torch.default_generator):
        torch.manual_seed(3)
        drawn.append(pipe([0, 1], generator=given).seeds)
    assert drawn[0] == drawn[1] == drawn[2]


def test_a_generator_goes_on(pipe: FlowARPipeline) -> None:
    """As in diffusers: one generator draws other pictures the next time, one that begins anew the same."""
    once = generator(1)
    first, second = pipe([0, 1], generator=once), pipe([0, 1], generator=once)
    assert not {*first.seeds} & {*second.seeds}
    assert pipe([0, 1], generator=generator(1)).seeds == first.seeds
    assert pipe([0], generator=generator(1)).seeds == first.seeds[:1]
    assert pipe([0, 1], generator=[generator(1)]).seeds == first.seeds


def test_a_generator_for_every_picture(pipe: FlowARPipeline) -> None:
    out = pipe([0, 1], generator=[generator(1), generator(2)])
    assert out.seeds == [*pipe([0], generator=generator(1)).seeds, *pipe([1], generator=generator(2)).seeds]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generator": [generator(1)] * 3}, r"generator: expected one or 2 \(one per image\), got 3"),
        ({"generator": [1, 2]}, "generator: expected a torch.Generator or a list of them, got 1"),
        ({"generator": generator(1), "seed": 1}, "generator: expected it or a seed, got both"),
        ({"seed": [1, 2, 3]}, r"seed: expected one integer or 2 \(one per image\), got 3"),
    ],
)
def test_refused(pipe: FlowARPipeline, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe([0, 1], **options)


def test_latents_alone_have_seed_0(pipe: FlowARPipeline) -> None:
    """As nothing would tell what a fresh one was."""
    assert torch.equal(pipe.sample([0, 1]), pipe([0, 1], seed=0).latents)
    assert torch.equal(pipe.model.sample([0, 1]), pipe.sample([0, 1], seed=0))


Edit = Callable[..., list[Any]]


def edits(pipe: FlowARPipeline) -> list[Edit]:
    picture = pipe([0], seed=1).images[0]
    hole = picture.point(lambda value: 255 * (value > 128))
    return [
        lambda **options: vary(pipe, picture, 0, 1, 2, **options),
        lambda **options: inpaint(pipe, picture, hole, 0, 2, **options),
    ]


@pytest.mark.parametrize("number", [0, 1])
def test_edits(pipe: FlowARPipeline, number: int) -> None:
    """They have seed 0 unless told otherwise, and take generators; all rounds of one have the same seeds."""
    edit = edits(pipe)[number]

    def drawn(**options: Any) -> list[bytes]:
        return [image.tobytes() for image in edit(**options)]

    assert drawn() == drawn(seed=0)
    seeds = pipe([0, 0], generator=generator(4)).seeds
    assert drawn(generator=generator(4)) == drawn(seed=seeds) != drawn()
