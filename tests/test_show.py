"""The pictures of `flowar show`: what is in them, and that the numbers behind them are those of the model."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

import numpy as np
import torch
from conftest import small_model
from PIL import Image
from test_cli import refused
from test_data import pictures, write_idx
from torch import Tensor

from flowar import FlowARPipeline
from flowar.cli import main
from flowar.data.sources import open_images
from flowar.evaluation.fashion_classifier import FashionClassifier
from flowar.images.shown import TILE, tile
from flowar.show.attention import attention_weights, even_attention, scale_attention
from flowar.show.neighbours import feature_spaces, nearest, pixels
from flowar.show.scales import pixel_means
from flowar.show.states import ode_states, sample_scales
from flowar.show.table import GAP, MARGIN, Table, draw_table
from flowar.storage.weights import save_tensors
from flowar.tokenizers.pixel import PixelTokenizer


@pytest.fixture(scope="module")
def pipeline() -> FlowARPipeline:
    """Of 8x8 grey images, with guidance at some of its four steps."""
    tokenizer = PixelTokenizer(image_channels=1, stride=2)
    preset = {"num_inference_steps": 4, "guidance_scale": 2.0, "guidance_interval": (0.0, 0.8)}
    return FlowARPipeline(small_model(tokenizer=tokenizer.record(), **preset), tokenizer)


@pytest.fixture(scope="module")
def folder(pipeline: FlowARPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("show") / "model"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_idx(tmp_path_factory.mktemp("show") / "idx", *pictures(30))


class TestCommand:
    @pytest.mark.parametrize(
        ("kind", "mode", "rows", "columns"),
        [
            ("scales", "L", 4, 3),
            ("path", "L", 4, 5),
            ("guidance", "L", 2, 5),
            ("steps", "L", 2, 7),
            ("neighbours", "L", 2, 5),
            ("attention", "RGB", None, None),
        ],
    )
    def test_pictures(
        self,
        capsys: pytest.CaptureFixture[str],
        folder: Path,
        data: Path,
        tmp_path: Path,
        kind: str,
        mode: str,
        rows: int | None,
        columns: int | None,
    ) -> None:
        output = tmp_path / "new" / "picture.png"
        main(["show", kind, *map(str, ("--model", folder, "--classes", "4,1", "--data", data, "--output", output))])
        assert capsys.readouterr().out == f"{kind} in {output}\n"
        image = Image.open(output)
        assert (image.format, image.mode) == ("PNG", mode)
        if rows and columns:
            across, down = tiles(image)
            assert (down, across) == (rows, columns)
        else:
            assert image.width == 1300

    def test_default_output(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        main(["show", "scales", "--model", str(folder)])
        assert tiles(Image.open("scales.png")) == (3, 10)

    def test_pixel_means(self) -> None:
        """One colour a position of the grid, also where its sides do not divide the picture's."""
        picture = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
        means = np.asarray(pixel_means(picture, (2, 4)))
        expected = np.asarray(picture, dtype=float).reshape(2, 4, 4, 2).mean((1, 3))
        assert np.abs(means[::4, ::2] - expected).max() <= 0.5
        assert (means == means[::4, ::2].repeat(4, 0).repeat(2, 1)).all()
        assert pixel_means(picture, (3, 3)).size == (8, 8)

    def test_classes_and_seed_matter(self, folder: Path, tmp_path: Path) -> None:
        variants = (["--classes", "1", "--seed", "3"], ["--classes", "2", "--seed", "3"], ["--classes", "1"])
        for name, options in zip("abc", variants, strict=True):
            main(["show", "scales", "--model", str(folder), *options, "--output", str(tmp_path / f"{name}.webp")])
        assert len({Image.open(tmp_path / f"{name}.webp").tobytes() for name in "abc"}) == 3

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["scales", "--classes", "5"], "class_labels: expected integers from 0 to 4, got 5"),
            (["path", "--scale", "3"], "scale: expected an integer from 0 to 2, got 3"),
            (["attention", "--scale", "-1"], "scale: expected an integer >= 0, got -1"),
            (["attention", "--query", "[0, 4]"], "query: expected [row, column] within 4x4, got [0, 4]"),
            (["guidance", "--guidance_scales", "[-1]"], "guidance_scales[0]: expected a number in [0, 1000], got -1.0"),
            (["guidance", "--guidance_scales", "[]"], "guidance_scales: expected one or more numbers, got none"),
            (["steps", "--steps", "[2, 0]"], "steps[1]: expected an integer from 1 to 10000, got 0"),
            (["neighbours"], "data: expected the folder or tars of the training images, got none"),
            (["neighbours", "--data", "nowhere"], "data: expected a folder, got nowhere (does not exist)"),
            (["neighbours", "--data", "{data}", "--neighbours", "0"], "neighbours: expected a positive integer, got 0"),
            (
                ["neighbours", "--data", "{data}", "--neighbours", "31"],
                "data: expected 31 images of 1x8x8 or more, got 30",
            ),
            (
                ["neighbours", "--data", "{data}", "--extractor", "eye"],
                "extractor: expected one of inception, efficientnet-lite0, fashion, got eye",
            ),
            (["circus"], "kind: expected scales or path or"),
            (["scales", "path"], "kind: expected scales or path or"),
        ],
    )
    def test_bad_input(
        self,
        capsys: pytest.CaptureFixture[str],
        folder: Path,
        data: Path,
        tmp_path: Path,
        arguments: list[str],
        message: str,
    ) -> None:
        words = [word.format(data=data) for word in arguments]
        assert message in refused(capsys, ["show", *words, "--model", folder, "--output", tmp_path / "a.png"])
        assert not (tmp_path / "a.png").exists()

    def test_no_kind(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert refused(capsys, ["show"]).startswith("the following arguments are required: kind;")


def tiles(picture: Image.Image) -> tuple[int, int]:
    """Images across and down a table, counted by its size less that of its text; rows may have captions."""
    return round((picture.width - 120) / (TILE + GAP)), round((picture.height - 90) / (TILE + GAP + 4))


class TestTable:
    @pytest.mark.parametrize(
        ("size", "expected"),
        [((28, 28), (112, 112)), ((8, 4), (112, 56)), ((150, 150), (150, 150)), ((512, 256), (256, 128))],
    )
    def test_tiles(self, size: tuple[int, int], expected: tuple[int, int]) -> None:
        assert tile(Image.new("L", size)).size == expected

    @pytest.mark.parametrize("mode", ["L", "RGB"])
    def test_pixels_are_squares_and_text_is_inside(self, mode: str) -> None:
        image = Image.effect_noise((7, 7), 90).convert(mode)
        table = Table("a title wider than the pictures are", ["a long name of a column", "b"], ["row"], [[image, None]])
        picture = draw_table(table)
        assert picture.mode == mode
        enlarged = image.resize((112, 112), Image.Resampling.NEAREST).tobytes()
        top = picture.height - MARGIN - GAP - 112
        found = [x for x in range(picture.width) if picture.crop((x, top, x + 112, top + 112)).tobytes() == enlarged]
        assert len(found) == 1
        grey = picture.convert("L")
        edges = [(0, 0, 8, grey.height), (grey.width - 8, 0, grey.width, grey.height), (0, 0, grey.width, 8)]
        assert all(grey.crop(edge).getextrema() == (255, 255) for edge in edges)


class TestStates:
    def test_path_ends_where_sampling_does(self, pipeline: FlowARPipeline) -> None:
        labels = torch.tensor([4, 0])
        tokens = sample_scales(pipeline.model, labels, seed=5)
        for scale, expected in enumerate(tokens):
            first, *_, last = ode_states(pipeline.model, labels, 5, scale, range(5))
            torch.testing.assert_close(last.state, expected, atol=1e-4, rtol=1e-4)
            assert (first.t, last.t) == (1, 0)
            assert torch.equal(last.end, last.state)

    def test_last_step_goes_to_the_predicted_end(self, pipeline: FlowARPipeline) -> None:
        before, last = ode_states(pipeline.model, torch.tensor([1]), 0, 2, [3, 4])
        torch.testing.assert_close(before.end, last.state)

    def test_scales_are_those_of_sample(self, pipeline: FlowARPipeline) -> None:
        labels = torch.tensor([1, 2])
        last = sample_scales(pipeline.model, labels, 3)[-1]
        assert torch.equal(pipeline.model.pyramid.to_grid(last, 2), pipeline.model.sample(labels, seed=3))


class TestAttention:
    @pytest.mark.parametrize("qk_norm", [False, True])
    def test_weights_are_those_of_the_model(self, qk_norm: bool) -> None:
        """Times the values, they are what the block hands to its output projection."""
        model = small_model(qk_norm=qk_norm)
        ar = model.ar_transformer
        attention, seen = ar.blocks[0].attn, {}
        attention.qk_norm.register_forward_hook(lambda module, inputs, packed: seen.update(packed=packed))
        attention.proj.register_forward_pre_hook(lambda module, inputs: seen.update(mixed=inputs[0]))
        latents = torch.randn(2, 4, 4, 4)
        with torch.no_grad():
            model.conditions(latents, torch.tensor([0, 1]))
        weights = attention_weights(seen["packed"], ar)
        assert weights.shape == (2, 2, 21, 21)
        values = seen["packed"].chunk(3, -1)[2].unflatten(-1, (2, 16))
        mixed = torch.einsum("bhij,bjhd->bihd", weights, values).flatten(2)
        torch.testing.assert_close(mixed, seen["mixed"], atol=1e-5, rtol=1e-5)

    def test_hooks_see_what_is_attended_to(self) -> None:
        """With norms of q and k, a scaling of the projection changes nothing."""
        tokens, labels = [torch.randn(1, n, 4) for n in (1, 4, 16)], torch.tensor([0])
        model = small_model(qk_norm=True)
        expected = scale_attention(model, labels, tokens, 0).between_scales[0]
        with torch.no_grad():
            model.ar_transformer.blocks[0].attn.qkv.weight.mul_(3)
            model.ar_transformer.blocks[0].attn.qkv.bias.mul_(3)
        torch.testing.assert_close(scale_attention(model, labels, tokens, 0).between_scales[0], expected)

    def test_shares(self, pipeline: FlowARPipeline) -> None:
        tokens = [torch.randn(2, n, 4) for n in (1, 4, 16)]
        attention = scale_attention(pipeline.model, torch.tensor([0, 1]), tokens, query=3)
        between: Tensor = attention.between_scales
        assert between.shape == (2, 2, 3, 3)
        torch.testing.assert_close(between.sum(-1), torch.ones(2, 2, 3))
        assert between.triu(1).count_nonzero() == 0
        assert attention.of_query.shape == (2, 2, 21)
        torch.testing.assert_close(attention.of_query[..., :5].sum(-1), torch.ones(2, 2))
        assert attention.of_query[..., 5:].count_nonzero() == 0

    def test_queries_and_keys_that_are_zero_see_evenly(self, pipeline: FlowARPipeline) -> None:
        ar = pipeline.model.ar_transformer
        weights = attention_weights(torch.zeros(1, 21, 96), ar)
        assert torch.allclose(weights[0, 0, 2, :5], torch.full((5,), 0.2))
        expected = torch.tensor([[1, 0, 0], [0.2, 0.8, 0], [1 / 21, 4 / 21, 16 / 21]])
        torch.testing.assert_close(even_attention(ar.lengths), expected)

    def test_model_is_left_as_it_was(self, pipeline: FlowARPipeline) -> None:
        model = small_model()
        scale_attention(model, torch.tensor([0]), [torch.randn(1, n, 4) for n in (1, 4, 16)], query=0)
        assert not any(module._forward_hooks for module in model.modules())


class TestNeighbours:
    def test_brute_force(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """In batches smaller than the number of neighbours wanted, too."""
        source = open_images(data)
        (images,) = source.batches(100)
        monkeypatch.setattr("flowar.show.neighbours.BATCH", 2)
        queries = images[[7, 20]].clone()
        queries[:, 0, 0, 0] ^= 1
        (found,) = nearest(queries, source, [pixels], 3)
        distances = (queries[:, None].float() - images.float()).square().mean((2, 3, 4)).sqrt()
        expected = distances.topk(3, largest=False)
        torch.testing.assert_close(found.distances, expected.values, atol=1e-3, rtol=1e-3)
        assert torch.equal(found.images, images[expected.indices])
        assert torch.equal(found.images[:, 0], images[[7, 20]])

    def test_features(self, tmp_path: Path) -> None:
        """An image is nearest to itself, at distance 0, in the features of the classifier too."""
        save_tensors(tmp_path / "judge.safetensors", FashionClassifier().state_dict())
        images = torch.randint(0, 256, (6, 1, 28, 28), dtype=torch.uint8)
        source = open_images(write_idx(tmp_path / "idx", images[:, 0], torch.arange(6)))
        spaces = feature_spaces("fashion", tmp_path / "judge.safetensors", torch.device("cpu"))
        assert [*spaces] == ["pixels", "fashion"]
        for found in nearest(images[4:], source, [*spaces.values()], 2):
            assert torch.equal(found.images[:, 0], images[4:])
            assert found.distances[:, 0].max() < 1e-3 * found.distances[:, 1].min()

    def test_spaces_are_apart(self, data: Path) -> None:
        def corner(images: Tensor) -> Tensor:
            return images[:, 0, :1, 0].float()

        source = open_images(data)
        (images,) = source.batches(100)
        whole, at_corner = nearest(images[:3], source, [pixels, corner], 1)
        assert torch.equal(whole.images[:, 0], images[:3])
        assert at_corner.distances.tolist() == [[0.0]] * 3
