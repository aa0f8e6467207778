"""Edits: what is known stays, what is not is drawn, and bad input is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import error, small_model
from PIL import Image

from flowar import FlowARPipeline
from flowar.cli import main
from flowar.editing import edits
from flowar.editing.known import pins_of_known, pins_of_scales, pins_where
from flowar.editing.pictures import kept_pixels, known_latents, open_mask, open_picture, to_latents, white_parts
from flowar.tokenizers.pixel import PixelTokenizer

SIZE = 8  # pixels; latents of 4x4, scales 1, 2, 4


@pytest.fixture(scope="module")
def pipeline() -> FlowARPipeline:
    """Its tokenizer loses nothing but what 8 bits lose."""
    tokenizer = PixelTokenizer(image_channels=1, stride=2)
    names = ("cat", "dog", "bird", "fish", "frog")
    return FlowARPipeline(small_model(tokenizer=tokenizer.record(), class_names=names, num_classes=5), tokenizer)


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE), dtype=np.uint8))


@pytest.fixture
def mask() -> Image.Image:
    """The right half, and one pixel more, by a little."""
    white = np.full((SIZE, SIZE), 127, dtype=np.uint8)
    white[:, SIZE // 2 :] = 255
    white[0, SIZE // 2 - 1] = 128
    return Image.fromarray(white)


def pixels(image: Image.Image) -> np.ndarray[Any, Any]:
    return np.array(image).astype(int)


class TestKnown:
    def test_latents_that_a_mask_touches_are_not_known(self, pipeline: FlowARPipeline, mask: Image.Image) -> None:
        known = known_latents(pipeline, mask)[0, 0]
        assert known.tolist() == [[1, 0, 0, 0], *[[1, 1, 0, 0]] * 3]

    @pytest.mark.parametrize(
        ("mode", "white", "black"),
        [
            ("1", 1, 0),
            ("L", 128, 127),
            ("LA", (255, 129), (255, 127)),
            ("RGB", (120, 140, 120), (255, 0, 0)),
            ("RGBA", (255, 255, 255, 255), (255, 255, 255, 0)),
            ("I;16", 33000, 32000),
            ("I", 1, 0),
            ("F", 0.6, 0.4),
            ("CMYK", (0, 0, 0, 0), (0, 0, 0, 255)),
        ],
    )
    def test_masks_of_every_kind(
        self, pipeline: FlowARPipeline, mask: Image.Image, tmp_path: Path, mode: str, white: Any, black: Any
    ) -> None:
        expected = np.array(white_parts(mask))
        kind = Image.new(mode, mask.size, black)
        kind.paste(white, mask=white_parts(mask))
        assert np.array_equal(np.array(white_parts(kind)), expected)
        kind.save(tmp_path / "mask.tif")
        assert np.array_equal(np.array(white_parts(open_mask(tmp_path / "mask.tif"))), expected)

    def test_palette_with_a_transparent_colour(self, mask: Image.Image, tmp_path: Path) -> None:
        palette = white_parts(mask).point(lambda value: 1 if value else 0).convert("L")
        palette.putpalette([255, 255, 255] * 2)
        palette.save(tmp_path / "mask.png", transparency=0)
        assert np.array_equal(np.array(open_mask(tmp_path / "mask.png")), np.array(white_parts(mask)))

    @pytest.mark.parametrize("quality", [30, 75])
    def test_noise_of_jpeg_does_not_matter(self, tmp_path: Path, quality: int) -> None:
        mask = Image.new("L", (64, 64))
        mask.paste(255, (13, 17, 50, 44))
        mask.save(tmp_path / "mask.jpg", quality=quality)
        opened = open_mask(tmp_path / "mask.jpg")
        assert len(opened.getcolors()) > 2
        assert np.array_equal(np.array(white_parts(opened)), np.array(mask))

    def test_coarse_tokens_are_means_of_what_is_known(self) -> None:
        model = small_model()
        latents, known = torch.randn(1, 4, 4, 4), torch.zeros(1, 1, 4, 4)
        known[..., :2, :3] = 1
        hidden = torch.where(known == 1, latents, torch.nan)  # what is not known must not matter
        pins = pins_where(model, hidden, known)
        assert pins.masks[0].flatten().tolist() == [6 / 16]
        assert pins.masks[1].flatten().tolist() == [1, 0.5, 0, 0]
        assert error(pins.tokens[0][0, 0], latents[0, :, :2, :3].mean((1, 2))) < 1e-6
        assert error(pins.tokens[1][0, 1], latents[0, :, :2, 2].mean(1)) < 1e-6
        assert torch.equal(pins.tokens[2][0, :3].T, latents[0, :, 0, :3])
        assert (pins.tokens[1][0, 2:] == 0).all()

    def test_all_of_some_scales(self) -> None:
        model, latents = small_model(), torch.randn(2, 4, 4, 4)
        pins = pins_of_scales(model, latents, 2)
        assert [float(mask.mean()) for mask in pins.masks] == [1, 1, 0]
        assert error(torch.cat([*pins.tokens], 1), model.pyramid(latents)[0]) == 0
        for count in (-1, 3):
            with pytest.raises(ValueError, match=rf"keep_scales: expected an integer from 0 to 2, got {count}"):
                pins_of_scales(model, latents, count)


class TestInpaint:
    def test_what_is_black_stays(self, pipeline: FlowARPipeline, picture: Image.Image, mask: Image.Image) -> None:
        first, second = edits.inpaint(pipeline, picture, mask, "dog", 2, num_inference_steps=3)
        known = np.kron(known_latents(pipeline, mask)[0, 0].numpy(), np.ones((2, 2))) == 1
        assert np.abs(pixels(first) - pixels(picture))[known].max() <= 1
        assert (pixels(first) != pixels(second))[~known].any()

    def test_exactly_where_asked(self, pipeline: FlowARPipeline, picture: Image.Image, mask: Image.Image) -> None:
        (edited,) = edits.inpaint(pipeline, picture, mask, 1, paste=True, num_inference_steps=2)
        black = pixels(mask) < 128
        assert kept_pixels(mask) == black.sum()
        assert (pixels(edited) == pixels(picture))[black].all()
        (free,) = edits.inpaint(pipeline, picture, mask, 1, num_inference_steps=2)
        assert (pixels(edited) == pixels(free))[~black].all()

    def test_rounds_begin_from_the_mean_of_the_one_before(
        self, pipeline: FlowARPipeline, picture: Image.Image, mask: Image.Image
    ) -> None:
        means: list[torch.Tensor] = []
        watch = {"num_inference_steps": 3, "on_scale": lambda k, tokens: means.extend([tokens] if k == 0 else [])}
        known = known_latents(pipeline, mask)
        pins = pins_where(pipeline.model, to_latents(pipeline, picture), known)
        (once,) = edits.inpaint(pipeline, picture, mask, 2, rounds=1, num_inference_steps=3)
        assert (pixels(once) == pixels(pipeline([2], pins=pins, num_inference_steps=3, seed=0).images[0])).all()
        first = pipeline([2], pins=pins_of_known(pins), num_inference_steps=3, seed=0)
        (twice,) = edits.inpaint(pipeline, picture, mask, 2, rounds=2, **watch)
        assert (pixels(twice) != pixels(once)).any()
        assert len(means) == 1  # nobody hears of the first round
        assert error(means[0][0, 0], first.latents.mean((2, 3))[0]) < 1e-6

    def test_outpaint(self, pipeline: FlowARPipeline, picture: Image.Image) -> None:
        (edited,) = edits.outpaint(pipeline, picture, (2, 2, 6, 6), 0, num_inference_steps=2)
        small = pixels(picture.resize((4, 4), Image.Resampling.LANCZOS))
        assert np.abs(pixels(edited)[2:6, 2:6] - small).max() <= 1

    def test_pictures_of_other_modes(
        self, pipeline: FlowARPipeline, picture: Image.Image, mask: Image.Image, tmp_path: Path
    ) -> None:
        """What a picture shows is drawn from, and pasted, whatever mode it has and however the camera was held."""
        settings = {"paste": True, "num_inference_steps": 2}
        (expected,) = edits.inpaint(pipeline, picture, mask, 1, **settings)
        exif, transparent = Image.Exif(), Image.merge("LA", (picture, Image.new("L", picture.size, 255)))
        exif[274] = 6
        picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
        kinds = [picture.convert("RGB"), transparent, Image.open(tmp_path / "turned.png")]
        kinds.append(open_picture("image", tmp_path / "turned.png", 1))
        for kind in kinds:
            (edited,) = edits.inpaint(pipeline, kind, mask, 1, **settings)
            assert edited.tobytes() == expected.tobytes()

    @pytest.mark.parametrize("box", [(0, 0, 9, 8), (4, 0, 4, 8), (-1, 0, 4, 4)])
    def test_boxes(self, pipeline: FlowARPipeline, picture: Image.Image, box: tuple[int, int, int, int]) -> None:
        with pytest.raises(ValueError, match="box: expected left, top, right, bottom within 8x8 pixels"):
            edits.outpaint(pipeline, picture, box, 0)

    def test_what_does_not_fit(self, pipeline: FlowARPipeline, picture: Image.Image, mask: Image.Image) -> None:
        small = picture.resize((4, 8))
        with pytest.raises(ValueError, match="image: expected 8x8 pixels, got 4x8"):
            edits.inpaint(pipeline, small, mask, 0)
        with pytest.raises(ValueError, match="mask: expected 8x8 pixels, got 4x8"):
            edits.inpaint(pipeline, picture, mask.resize((4, 8)), 0)
        with pytest.raises(ValueError, match="mask: expected white where the image is to be replaced, got none"):
            edits.inpaint(pipeline, picture, Image.new("L", (SIZE, SIZE)), 0)
        with pytest.raises(ValueError, match="count: expected a positive integer, got 0"):
            edits.inpaint(pipeline, picture, mask, 0, 0)
        with pytest.raises(ValueError, match="rounds: expected a positive integer, got 0"):
            edits.inpaint(pipeline, picture, mask, 0, rounds=0)


class TestScales:
    def test_coarse_scales_stay(self, pipeline: FlowARPipeline, picture: Image.Image) -> None:
        seen: list[torch.Tensor] = []
        keep = {"on_scale": lambda k, tokens: seen.append(tokens.clone()), "num_inference_steps": 2}
        first, second = edits.vary(pipeline, picture, "bird", 2, 2, **keep)
        targets, _ = pipeline.model.pyramid(to_latents(pipeline, picture))
        expected = targets.split([1, 4, 16], 1)
        assert all(torch.equal(seen[k][i], expected[k][0]) for k in (0, 1) for i in (0, 1))
        assert (pixels(first) != pixels(second)).any()
        (swapped,) = edits.vary(pipeline, picture, "fish", 2, num_inference_steps=2)
        assert (pixels(swapped) != pixels(first)).any()

    def test_a_small_picture_pins_what_it_can_tell(self, pipeline: FlowARPipeline, picture: Image.Image) -> None:
        small, seen = picture.resize((4, 4), Image.Resampling.BOX), []
        edits.super_resolve(pipeline, small, 0, num_inference_steps=2, on_scale=lambda k, tokens: seen.append(tokens))
        full = to_latents(pipeline, small.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
        assert torch.equal(seen[1], pipeline.model.pyramid(full)[0][:, 1:5])

    @pytest.mark.parametrize(
        ("size", "message"),
        [
            ((4, 8), "the aspect of 8x8 pixels, got 4x8; crop it to 4x4"),
            ((8, 8), "2 to 7 pixels"),
            ((1, 1), "2 to 7 pixels"),
        ],
    )
    def test_pictures_of_no_use(self, pipeline: FlowARPipeline, size: tuple[int, int], message: str) -> None:
        with pytest.raises(ValueError, match=f"image: expected {message}"):
            edits.super_resolve(pipeline, Image.new("L", size), 0)


class TestInterpolate:
    def test_ends_are_plain_samples(self, pipeline: FlowARPipeline) -> None:
        row = edits.interpolate(pipeline, ("cat", 3), (5, 9), 5, num_inference_steps=2)
        (first,) = pipeline([0], num_inference_steps=2, seed=[5]).images
        (last,) = pipeline([3], num_inference_steps=2, seed=[9]).images
        assert len(row) == 5
        assert np.abs(pixels(row[0]) - pixels(first)).max() <= 1
        assert np.abs(pixels(row[-1]) - pixels(last)).max() <= 1
        assert len({image.tobytes() for image in row}) == 5

    def test_noise_stays_normal(self) -> None:
        noise = edits.mixed_noise(small_model(latent_size=32), (0, 1), torch.linspace(0, 1, 5))
        assert all(abs(float(part.std()) - 1) < 0.05 for part in noise[-1])

    def test_bad_input(self, pipeline: FlowARPipeline) -> None:
        with pytest.raises(ValueError, match="count: expected at least 2 pictures, got 1"):
            edits.interpolate(pipeline, (0, 1), (0, 1), 1)
        with pytest.raises(ValueError, match="closest names: dog"):
            edits.interpolate(pipeline, (0, "dogg"), (0, 1))


class TestCommand:
    @pytest.fixture
    def options(self, pipeline: FlowARPipeline, picture: Image.Image, mask: Image.Image, tmp_path: Path) -> list[str]:
        pipeline.save_pretrained(tmp_path / "model")
        picture.save(tmp_path / "picture.png")
        mask.save(tmp_path / "mask.png")
        (tmp_path / "text.png").write_text("no picture")
        values = {"model": "model", "output": "out.png", "image": "picture.png"}
        return [word for name, value in values.items() for word in (f"--{name}", str(tmp_path / value))]

    @pytest.mark.parametrize(
        "arguments",
        [
            ["inpaint", "--classes", "dog", "--mask", "mask.png", "--paste"],
            ["outpaint", "--classes", "1", "--box", "[2, 2, 6, 6]"],
            ["vary", "--classes", "frog", "--keep_scales", "1"],
            ["interpolate", "--classes", "cat", "dog"],
        ],
    )
    def test_a_row_of_pictures(self, options: list[str], tmp_path: Path, arguments: list[str]) -> None:
        files = {"mask.png": str(tmp_path / "mask.png")}
        main(["edit", *(files.get(word, word) for word in arguments), *options, "--count", "3", "--schedule", "draft"])
        assert Image.open(tmp_path / "out.png").size == (3 * 64, 64)

    def test_from_one_seed_to_another(self, options: list[str], tmp_path: Path) -> None:
        """To the next one, where the second is left out."""

        def drawn(*seeds: str) -> bytes:
            main(["edit", "interpolate", "--classes", "cat", "cat", "--count", "2", *options, *seeds])
            return Image.open(tmp_path / "out.png").tobytes()

        assert drawn("--seed", "3") == drawn("--seed", "3", "--to_seed", "4")
        assert drawn("--seed", "3") != drawn("--seed", "3", "--to_seed", "9")

    @pytest.mark.parametrize(
        ("arguments", "kept"),
        [
            (["inpaint", "--mask", "mask.png", "--paste"], ", 31 of 64 pixels as they were"),
            (["inpaint", "--mask", "mask.png"], ""),
            (["outpaint", "--box", "[2, 2, 6, 7]", "--paste"], ", 20 of 64 pixels as they were"),
        ],
    )
    def test_how_much_was_kept(
        self, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], kept: str
    ) -> None:
        files = {"mask.png": str(tmp_path / "mask.png")}
        words = [files.get(word, word) for word in arguments]
        main(["edit", *words, *options, "--classes", "1", "--count", "1", "--seed", "6", "--schedule", "draft"])
        assert capsys.readouterr().out == f"1 image in {tmp_path / 'out.png'}{kept}, seed 6\n"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["vary", "--classes", "0", "1"], "classes: expected 1 for vary, got 2"),
            (["interpolate", "--classes", "0"], "classes: expected 2 for interpolate, got 1"),
            (["inpaint", "--classes", "0"], "mask: expected a file, got none"),
            (["inpaint", "--classes", "0", "--mask", "text.png"], "mask: expected a picture, got "),
            (["outpaint", "--classes", "0"], "box: expected left, top, right, bottom for outpaint, got none"),
            (["super-resolve", "--classes", "0"], "image: expected 2 to 7 pixels across, got 8"),
        ],
    )
    def test_bad_input(
        self, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
    ) -> None:
        files = {"text.png": str(tmp_path / "text.png")}
        with pytest.raises(SystemExit):
            main(["edit", *(files.get(word, word) for word in arguments), *options])
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out.png").exists()
