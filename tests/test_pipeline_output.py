"""What a call gives: forms of pictures, access by name and number, and what notebooks show."""

from __future__ import annotations

import re
from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from pipelines import small_pipeline

from flowar import FlowARPipeline
from flowar.images.shown import TILE
from flowar.pipeline.contact_sheet import GAP, LINE, MOST_TILES, WIDEST_CAPTION, WIDTH, contact_sheet

pytestmark = pytest.mark.usefixtures("either_default")


@pytest.fixture(scope="module", params=[1, 3])
def pipe(request: pytest.FixtureRequest) -> FlowARPipeline:
    return small_pipeline(request.param)


class TestOutputTypes:
    def test_all_have_the_same_pictures(self, pipe: FlowARPipeline) -> None:
        pil, array, tensor, latents = (
            pipe([0, 3], seed=1, output_type=kind).images for kind in ("pil", "np", "pt", "latent")
        )
        channels = pipe.tokenizer.image_channels
        assert [(image.mode, image.size) for image in pil] == [("L" if channels == 1 else "RGB", (8, 8))] * 2
        assert (array.shape, array.dtype) == ((2, 8, 8, channels), np.float32)
        assert (tensor.shape, tensor.dtype) == ((2, channels, 8, 8), torch.float32)
        assert (tensor.min(), tensor.max()) == (0, 1)
        assert np.array_equal(tensor.permute(0, 2, 3, 1).numpy(), array)
        assert np.abs(255 * array.squeeze() - np.stack(pil)).max() <= 0.5 + 1e-4
        assert torch.equal(latents, pipe([0, 3], seed=1).latents)

    def test_parts_become_one(self, pipe: FlowARPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        latents = pipe([0, 1, 2], seed=1).latents
        whole = [pipe.decode(latents, kind) for kind in ("pil", "np", "pt")]
        monkeypatch.setattr(pipe.tokenizer, "images_at_once", lambda latents: 2)
        assert [image.tobytes() for image in pipe.decode(latents)] == [image.tobytes() for image in whole[0]]
        assert np.array_equal(pipe.decode(latents, "np"), whole[1])
        assert torch.equal(pipe.decode(latents, "pt"), whole[2])

    def test_latents_are_not_decoded(self, pipe: FlowARPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pipe.tokenizer, "decode", None)
        out = pipe([0], output_type="latent")
        assert out.images is out.latents

    def test_others_are_refused(self, pipe: FlowARPipeline) -> None:
        with pytest.raises(ValueError, match=r"output_type: expected one of pil, np, pt, latent, got pill; .* pil"):
            pipe([0], output_type="pill")
        with pytest.raises(ValueError, match="output_type: expected one of pil, np, pt, got latent"):
            pipe.decode(torch.zeros(1, pipe.tokenizer.channels, 4, 4), "latent")


class TestAccess:
    def test_by_name_and_number(self, pipe: FlowARPipeline) -> None:
        out = pipe([4, "tench"], seed=[1, 2])
        images, latents, seeds, classes = out
        assert out.to_tuple() == out[:] == (images, latents, seeds, classes)
        assert images is out.images is out["images"] is out[0]
        assert latents is out.latents is out["latents"] is out[1]
        assert (seeds, classes) == ([1, 2], ["Bag", "tench, Tinca tinca"])
        assert len(out) == 4
        with pytest.raises(KeyError):
            out["pictures"]

    def test_pictures_alone(self, pipe: FlowARPipeline) -> None:
        (images,) = pipe([4, 1], seed=1, return_dict=False)
        expected = pipe([4, 1], seed=1).images
        assert [image.tobytes() for image in images] == [image.tobytes() for image in expected]

    @pytest.mark.parametrize(
        ("labels", "options", "expected"),
        [
            (torch.tensor([4, 1]), {}, ["Bag", "tench, Tinca tinca"]),
            (4, {}, ["Bag"]),
            (None, {}, ["no class"]),
            ([4, None], {"num_images_per_prompt": 2}, ["Bag", "Bag", "no class", "no class"]),
            ([4], {"guidance_scale": 0}, ["no class"]),
        ],
    )
    def test_classes(self, pipe: FlowARPipeline, labels: object, options: dict[str, int], expected: list[str]) -> None:
        assert pipe(labels, output_type="latent", **options).classes == expected

    def test_classes_without_names(self) -> None:
        assert small_pipeline(class_names=()).model.config.class_names == ()
        assert small_pipeline(class_names=())([3], output_type="latent").classes == ["class 3"]


class TestShown:
    def test_text_is_short(self, pipe: FlowARPipeline) -> None:
        channels = pipe.tokenizer.channels
        expected = f"PipelineOutput(2 images, latents {channels}x4x4, classes ['Bag', 'crane'], seeds [1, 2])"
        assert repr(pipe([4, 2], seed=[1, 2])) == expected

    @pytest.mark.parametrize("kind", ["pil", "np", "pt"])
    def test_html_has_pictures_classes_and_seeds(self, pipe: FlowARPipeline, kind: str) -> None:
        html = pipe([4, 2], seed=[11, 12], output_type=kind)._repr_html_()
        assert re.findall(r"<figcaption[^>]*>(.*?)</figcaption>", html) == ["Bag<br>seed 11", "crane<br>seed 12"]
        assert html.count("image-rendering: pixelated") == html.count(f"width: {TILE}px") == 2
        shown = [Image.open(BytesIO(b64decode(data))) for data in re.findall(r"base64,([^\"]+)", html)]
        expected = pipe([4, 2], seed=[11, 12]).images
        assert [image.tobytes() for image in shown] == [image.tobytes() for image in expected]

    @pytest.mark.parametrize("kind", ["pil", "np", "pt"])
    def test_png_has_every_picture_enlarged(self, pipe: FlowARPipeline, kind: str) -> None:
        sheet = Image.open(BytesIO(pipe([4, 2], seed=[11, 12], output_type=kind)._repr_png_()))
        expected = pipe([4, 2], seed=[11, 12]).images
        pitch = (sheet.width - GAP) // 2
        for i, image in enumerate(expected):
            x = GAP + i * pitch
            enlarged = image.resize((TILE, TILE), Image.Resampling.NEAREST)
            assert sheet.crop((x, GAP, x + TILE, GAP + TILE)).tobytes() == enlarged.tobytes()
            for line in range(2):
                y = GAP + TILE + LINE * line
                assert np.array(sheet.crop((x, y, x + TILE, y + LINE))).min() < 128  # ink

    def test_latents_are_no_pictures(self, pipe: FlowARPipeline) -> None:
        out = pipe([4], output_type="latent")
        assert out._repr_png_() is None
        assert out._repr_html_() is None

    def test_without_seeds(self, pipe: FlowARPipeline) -> None:
        noise = [torch.randn(1, n, pipe.tokenizer.channels) for n in pipe.config.scale_lengths]
        assert "seed" not in pipe([4], noise=noise)._repr_html_()

    def test_names_are_escaped(self) -> None:
        pipe = small_pipeline(class_names=["<b>", "b", "c", "d", "e"])
        assert "&lt;b&gt;<br>" in pipe([0])._repr_html_()
        assert "&lt;b&gt;, b" in pipe._repr_html_()

    def test_many(self) -> None:
        """The first of them are shown, and the others counted."""
        pipe = small_pipeline(num_inference_steps=1)
        out = pipe([0] * (MOST_TILES + 3))
        assert out._repr_html_().count("<figure") == MOST_TILES
        assert out._repr_html_().endswith("<p>and 3 more</p>")
        sheet = Image.open(BytesIO(out._repr_png_()))
        assert sheet.width <= WIDTH + 2 * GAP

    def test_long_names_are_cut_and_seeds_are_not(self) -> None:
        image = Image.new("L", (8, 8))
        alone, long = (contact_sheet([image], [[name, f"seed {2**64 - 1}"]]) for name in ("a", "a" * 500))
        assert alone.width < long.width <= WIDEST_CAPTION + 3 * GAP


class TestPipelineShown:
    def test_text(self) -> None:
        pipe = small_pipeline()
        count = sum(each.numel() for each in pipe.model.parameters())
        assert repr(pipe).splitlines() == [
            "FlowARPipeline",
            "  model       not from a file",
            f"  parameters  {count:,}, float32 on cpu",
            "  classes     5: T-shirt/top, tench, Tinca tinca, crane, crane, bird, Bag",
            "  pictures    8x8, grey",
            "  latents     4 channels, grid 4x4, by a pixel tokenizer",
            "  scales      1x1, 2x2, 4x4",
            "  schedule    9 evaluations at 3 scales by euler, guidance 2 where 0 <= t <= 0.9",
        ]
        assert repr(pipe.prepack()).splitlines()[2] == f"  parameters  {count:,}, float32 on cpu"

    def test_other_facts(self) -> None:
        pipe = FlowARPipeline.from_pretrained("flowar-emoji", torch_dtype=torch.bfloat16)
        text = repr(pipe)
        assert "model       flowar-emoji\n" in text
        assert "bfloat16 on cpu" in text
        assert "32x32, RGB" in text
        plain = small_pipeline(class_names=(), num_classes=12, guidance_scale=1)
        assert "classes     12\n" in repr(plain)
        assert repr(plain).endswith("by euler, no guidance")
        named = small_pipeline(class_names=[f"n{i}" for i in range(12)], num_classes=12)
        assert "classes     12: n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, ...\n" in repr(named)

    def test_html(self) -> None:
        html = small_pipeline()._repr_html_()
        assert re.findall(r"<th[^>]*>(\w+)</th>", html) == [
            *("model", "parameters", "classes", "pictures", "latents", "scales", "schedule"),
        ]
        assert "8x8, grey" in html
