"""The parts of a training step: batches, learning rate, averages, clipping, bad steps and what is told of them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import error, small_model
from torch import Tensor, nn
from training_runs import run_config

from flowar import FlowAR
from flowar.errors import DataError, TrainingError
from flowar.model import Loss
from flowar.system.ranks import Ranks
from flowar.training import nan_trace
from flowar.training.averages import Averages
from flowar.training.batches import batches
from flowar.training.config import LossConfig, OptimConfig
from flowar.training.draws import Draws
from flowar.training.latent_store import LatentStore, Shard
from flowar.training.optimizer import learning_rate, new_optimizers, total_steps, warmup_steps
from flowar.training.pool import Pool, held_out_images, without
from flowar.training.state import TrainState
from flowar.training.step import Batch, TrainingStep, check_shares

ONE = Ranks(torch.device("cpu"))


def store(images: int) -> LatentStore:
    labels = torch.arange(images)
    return LatentStore(Path(), {}, (), [Shard(torch.zeros(images, 1, 1, 1, 1, 1), labels, {}, 0, [])], labels)


def new_step(model: FlowAR | None = None, ranks: Ranks = ONE, **changes: Any) -> TrainingStep:
    model = model or small_model(dropout=0.0)
    config = run_config(Path("images"), Path("run"), **changes)
    return TrainingStep(TrainState.new(model, config.optim), config, ranks, model)


def batch(images: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(images, 4, 4, 4, generator=generator)
    return Batch(latents, torch.arange(images) % 4, Draws.for_images(0, 0, torch.arange(images)))


class TestBatches:
    def labels(self, first: int, seed: int = 0, ranks: Ranks = ONE) -> list[list[int]]:
        return [each.class_labels.tolist() for each in batches(Pool.whole(store(10)), 3, seed, first, 8, ranks)]

    def test_every_image_once_an_epoch_and_from_anywhere(self) -> None:
        order = self.labels(0)
        assert len(order) == 8
        assert all(len({*chain(*order[start : start + 3])}) == 9 for start in (0, 3))  # an epoch drops one image
        assert order[:3] != order[3:6]
        assert self.labels(4) == order[4:]
        assert self.labels(0, seed=1) != order

    def test_ranks_share_a_batch(self) -> None:
        parts = [self.labels(0, ranks=replace(ONE, rank=rank, world_size=3)) for rank in range(3)]
        assert [[*chain(*three)] for three in zip(*parts, strict=True)] == self.labels(0)

    def test_errors_of_the_thread_arrive(self) -> None:
        data = store(10)
        data.shards[0].moments[:] = torch.nan
        with pytest.raises(DataError, match="expected finite latents"):
            next(batches(Pool.whole(data), 3, 0, 0, 8, ONE))

    def test_some_images_alone(self) -> None:
        """And what is drawn for an image does not depend on which others there are."""
        data = store(10)
        pool = Pool(data, torch.tensor([1, 4, 5, 7]))
        found = [*batches(pool, 2, 0, 0, 4, ONE)]
        for epoch in (found[:2], found[2:]):
            assert sorted(chain(*(each.class_labels.tolist() for each in epoch))) == [1, 4, 5, 7]
        whole = {int(each.class_labels): int(each.draws.seeds) for each in batches(Pool.whole(data), 1, 0, 0, 10, ONE)}
        for each in found[:2]:
            assert each.draws.seeds.tolist() == [whole[label] for label in each.class_labels.tolist()]

    def test_balanced_classes(self) -> None:
        """Of 12 images an epoch each class has 4; a repeated image comes with other draws."""
        labels = torch.tensor([0] * 9 + [1, 1, 2])
        data = replace(store(12), labels=labels)
        seen = [*batches(Pool(data, torch.arange(12), balanced=True), 6, 0, 0, 4, ONE)]
        for epoch in (seen[:2], seen[2:]):
            assert torch.cat([each.class_labels for each in epoch]).bincount().tolist() == [4, 4, 4]
            assert len({*torch.cat([each.draws.seeds for each in epoch]).tolist()}) == 12
        again = [*batches(Pool(data, torch.arange(12), balanced=True), 6, 0, 3, 4, ONE)]
        assert torch.equal(again[0].draws.seeds, seen[3].draws.seeds)

    def test_held_out_images(self) -> None:
        labels = torch.tensor([0] * 40 + [1] * 10 + [2])
        held = held_out_images(labels, 0.1)
        assert labels[held].tolist() == [0] * 4 + [1, 2]
        assert torch.equal(held, held_out_images(labels, 0.1))
        assert sorted([*held.tolist(), *without(held, 51).tolist()]) == [*range(51)]

    def test_equal_shares(self) -> None:
        config = run_config(Path("images"), Path("run"), micro_batch=4)
        check_shares(config, 2)
        with pytest.raises(ValueError, match="batch_size: expected a multiple of the 3 processes, got 8"):
            check_shares(config, 3)
        with pytest.raises(ValueError, match="micro_batch: expected a divisor of the 2 images a device, got 4"):
            check_shares(config, 4)


class TestSchedule:
    def test_learning_rate(self) -> None:
        optim = OptimConfig(lr=1.0, final_lr=0.1)
        rates = [learning_rate(step, 110, 10, optim) for step in range(111)]
        assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
        assert rates[10] == 1.0
        assert rates[60] == pytest.approx(0.55)  # half way down the cosine
        assert rates[110] == pytest.approx(0.1)
        assert all(before >= after for before, after in pairwise(rates[10:]))

    def test_constant(self) -> None:
        optim = OptimConfig(lr=1.0, lr_schedule="constant")
        assert [learning_rate(step, 100, 2, optim) for step in (0, 1, 2, 50, 99)] == [0.5, 1, 1, 1, 1]

    def test_steps_of_a_run(self) -> None:
        assert total_steps(OptimConfig(batch_size=8, epochs=3), 20) == 6
        assert total_steps(OptimConfig(batch_size=8, epochs=0.1), 20) == 1
        assert total_steps(OptimConfig(batch_size=8, epochs=3, steps=5), 20) == 5
        assert warmup_steps(OptimConfig(batch_size=8, warmup_steps=7), 20) == 7
        assert warmup_steps(OptimConfig(batch_size=8, warmup_epochs=2), 20) == 4


class TestAverages:
    def test_several_rates(self) -> None:
        model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(model.weight)
        averages = Averages(model.named_parameters(), (0.99, 0.5))
        nn.init.ones_(model.weight)
        averages.update(10_000)
        assert [average["weight"].item() for average in averages.by_decay.values()] == pytest.approx([0.01, 0.5])
        averages.update(1)  # early on 2 / 11 is kept, or less
        assert averages.by_decay[0.99]["weight"].item() == pytest.approx(0.01 + (1 - 2 / 11) * 0.99)
        assert {*averages.tensors()} == {"average_0.99.weight", "average_0.5.weight"}

    def test_a_model_of_averages(self) -> None:
        step = new_step(optim={"lr": 1e-2})
        before = {name: each.detach().clone() for name, each in step.state.model.named_parameters()}
        step(batch(), 1e-2)
        averaged = step.state.average_model(0.9999)
        for name, parameter in step.state.model.named_parameters():
            moved = before[name] + (1 - 2 / 11) * (parameter - before[name])
            torch.testing.assert_close(averaged.get_parameter(name), moved)
        assert not any(parameter.requires_grad for parameter in averaged.parameters())
        assert averaged.sample([1]).isfinite().all()


class TestStep:
    def test_biases_and_norms_are_not_decayed(self) -> None:
        model = small_model(flow_block="attn_cross_mlp")
        (optimizer,) = new_optimizers(model, OptimConfig(weight_decay=0.3))
        decayed, plain = optimizer.param_groups
        assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        spared = {names[id(parameter)] for parameter in plain["params"]}
        assert {name for name in names.values() if name.endswith(("bias", "norm.weight"))} == spared
        assert len(decayed["params"]) + len(plain["params"]) == len(names)

    def test_the_optimizer_is_torch_adamw(self) -> None:
        """Moments that are there from the start change nothing, nor does a learning rate that is not the step's."""
        step, plain = new_step(optim={"max_grad_norm": 1e9, "lr": 1.0}), small_model()
        groups = [{"params": [p for p in plain.parameters() if (p.dim() < 2) == small]} for small in (False, True)]
        groups[1]["weight_decay"] = 0.0  # type: ignore[assignment]
        reference = torch.optim.AdamW(groups, 1e-3, (0.9, 0.95), weight_decay=0.02)
        for _ in range(3):
            step(batch(), 1e-3)
            for ours, theirs in zip(step.state.model.parameters(), plain.parameters(), strict=True):
                theirs.grad = ours.grad
            reference.step()
        for ours, theirs in zip(step.state.model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)

    def test_muon_is_torchs_and_leaves_the_rest_to_adamw(self) -> None:
        """AdamW has embeddings, positions, norms, biases, and what reads and writes latents."""
        step, plain = new_step(optim={"optimizer": "muon", "max_grad_norm": 1e9, "lr": 1.0}), small_model()
        adamw, muon = step.state.optimizers
        names = {parameter: name for name, parameter in step.state.model.named_parameters()}
        matrices, others = (
            [names[p] for group in each.param_groups for p in group["params"]] for each in (muon, adamw)
        )
        latents = [name for name in others if name.endswith("proj.weight")]
        assert latents == [
            "ar_transformer.input_proj.weight",
            "flow_transformer.input_proj.weight",
            "flow_transformer.output_proj.weight",
        ]
        assert len(matrices) + len(others) == len(names)
        assert all(name.endswith(".weight") and "norm" not in name and "embedding" not in name for name in matrices)
        reference = torch.optim.Muon(
            [plain.get_parameter(name) for name in matrices], 1e-3, 0.02, adjust_lr_fn="match_rms_adamw"
        )
        for _ in range(3):
            step(batch(), 1e-3)
            for name in matrices:
                plain.get_parameter(name).grad = step.state.model.get_parameter(name).grad
            reference.step()
        for name in matrices:
            assert torch.equal(step.state.model.get_parameter(name), plain.get_parameter(name))
        moved = [p for p, name in names.items() if name in others and not torch.equal(p, plain.get_parameter(name))]
        assert len(moved) == len(others)

    def test_gradients_are_clipped(self) -> None:
        step = new_step(optim={"max_grad_norm": 1e-3})
        norm = step(batch(), 0.0).grad_norm
        clipped = nn.utils.get_total_norm([parameter.grad for parameter in step.state.model.parameters()])
        assert norm > 1e-3
        assert clipped == pytest.approx(1e-3, rel=1e-2)

    def test_parts_of_a_batch_give_its_gradient(self) -> None:
        whole, parts = new_step(), new_step(micro_batch=2)
        outcomes = whole(batch(8), 1e-3), parts(batch(8), 1e-3)
        assert [len(outcome.losses) for outcome in outcomes] == [1, 4]
        torch.testing.assert_close(outcomes[0].grad_norm, outcomes[1].grad_norm)
        for ours, theirs in zip(whole.parameters, parts.parameters, strict=True):
            assert error(ours.grad, theirs.grad) < 1e-4

    def test_dropout_depends_on_seed_step_and_rank(self) -> None:
        def losses(**changes: Any) -> list[float]:
            step = new_step(small_model(dropout=0.5), **changes)
            torch.rand(1)  # whatever the generator was used for
            return [step(batch(), 0.0).losses[0][0].loss.item() for _ in range(2)]

        first = losses()
        assert first[0] != first[1]
        assert losses() == first != losses(seed=1)
        each_rank = [losses(ranks=replace(ONE, rank=rank, world_size=3)) for rank in range(3)]
        assert len({*chain(*each_rank)}) == 6  # each drops something else at each of two steps


class Exploding(nn.Module):
    """A layer whose output is not finite when asked for."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.armed = layer, False

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * (1e38 if self.armed else 1.0) * (10.0 if self.armed else 1.0)


@contextmanager
def exploding_gradient(parameter: Tensor) -> Iterator[None]:
    handle = parameter.register_hook(lambda gradient: gradient * torch.nan)
    yield
    handle.remove()


class TestBadSteps:
    def weights(self, step: TrainingStep) -> list[Tensor]:
        return [each.detach().clone() for each in step.state.tensors().values()]

    def test_a_gradient_that_is_not_finite_changes_nothing(self) -> None:
        step = new_step()
        step(batch(), 1e-3)
        before = self.weights(step)
        with exploding_gradient(step.parameters[0]):
            outcome = step(batch(), 1e-3)
        assert outcome.skipped
        assert all(map(torch.equal, before, self.weights(step)))
        assert (step.state.step, step.state.updates, step.state.skipped_in_a_row) == (2, 1, 1)
        assert not step(batch(), 1e-3).skipped
        assert (step.state.updates, step.state.skipped_in_a_row) == (2, 0)

    def test_a_large_gradient_is_skipped_if_asked(self) -> None:
        step = new_step(optim={"skip_grad_norm": 1e-6})
        assert step(batch(), 1e-3).skipped
        assert step.state.updates == 0

    def test_too_many_in_a_row(self) -> None:
        step = new_step(optim={"max_skipped": 2})
        with exploding_gradient(step.parameters[0]):
            step(batch(), 1e-3)
            with pytest.raises(TrainingError, match=r"step 2: 2 skipped in a row, gradient norm nan; a lower lr"):
                step(batch(), 1e-3)

    def test_trace_names_module_and_op(self) -> None:
        model = small_model()
        model.flow_transformer.blocks[1].mlp.fc1 = Exploding(model.flow_transformer.blocks[1].mlp.fc1)
        step = new_step(model, nan_trace=True)
        assert not step(batch(), 1e-3).skipped
        model.flow_transformer.blocks[1].mlp.fc1.armed = True
        found = (
            r"step 2: flow_transformer\.blocks\.1\.mlp\.fc1: op aten\.mul gave numbers that are not finite, from finite"
        )
        with pytest.raises(TrainingError, match=found):
            step(batch(), 1e-3)

    def test_trace_of_a_backward_pass(self) -> None:
        class Steep(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Tensor) -> Tensor:
                return x.clone()

            @staticmethod
            def backward(ctx: Any, grad: Tensor) -> Tensor:
                return (-grad.abs()).log()

        class Layer(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return Steep.apply(x)  # type: ignore[no-untyped-call, no-any-return]

        model = nn.Sequential(nn.Linear(2, 2), Layer(), nn.Linear(2, 2))
        found = nan_trace.trace(model, lambda: model(torch.ones(1, 2)).sum().backward())
        assert found is not None
        assert found.startswith("backward of 1: op aten.log gave numbers that are not finite, from finite arguments")

    def test_trace_finds_nothing_in_a_good_step(self) -> None:
        model = small_model()
        step = new_step(model)
        assert nan_trace.trace(model, lambda: step._gradients(batch())) is None


class TestLoss:
    def seen(self, **loss: Any) -> tuple[dict[str, Any], Tensor]:
        """What the model is asked for, and the times that are logged."""
        step = new_step(loss=LossConfig(**loss))
        asked: dict[str, Any] = {}
        signature = inspect.signature(step.state.model.loss)

        def record(*arguments: Any) -> Loss:
            asked.update(signature.bind(*arguments).arguments)
            return step.state.model(*arguments)

        step.forward = record
        return asked, step._loss(batch(2000))[1]

    def test_uniform_times(self) -> None:
        asked, times = self.seen()
        assert torch.equal(asked["times"], times)
        assert times.std() == pytest.approx(12**-0.5, rel=0.02)
        assert asked["context_noise"] is None

    def test_logit_normal_times(self) -> None:
        asked, times = self.seen(times="logit_normal")
        assert torch.equal(asked["times"], times)
        assert times.shape == (3, 2000)
        assert times.logit().mean() == pytest.approx(0, abs=0.05)
        assert times.logit().std() == pytest.approx(1, rel=0.03)

    def test_context_noise(self) -> None:
        """Of every scale but the last; uniform strengths have a mean square of a third of the largest one's."""
        noise = self.seen(context_noise=0.6)[0]["context_noise"]
        assert noise.shape == (2000, 1 + 4, 4)
        for part in noise.split([1, 4], 1):
            assert part.square().mean() == pytest.approx(0.36 / 3, rel=0.1)
        strengths = noise[:, 1:].flatten(1).std(1)  # of the second scale: 16 numbers of one strength
        assert strengths.quantile(0.1) < 0.1 < 0.45 < strengths.quantile(0.9)
        assert torch.equal(noise, self.seen(context_noise=0.6)[0]["context_noise"])

    def test_context_noise_reaches_the_conditions_alone(self) -> None:
        """As if the sampler had drawn the coarser scales with that error."""
        model, latents, labels = small_model(), torch.randn(2, 4, 4, 4), torch.tensor([0, 1])
        context_noise, seen = torch.randn(2, 5, 4), []
        model.ar_transformer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
        draws = {"noise": torch.randn(2, 21, 4), "times": torch.rand(3, 2)}
        first, second = (model.loss(latents, labels, **draws, context_noise=each) for each in (None, context_noise))
        targets, _ = model.pyramid(latents)
        wrong = (targets[:, :5] + context_noise).split([1, 4], 1)
        torch.testing.assert_close(seen[1], torch.cat([model.pyramid.upsample(wrong[k - 1], k) for k in (1, 2)], 1))
        assert first.per_scale[0] == second.per_scale[0]  # which sees the class alone
        assert (first.per_scale[1:] != second.per_scale[1:]).all()
        with pytest.raises(ValueError, match=r"context_noise: expected shape \[2, 5, 4\], got \[2, 21, 4\]"):
            model.loss(latents, labels, context_noise=torch.randn(2, 21, 4))

    def test_scale_exponent(self) -> None:
        for exponent, weights in ((1.0, [1 / 16, 1 / 4, 1.0]), (0.5, [1 / 4, 1 / 2, 1.0]), (0.0, [1.0, 1.0, 1.0])):
            step = new_step(loss=LossConfig(scale_exponent=exponent))
            out, _ = step._loss(batch())
            assert out.loss.item() == pytest.approx(float(out.per_scale.detach() @ torch.tensor(weights)))


def test_bf16_trains_with_large_activations() -> None:
    """Activations a thousand times as large as usual: bfloat16 has the exponents of float32, and sums are float32."""

    def losses(precision: str) -> list[float]:
        model = small_model()
        with torch.no_grad():
            for block in (*model.ar_transformer.blocks, *model.flow_transformer.blocks):
                block.attn.qkv.weight.mul_(30)  # saturated softmax
                block.mlp.fc1.weight.mul_(30)
        step = new_step(model, precision=precision, optim={"lr": 1e-3})
        found: list[Loss] = []
        for _ in range(40):
            outcome = step(batch(), 1e-3)
            assert not outcome.skipped
            found += [out for out, _ in outcome.losses]
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
        return [out.loss.item() for out in found]

    low, exact = losses("bf16"), losses("float32")
    assert low[-1] < 0.9 * low[0]
    assert low[-1] < 1.5 * exact[-1]
