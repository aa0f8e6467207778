"""The experiments: variants do what their names say, rows are resumed, tables and statements follow from rows."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL, error
from test_data import write_idx
from torch import Tensor

from experiments import given_scales, run
from experiments.budgets import BUDGETS, Budget
from experiments.catalog import EXPERIMENTS, Experiment, Variant, chosen
from experiments.judging import draw
from experiments.report import figure, insert, section
from experiments.results import Agreement, Result, Rows, results
from experiments.tokenizers import TRAINED
from experiments.training import Data
from experiments.variants import MODELS, engine_serves, posterior
from experiments.variants.alignment import CHANNELS, features
from experiments.variants.flow_model import straight_time
from experiments.variants.scale_sequence import encode_scales
from flowar import FlowAR
from flowar.data.sources import open_idx
from flowar.errors import DataError
from flowar.evaluation.fashion_classifier import FashionClassifier
from flowar.networks.flow_transformer import FlowTransformer
from flowar.storage.weights import save_tensors
from flowar.tokenizers.pixel import PixelTokenizer

CONFIG = replace(SMALL, flow_width=32, flow_heads=2, num_inference_steps=2, dropout=0.0)
POOLED, PER_TOKEN = ("pooled adaLN",), ("per-token flow", "per-token diffusion")
TINY = Budget(40, 2, 8, 1e-3, 16, 2, 2, 1, 2, samples=20, inference_steps=1, tokenizer_steps=1, seeds=(0, 1))


def model_of(name: str) -> FlowAR:
    """A model whose layers all matter."""
    torch.manual_seed(0)
    model = MODELS[name](CONFIG).eval()
    for parameter in model.flow_transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def batch(name: str, images: int = 8) -> dict[str, Tensor]:
    shape = {"encoded scales": (4, CONFIG.tokens, 1), "aligned": (4 + CHANNELS, 4, 4)}.get(name, (4, 4, 4))
    return {
        "latents": torch.randn(images, *shape),
        "class_labels": torch.arange(images) % 5,
        "noise": torch.randn(images, CONFIG.tokens, 4),
        "times": torch.rand(3, images),
    }


def velocity_of(model: FlowAR, z: Tensor, scale: int = 2) -> Tensor:
    x_t = torch.randn(1, z.shape[1], 4, generator=torch.Generator().manual_seed(1))
    return model.flow_transformer(x_t, torch.full((1, 1), 0.4), z, [scale]).detach()


@pytest.mark.parametrize("name", MODELS)
def test_trains_and_samples(name: str) -> None:
    torch.manual_seed(0)
    model, data = MODELS[name](CONFIG), batch(name)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        loss = model.loss(**data).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    latents = model.eval().sample([1, 2], naive=not engine_serves(model), progress=False)
    assert latents.shape == (2, 4, 4, 4)
    assert latents.isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_semantics_reach_the_velocity(name: str) -> None:
    """At their own position, at others too where there is attention, and pooled ones without any position."""
    model, z = model_of(name), torch.randn(1, 16, CONFIG.ar_width)
    changed = z.clone()
    changed[:, 5] += torch.randn(CONFIG.ar_width)
    difference = (velocity_of(model, changed) - velocity_of(model, z)).abs().amax((0, 2))
    others = torch.arange(16) != 5
    assert difference[5] > 1e-4
    assert (difference[others] > 1e-6).any() == (name not in PER_TOKEN)
    permuted = velocity_of(model, z[:, torch.randperm(16)])
    assert (error(permuted, velocity_of(model, z)) < 1e-4) == (name in POOLED)


@pytest.mark.parametrize("name", MODELS)
def test_scales_do_not_see_each_other(name: str) -> None:
    """In the flow transformer, so that one pass over all scales in training is what sampling does scale by scale."""
    model = model_of(name)
    x_t, z = torch.randn(2, CONFIG.tokens, 4), torch.randn(2, CONFIG.tokens, CONFIG.ar_width)
    t = torch.rand(2, 3)
    together = model.flow_transformer(x_t, t, z, range(3)).split(list(CONFIG.scale_lengths), 1)
    parts = zip(x_t.split(list(CONFIG.scale_lengths), 1), z.split(list(CONFIG.scale_lengths), 1), strict=True)
    for k, (x_k, z_k) in enumerate(parts):
        assert error(model.flow_transformer(x_k, t[:, k : k + 1], z_k, [k]), together[k]) < 1e-4


@pytest.mark.parametrize("name", ["per-scale diffusion", "per-token diffusion"])
def test_diffusion_loss_is_the_error_of_epsilon(name: str) -> None:
    """On the cosine schedule: what the network sees is cos(θ) x0 + sin(θ) ε, at the time θ / (π / 2)."""
    model, data = model_of(name).train(), batch(name)
    targets, inputs = model.pyramid(data["latents"])
    z = model.ar_transformer(inputs, data["class_labels"])
    times = data["times"].clamp(max=0.95)
    theta = (times.T * torch.pi / 2).repeat_interleave(torch.tensor(CONFIG.scale_lengths), 1)[..., None]
    seen = theta.cos() * targets + theta.sin() * data["noise"]
    epsilon = FlowTransformer.forward(model.flow_transformer, seen, times.T, z, range(3))
    squared = (epsilon - data["noise"]).square().mean(2).split(list(CONFIG.scale_lengths), 1)
    expected = torch.stack([part.mean() for part in squared])
    dropped = torch.zeros(8, dtype=torch.bool)
    got = model.loss(**(data | {"times": times}), dropped=dropped)
    assert error(got.per_scale, expected) < 1e-3


def test_diffusion_clock() -> None:
    assert straight_time(torch.tensor([0.0, 0.5])).tolist() == pytest.approx([0.0, 0.5])
    assert 0.96 < straight_time(torch.ones(())) < 0.98


def test_encoded_scales_of_a_constant_image_are_constant() -> None:
    """And the last scale is the encoding of the image itself."""
    tokenizer = PixelTokenizer(1, 2)
    model, images = MODELS["encoded scales"](CONFIG), torch.rand(2, 1, 8, 8)
    mean, std = encode_scales(tokenizer, images, CONFIG)
    assert mean.shape == std.shape == (2, 4, CONFIG.tokens, 1)
    assert torch.equal(mean[:, :, -16:, 0].unflatten(2, (4, 4)), tokenizer.encode(images))
    constant, _ = encode_scales(tokenizer, torch.full((1, 1, 8, 8), 0.3), CONFIG)
    targets, inputs = model.pyramid(constant)
    assert torch.allclose(targets, torch.tensor(0.3), atol=1e-5)
    assert torch.allclose(inputs, torch.tensor(0.3), atol=1e-5)
    with pytest.raises(ValueError, match=r"latents: expected shape \[2, 4, 21, 1\]"):
        model.conditions(torch.zeros(2, 4, 4, 4), torch.zeros(2, dtype=torch.int64))


def test_images_are_encoded_once_for_all_models_that_train_on_the_same(data: Data) -> None:
    """Scales are made of latents, but for those of images that are encoded at every scale."""
    coarse = replace(CONFIG, latent_size=7, latent_channels=16, scales=(1, 7))
    fine = replace(coarse, scales=(1, 4, 7))
    plain = [
        data.store("pixel:4", MODELS[name](config)) for name in ("flowar", "addition") for config in (coarse, fine)
    ]
    assert all(store is plain[0] for store in plain)
    encoded = [data.store("pixel:4", MODELS["encoded scales"](config)) for config in (coarse, fine)]
    assert [store.shards[0].moments.shape[-2] for store in encoded] == [1 + 49, 1 + 16 + 49]
    assert data.store("pixel:4", MODELS["aligned"](fine)).shards[0].moments.shape[3] == 16 + CHANNELS


def test_aligned_states_point_where_the_features_do() -> None:
    """At first at random, then ever more; what is behind the latents is the image's features, and nothing is drawn."""
    torch.manual_seed(0)
    model, tokenizer, images = MODELS["aligned"](CONFIG), PixelTokenizer(1, 2), torch.rand(2, 1, 8, 8)
    mean, std = posterior(model, tokenizer, images)
    assert torch.equal(mean[:, :4], tokenizer.encode(images))
    assert torch.equal(mean[:, 4:], features(images, (4, 4)))
    assert std.shape == mean.shape
    assert not std[:, 4:].any()
    given = batch("aligned", 2) | {"latents": mean}
    alone = FlowAR.loss(model, **(given | {"latents": mean[:, :4]}))
    aligned = model.loss(**given)
    assert torch.equal(aligned.per_image, alone.per_image)
    assert (aligned.loss - alone.loss).item() == pytest.approx(0.5, abs=0.2)
    optimizer = torch.optim.Adam(model.projection.parameters(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        model.loss(**given).loss.backward()
        optimizer.step()
    assert (model.loss(**given).loss - alone.loss).item() < 0.2


@pytest.mark.parametrize("budget", BUDGETS)
def test_catalog_can_be_built(budget: str) -> None:
    sizes = {}
    for experiment in EXPERIMENTS:
        assert len({variant.name for variant in experiment.variants}) == len(experiment.variants)
        for variant in experiment.variants:
            with torch.device("meta"):
                config = variant.config(BUDGETS[budget], 8)
            model = MODELS[variant.model](config) if experiment.name in ("sizes", "blocks") else None
            if model:
                sizes[variant.name] = sum(parameter.numel() for parameter in model.parameters())
    assert sizes["small"] < sizes["base"] < sizes["large"]
    assert sizes["attn_mlp"] == pytest.approx(sizes["attn_cross_mlp"], rel=0.03)


def test_recipes_are_shared_where_only_the_name_differs() -> None:
    base, steps = Variant("a", 1.0), Variant("c", changes={"num_inference_steps": 3})
    assert base.recipe(TINY) == Variant("b").recipe(TINY)
    assert base.recipe(TINY) != steps.recipe(TINY)
    assert base.training_recipe(TINY) == steps.training_recipe(TINY)
    assert base.training_recipe(TINY) != Variant("a", model="addition").training_recipe(TINY)
    assert base.training_recipe(TINY) != base.training_recipe(replace(TINY, steps=3))
    longer = replace(TINY, tokenizer_steps=2)
    assert base.training_recipe(TINY) == base.training_recipe(longer)
    trained = Variant("a", tokenizer="AutoencoderDC")
    assert trained.training_recipe(TINY) != trained.training_recipe(longer)
    with pytest.raises(ValueError, match=r"experiment: expected all or one of sizes, .* got nothing"):
        chosen("nothing")


class TestAgreement:
    def found(self, distances: list[list[float]], papers: list[float | None]) -> list[Result]:
        return [
            Result(
                Variant(str(i), paper),
                [{"frechet_distance": value, "agreement": 0.5, "parameters": 9} for value in values],
            )
            for i, (values, paper) in enumerate(zip(distances, papers, strict=True))
        ]

    def statement(self, distances: list[list[float]], papers: list[float | None]) -> str:
        agreement = Agreement.of(self.found(distances, papers))
        assert agreement
        return agreement.statement()

    def test_of_orders(self) -> None:
        papers: list[float | None] = [3.0, 2.0, None, 1.0]
        other = [0.0, 0.0, 0.0]
        same = self.statement([[30, 31, 32], [20, 21, 22], other, [10, 11, 12]], papers)
        assert same.startswith("Agrees with the paper's order: 3 of 3 pairs of variants are in it, 3 of them")
        assert same.endswith("by seed: 1.00, 1.00, 1.00.")
        opposite = self.statement([[10, 11, 12], [20, 21, 22], other, [30, 31, 32]], papers)
        assert opposite.startswith("Does not agree with the paper's order: 0 of 3 pairs")
        assert "3 are clearly in the opposite one" in opposite
        assert "0 of them by more than 2 standard errors" in self.statement([[10, 30], [20, 21]], [1.0, 2.0])
        assert self.statement([[10, 35], [20, 21]], [1.0, 2.0]).startswith("Neither")
        assert Agreement.of(self.found([[1], [2]], [None, 3.0])) is None

    def test_section(self) -> None:
        found = self.found([[30, 32], [20, 22]], [3.0, None])
        experiment = Experiment("e", "Title", "Note.", [each.variant for each in found])
        text = section(experiment, found, "As expected.", "figures/e.png")
        assert "| 0 | 9 | 3.00 (1) | 31.0 ± 1.4 (2) | 0.500 ± 0.000 |" in text
        assert "| 1 | 9 |  | 21.0 ± 1.4 (1) | 0.500 ± 0.000 |" in text
        assert "The paper has no order for these.\n\nAs expected.\n\n![Title](figures/e.png)" in text
        assert len(figure(experiment, found).axes) == 2


def test_report_needs_its_markers(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("a\n<!-- results x -->\nold\n<!-- end of results x -->\nb\n")
    insert(tmp_path / "README.md", "x", "new")
    assert (tmp_path / "README.md").read_text() == "a\n<!-- results x -->\n\nnew\n\n<!-- end of results x -->\nb\n"
    with pytest.raises(DataError, match="expected the markers <!-- results y -->"):
        insert(tmp_path / "README.md", "y", "new")


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command line for a tiny budget, two variants and images of noise."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (200, 28, 28), generator=generator, dtype=torch.uint8)
    data = write_idx(tmp_path / "data", images, torch.arange(200, dtype=torch.uint8) % 10)
    for name in ("images-idx3", "labels-idx1"):
        for path in data.glob(f"train-{name}-ubyte*"):
            shutil.copy(path, path.with_name(path.name.replace("train", "t10k")))
    torch.manual_seed(0)
    save_tensors(tmp_path / "judge.safetensors", FashionClassifier().state_dict())
    (tmp_path / "README.md").write_text("<!-- results small -->\n<!-- end of results small -->\n")
    variants = [
        Variant("one", 2.0, tokenizer="pixel:4"),
        Variant("two", 1.0, tokenizer="pixel:4", changes={"num_inference_steps": 2}),
    ]
    monkeypatch.setattr("experiments.catalog.EXPERIMENTS", [Experiment("tiny", "Tiny", "Note.", variants)])
    monkeypatch.setattr("experiments.report.EXPERIMENTS", [Experiment("tiny", "Tiny", "Note.", variants)])
    monkeypatch.setitem(BUDGETS, "small", TINY)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)  # the tests have theirs
    paths = {"data": "data", "output": "output", "classifier": "judge.safetensors", "report": "."}
    return ["all", "--device", "cpu", "--jobs", "1", *(f"--{name}={tmp_path / path}" for name, path in paths.items())]


@pytest.fixture
def data(arguments: list[str], tmp_path: Path) -> Data:
    pytest.importorskip("diffusers", reason="needs the extra [vae]")
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra [eval]")
    return Data(tmp_path / "data", TINY, torch.device("cpu"), tmp_path / "output", TINY.images)


@pytest.mark.parametrize("name", TRAINED)
def test_tokenizers_are_trained_once(data: Data, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    runs = [(Variant("a"), 0), (Variant("b", tokenizer=name), 0), (Variant("b", tokenizer=name), 1)]
    assert run.Runner(data).missing_tokenizers(runs) == [name]
    tokenizer = data.tokenizer(name)
    assert (tokenizer.kind, tokenizer.channels, tokenizer.stride, tokenizer.image_channels) == ("autoencoder", 8, 4, 1)
    assert tokenizer.encode(torch.zeros(1, 1, 28, 28)).shape == (1, 8, 7, 7)
    assert run.Runner(data).missing_tokenizers(runs) == []
    monkeypatch.setattr("experiments.tokenizers.train_tokenizer", None)  # from here on nothing can be trained
    again = replace(data, _tokenizers={})
    assert again.tokenizer(name).record() == tokenizer.record()
    with pytest.raises(TypeError):
        replace(data, budget=replace(TINY, tokenizer_steps=2), _tokenizers={}).tokenizer(name)


def test_rehearsal_leaves_no_tokenizer(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands in for the tokenizer where it took place, and nowhere else."""
    monkeypatch.setattr("experiments.tokenizers.BATCH", 2)
    monkeypatch.setattr("experiments.tokenizers.TIMED_STEPS", 2)
    data.rehearse_tokenizer("AutoencoderDC")
    assert data.tokenizer("AutoencoderDC").channels == 8
    assert run.Runner(data).missing_tokenizers([(Variant("a", tokenizer="AutoencoderDC"), 0)]) == ["AutoencoderDC"]
    assert not data.output.exists()


@pytest.mark.slow
def test_runs_and_resumes(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run.main([*arguments, "--estimate"])
    assert capsys.readouterr().out.startswith("4 rows to run, about 0 minutes")
    path = tmp_path / "results" / "small.jsonl"
    assert not path.exists()
    run.main(arguments)
    rows, page = path.read_text().splitlines(), (tmp_path / "README.md").read_text()
    assert len(rows) == 4
    assert len([*(tmp_path / "output" / "weights").iterdir()]) == 2  # both variants sample from the same
    assert "### Tiny" in page
    assert (tmp_path / "figures" / "small-tiny.png").exists()
    path.write_text("".join(f"{row}\n" for row in rows[:3]))  # killed before the last one
    trained: list[Any] = []
    monkeypatch.setattr("experiments.run.train", lambda *arguments, **options: trained.append(arguments))
    run.main(arguments)
    again = Rows(path)
    assert len(again.rows) == 4
    assert trained == []
    assert again.rows[3]["frechet_distance"] == pytest.approx(Rows(path).rows[3]["frechet_distance"])
    found = results(chosen("tiny")[0], TINY, again)
    assert found
    capsys.readouterr()
    given_scales.main([each for each in arguments if each.startswith(("all", "--data", "--output", "--classifier"))])
    shown = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in shown] == ["one", "two"]
    alone = [line.split(":")[1].split(",")[0].strip() for line in shown]  # no scale given
    assert alone == [f"{each.mean('frechet_distance'):.1f}" for each in found]


@pytest.mark.slow
def test_runs_students(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of one kind share weights, whatever they are judged by, and a teacher."""
    teacher = Variant("teacher", tokenizer="pixel:4")
    students = [replace(teacher, name=f"{n}", student="decoupled, splitting", jumps=n) for n in (1, 2)]
    for module in ("catalog", "report"):
        monkeypatch.setattr(f"experiments.{module}.EXPERIMENTS", [Experiment("tiny", "Tiny", "", [teacher, *students])])
    run.main(arguments)
    assert len([*(tmp_path / "output" / "weights").iterdir()]) == 4
    found = results(chosen("tiny")[0], TINY, Rows(tmp_path / "results" / "small.jsonl"))
    assert found
    assert len({each.mean("frechet_distance") for each in found}) == 3


@pytest.mark.parametrize("name", ["flowar", "encoded scales"])
def test_tokens_of_all_scales_given_are_the_image(name: str) -> None:
    """And of some, those that the model is trained on."""
    tokenizer, images = PixelTokenizer(1, 2), torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    model = MODELS[name](CONFIG).eval()
    tokens = given_scales.scale_tokens(model, tokenizer, images)
    indices = torch.tensor([2, 0])
    every, first = (given_scales.first_scales(tokens, given)(indices) for given in (3, 1))
    assert torch.equal(draw(model, tokenizer, indices, [0, 1], every), images[indices])
    assert first.held == 1
    assert torch.equal(first.tokens[0], tokens[0][[2, 0]])


def test_real_images_are_class_balanced_and_the_last(data: Data) -> None:
    whole, images = open_idx(data.folder, "train"), given_scales.real_images(data, 30)
    assert images.shape == (30, 1, 28, 28)
    places = [int((whole.images == image).flatten(1).all(1).nonzero()) for image in images]
    assert [int(whole.labels[place]) for place in places] == [*range(10)] * 3
    assert sorted(places) == [*range(170, 200)]  # labels of the fixture go round


@pytest.mark.slow
def test_runs_with_a_tokenizer_of_its_own(
    arguments: list[str], data: Data, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained before all else, by the first run alone."""
    (experiment,) = chosen("tiny")
    tiny = replace(experiment, variants=[Variant("one", tokenizer="AutoencoderDC")])
    monkeypatch.setattr("experiments.catalog.EXPERIMENTS", [tiny])
    monkeypatch.setattr("experiments.report.EXPERIMENTS", [tiny])
    run.main(arguments)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "tokenizer AutoencoderDC trained"
    assert [line.split(":")[1] for line in shown[1:]] == [" one, seed 0", " one, seed 1"]
    (data.output.parent / "results" / "small.jsonl").unlink()
    monkeypatch.setattr("experiments.tokenizers.train_tokenizer", None)
    run.main(arguments)
    assert capsys.readouterr().out.startswith("1 of 2, ")
