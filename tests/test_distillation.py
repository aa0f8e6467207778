"""Distillation: intervals and targets by their definitions, the run, its resumption, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import error, small_model
from safetensors.torch import load_file
from torch import Tensor
from training_runs import rows

from flowar import FlowAR, FlowARPipeline, Schedule
from flowar.errors import CheckpointError, DataError
from flowar.networks.flow_transformer import over_tokens
from flowar.sampling.jumps import jump_times
from flowar.system.ranks import Ranks
from flowar.tokenizers.pixel import PixelTokenizer
from flowar.training import DataConfig, OptimConfig
from flowar.training.distillation import DistillationRun, distill, new_student
from flowar.training.distillation_config import DistillConfig
from flowar.training.draws import Draws
from flowar.training.jump_targets import Jumps, Teacher, draw_jumps, split_mean
from flowar.training.latent_store import LatentStore

ONE = Ranks(torch.device("cpu"))
LENGTHS = (1, 4, 16)
FIELDS = {"guidance_scale": 3.0, "guidance_interval": (0.0, 0.5)}

pytestmark = pytest.mark.usefixtures("without_tensorboard")


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A small model of two steps and its tokenizer, 2x2 pixels a latent."""
    tokenizer = PixelTokenizer(1, 2)
    model = small_model(num_inference_steps=2, tokenizer=tokenizer.record(), **FIELDS)
    FlowARPipeline(model, tokenizer).save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


def config(teacher: Path, output: Path, **changes: Any) -> DistillConfig:
    optim = OptimConfig(**({"batch_size": 8, "steps": 6, "lr": 1e-3, "warmup_steps": 2} | changes.pop("optim", {})))
    small = {"images": 16, "jumps": 4, "device": "cpu", "log_every": 1, "sample_every": 0, "save_every": 3}
    return DistillConfig(str(teacher), str(output), optim=optim, **(small | changes))


class TestIntervals:
    def test_halves_of_halves(self) -> None:
        jumps = draw_jumps(Draws.for_images(0, 0, torch.arange(4000)), 3, 8, 0.25)
        assert 0.22 < jumps.taught.float().mean() < 0.28
        begin, end = jumps.t.sqrt(), jumps.r.sqrt()
        length = begin - end
        own, taught = length[~jumps.taught], length[jumps.taught]
        assert {*own.unique().tolist()} == {0.25, 0.5, 1.0}
        assert {*taught.unique().tolist()} == {0, 0.125}
        assert ((end / length)[~jumps.taught] % 1 == 0).all()
        shares = [(own == each).float().mean().item() for each in (0.25, 0.5, 1.0)]
        assert all(0.3 < share < 0.37 for share in shares)
        assert 0.2 < (taught == 0).float().mean() < 0.3

    def test_of_an_image_in_any_batch(self) -> None:
        images = torch.arange(10)
        whole = draw_jumps(Draws.for_images(0, 0, images), 3, 8, 0.5)
        part = draw_jumps(Draws.for_images(0, 0, images[3:5]), 3, 8, 0.5)
        assert all(torch.equal(a[3:5], b) for a, b in zip(whole, part, strict=True))


class Decay(Teacher):
    """A teacher of dx/dt = x, whose mean velocity from t to r is x (1 - exp(r - t)) / (t - r)."""

    def guided_velocity(self, x_t: Tensor, z: Tensor, null_z: Tensor, t: Tensor) -> Tensor:
        return x_t


def exact_mean(x: Tensor, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
    length = over_tokens((t - r)[..., None], LENGTHS)
    return x * (1 - torch.exp(-length)) / length


class TestTargets:
    jumps = Jumps(torch.tensor([[1.0, 0.25, 1.0]]), torch.tensor([[0.25, 0.0, 0.0]]), torch.tensor([False]))

    def test_the_teacher_by_a_method_of_second_order(self) -> None:
        teacher = Decay(FlowARPipeline(small_model(), PixelTokenizer(1, 2)), Schedule((1, 0)))
        x, z = torch.randn(1, 21, 4), torch.zeros(1, 21, 32)
        errors = []
        for length in (0.1, 0.05):
            t = torch.full((1, 3), 0.5)
            got = teacher.mean_velocity(x, z, z, t, t - length)
            errors.append(error(got, exact_mean(x, z, t, t - length)))
        assert errors[0] < 5e-3
        assert 3.5 < errors[0] / errors[1] < 4.5

    def test_halves_make_a_whole(self) -> None:
        x, z = torch.randn(1, 21, 4), torch.zeros(1, 21, 32)
        got = split_mean(exact_mean, x, z, self.jumps, LENGTHS)
        assert error(got, exact_mean(x, z, self.jumps.t, self.jumps.r)) < 1e-5

    def test_halves_are_halves_of_the_roots(self) -> None:
        asked = []

        def mean(x: Tensor, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
            asked.append((t.tolist(), r.tolist()))
            return x

        split_mean(mean, torch.zeros(1, 21, 4), torch.zeros(1), self.jumps, LENGTHS)
        middle = [[0.5625, 0.0625, 0.25]]
        assert asked == [(self.jumps.t.tolist(), middle), (middle, self.jumps.r.tolist())]

    def test_guidance_is_that_of_the_schedule(self) -> None:
        """By scale and time as in sampling: 1 at the first scale and outside of the interval."""
        model = small_model(**FIELDS)
        teacher = Teacher(FlowARPipeline(model, PixelTokenizer(1, 2)), model.schedule())
        x, z, null_z = torch.randn(2, 21, 4), torch.randn(2, 21, 32), torch.randn(2, 21, 32)
        t = torch.tensor([[0.2, 0.2, 0.2], [0.8, 0.8, 0.8]])
        conditional, unconditional = (model.flow_transformer(x, t, each, range(3)) for each in (z, null_z))
        weights = over_tokens(torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])[..., None], LENGTHS)
        expected = unconditional + weights * (conditional - unconditional)
        assert error(teacher.guided_velocity(x, z, null_z, t), expected) < 1e-5
        without_class = Teacher(teacher.pipeline, model.schedule(guidance_scale=0.0))
        assert error(without_class.guided_velocity(x, z, null_z, t), unconditional) < 1e-5


class TestRun:
    def test_a_student_to_sample_from(self, teacher: Path, tmp_path: Path) -> None:
        folder = distill(config(teacher, tmp_path / "run", optim={"ema_decays": (0.5,)}))
        old, student = FlowAR.from_pretrained(teacher), FlowARPipeline.from_pretrained(folder)
        drawn = student([0, 4], seed=1).latents
        assert torch.equal(drawn, student([0, 4], seed=1, schedule="2-step").latents)
        assert student.model.config.jumps == 4
        for name, weight in old.ar_transformer.state_dict().items():
            assert torch.equal(weight, student.model.ar_transformer.state_dict()[name])
        assert not torch.equal(old.flow_transformer.input_proj.weight, student.model.flow_transformer.input_proj.weight)
        assert student.model.flow_transformer.jump_embed is not None
        assert student.model.flow_transformer.jump_embed.last.weight.abs().max() > 0

    def test_it_learns(self, teacher: Path, tmp_path: Path) -> None:
        """One jump comes nearer to where many guided steps of the teacher lead."""
        optim = {"steps": 60, "lr": 2e-3, "batch_size": 32, "ema_decays": (0.9,)}
        guidance = {"guidance_scale": 4.0, "teacher_share": 0.5}
        folder = distill(config(teacher, tmp_path / "run", images=256, save_every=60, optim=optim, **guidance))
        old, student = FlowAR.from_pretrained(teacher), FlowAR.from_pretrained(folder)
        labels = torch.arange(40) % 5
        goal = old.sample(labels, schedule=Schedule(jump_times(32), 4.0, (0.0, 0.5)))
        distances = [
            (model.sample(labels, schedule="1-step") - goal).square().mean() for model in (new_student(old, 4), student)
        ]
        assert distances[1] < 0.75 * distances[0]

    def test_interrupted_and_resumed_equals_the_whole(
        self, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole, broken = (config(teacher, tmp_path / name) for name in ("whole", "broken"))
        distill(whole)
        run = DistillationRun(broken, ONE)
        call = type(run.step).__call__

        def interrupted(self: Any, *arguments: Any) -> Any:
            if self.state.step == 4:
                raise KeyboardInterrupt
            return call(self, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(type(run.step), "__call__", interrupted)
            with pytest.raises(KeyboardInterrupt):
                run.to_the_end()
        distill(replace(broken, resume=True))
        assert rows(tmp_path / "broken") == rows(tmp_path / "whole")
        states = [FlowAR.from_pretrained(tmp_path / name / "model").state_dict() for name in ("whole", "broken")]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])

    def test_micro_batches_change_nothing(self, teacher: Path, tmp_path: Path) -> None:
        for name, micro in (("whole", None), ("parts", 2)):
            distill(config(teacher, tmp_path / name, micro_batch=micro, optim={"steps": 1}))
        losses = [rows(tmp_path / name)[0]["loss"] for name in ("whole", "parts")]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)

    def test_images_to_learn_on(self, teacher: Path, tmp_path: Path, idx_folder: Path) -> None:
        old = FlowARPipeline.from_pretrained(teacher)
        ten = small_model(num_classes=10, num_inference_steps=2, tokenizer=old.tokenizer.record(), **FIELDS)
        FlowARPipeline(ten, old.tokenizer).save_pretrained(tmp_path / "ten")
        data = DataConfig(str(idx_folder), str(tmp_path / "ten"), image_channels=1)
        folder = distill(config(tmp_path / "ten", tmp_path / "run", data=data, context_noise=0.5))
        assert FlowAR.from_pretrained(folder).config.num_classes == 10


class TestOwnLatents:
    def test_are_what_the_teacher_draws(self, teacher: Path, tmp_path: Path) -> None:
        run = DistillationRun(config(teacher, tmp_path / "run", images=12), ONE)
        store = LatentStore.open(tmp_path / "run" / "latents")
        assert store.labels.tolist() == [*range(5), *range(5), 0, 1]
        latents, _ = run.pool.batch(torch.arange(12), Draws.for_images(0, 0, torch.arange(12)))
        assert latents.shape == (12, 4, 4, 4)
        assert latents.flatten(1).unique(dim=0).shape[0] == 12
        assert store.class_names == ()

    def test_go_on_where_they_were_interrupted(
        self, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("flowar.training.teacher_latents.SHARD_IMAGES", 4)
        DistillationRun(config(teacher, tmp_path / "whole"), ONE)
        DistillationRun(config(teacher, tmp_path / "run"), ONE)
        folder = tmp_path / "run" / "latents"
        (folder / "store.json").unlink()
        (folder / "shard_00002.safetensors").write_bytes(b"half")
        kept = (folder / "shard_00001.safetensors").stat().st_mtime_ns
        DistillationRun(config(teacher, tmp_path / "run"), ONE)
        assert (folder / "shard_00001.safetensors").stat().st_mtime_ns == kept
        for file in sorted(folder.glob("*.safetensors")):
            tensors, expected = (load_file(each) for each in (file, tmp_path / "whole" / "latents" / file.name))
            assert all(torch.equal(tensors[name], expected[name]) for name in expected)

    def test_of_another_teacher_are_refused(self, teacher: Path, tmp_path: Path) -> None:
        DistillationRun(config(teacher, tmp_path / "run"), ONE)
        with pytest.raises(DataError, match=r"latents: expected latents of images 20, got 16"):
            DistillationRun(config(teacher, tmp_path / "run", images=20), ONE)
        with pytest.raises(DataError, match=r"expected latents of schedule"):
            DistillationRun(config(teacher, tmp_path / "run", guidance_scale=2.0), ONE)


class TestRefused:
    def test_a_student_as_teacher(self, teacher: Path, tmp_path: Path) -> None:
        student = distill(config(teacher, tmp_path / "run", optim={"steps": 1}))
        with pytest.raises(ValueError, match=r"model: expected a model of velocities.*, got one distilled for 4"):
            distill(config(student, tmp_path / "again"))

    def test_latents_of_another_tokenizer_or_size(self, teacher: Path, tmp_path: Path, idx_folder: Path) -> None:
        for pixels, message in (("pixel:2", "another|tokenizer"), ("pixel:4", "expected latents of")):
            data = DataConfig(str(idx_folder), pixels, image_channels=1)
            with pytest.raises(DataError, match=f"data: .*({message})|num_classes"):
                distill(config(teacher, tmp_path / pixels, data=data))

    def test_no_model(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(CheckpointError):
            distill(config(tmp_path / "empty", tmp_path / "run"))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"jumps": 3}, "jumps: expected a power of two from 2 on, got 3"),
            ({"jumps": 1}, "jumps: expected an integer from 2 to 1024, got 1"),
            ({"teacher_share": 1.0}, r"teacher_share: expected a number in \(0, 1\), got 1"),
            ({"images": 0}, "images: expected a positive integer"),
            ({"parallel": "fsdp"}, "parallel: expected ddp for a distillation, got fsdp"),
            ({"context_noise": -1.0}, r"context_noise: expected a number in \[0, 100\]"),
        ],
    )
    def test_values_that_no_distillation_has(self, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=message):
            config(tmp_path, tmp_path, **changes)

    def test_configuration_is_kept(self, teacher: Path, tmp_path: Path) -> None:
        distill(config(teacher, tmp_path / "run", optim={"steps": 1}))
        kept = json.loads((tmp_path / "run" / "config.json").read_text())
        assert (kept["jumps"], kept["data"], kept["precision"]) == (4, "self", "float32")
