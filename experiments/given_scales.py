"""What a distance is made of: the same weights, with the coarser scales of real images given.

    python -m experiments.given_scales scales --budget small --data data/fashion-mnist

Where the distance falls as scales are given, it came from errors in them, on which the finer ones built; what is left
when all but the last are given is the last one's own. With all given it is what the tokenizer costs. Weights are those
that `experiments.run` left in the output folder; what is missing there is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

import torch
from torch import Tensor

from experiments.budgets import BUDGETS
from experiments.catalog import chosen
from experiments.judging import Judge
from experiments.run import Runner, new_parser
from experiments.training import Data
from experiments.variants.scale_sequence import EncodedScalesFlowAR, encode_scales
from flowar import FlowAR
from flowar.data.sources import open_idx
from flowar.data.transforms import to_unit_range
from flowar.sampling.pins import Pins
from flowar.system.precision import default_device
from flowar.tokenizers.base import Tokenizer


def real_images(data: Data, count: int) -> Tensor:
    """Images [count, 1, H, W] of the training split whose class is their number modulo ten, from its end, which small
    budgets do not train on."""
    whole = open_idx(data.folder, "train")
    places = [(whole.labels == label).nonzero().flatten().flip(0) for label in range(len(whole.class_names))]
    return whole.images[[int(places[i % len(places)][i // len(places)]) for i in range(count)]]


@torch.no_grad()
def scale_tokens(model: FlowAR, tokenizer: Tokenizer, images: Tensor) -> Sequence[Tensor]:
    """What the model learned to draw for uint8 images, a tensor [B, n_k, c] a scale."""
    pixels = to_unit_range(images)
    by_scale = isinstance(model, EncodedScalesFlowAR)
    latents = encode_scales(tokenizer, pixels, model.config)[0] if by_scale else tokenizer.encode(pixels)
    targets, _ = model.pyramid(latents)
    return targets.split(list(model.config.scale_lengths), 1)


def first_scales(tokens: Sequence[Tensor], given: int) -> Callable[[Tensor], Pins]:
    """Pins of the first `given` scales of the images that one asks for."""
    masks = [torch.full((1, len(part[0]), 1), float(k < given)) for k, part in enumerate(tokens)]
    return lambda indices: Pins([part[indices] for part in tokens], masks)


def distances(judge: Judge, model: FlowAR, tokenizer: Tokenizer, tokens: Sequence[Tensor], seed: int) -> list[float]:
    """Fréchet distances with none of the scales given, the first one, and so on to all."""
    count = len(tokens[0])
    every = (first_scales(tokens, given) for given in range(len(tokens) + 1))
    return [judge(model, tokenizer, count, seed * count, pins)["frechet_distance"] for pins in every]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = new_parser("Fréchet distances with the coarser scales given.")
    parser.add_argument("--seeds", type=int, nargs="+", help="to average over; the budget's if left out")
    parser.add_argument("--steps", type=int, help="of every scale; the variant's if left out")
    options = parser.parse_args(arguments)
    budget, device = BUDGETS[options.budget], default_device(options.device)
    runner = Runner(Data(options.data, budget, device, options.output, budget.images))
    judge = Judge.open(options.classifier, options.data, device)
    images = real_images(runner.data, budget.samples).to(device)
    steps = {} if options.steps is None else {"num_inference_steps": options.steps}
    for variant in (each for experiment in chosen(options.experiment) for each in experiment.variants):
        variant = replace(variant, changes=variant.changes | steps)
        models = {seed: runner.trained(variant, seed).model for seed in options.seeds or budget.seeds}
        tokenizer = runner.data.tokenizer(variant.tokenizer)
        tokens = scale_tokens(next(iter(models.values())), tokenizer, images)
        by_seed = [distances(judge, model, tokenizer, tokens, seed) for seed, model in models.items()]
        means = ", ".join(f"{fmean(each):.1f}" for each in zip(*by_seed, strict=True))
        deviations = ", ".join(f"{part.std():.2f}" for part in tokens)
        print(f"{variant.name}: {means}; standard deviations of real scales {deviations}", flush=True)


if __name__ == "__main__":
    main()
