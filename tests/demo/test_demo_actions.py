"""What the page of `flowar demo` does, without Gradio."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import small_model
from PIL import Image, ImageChops, ImageDraw

from flowar import FlowARPipeline
from flowar.cli import main
from flowar.demo.actions import (
    MOST_IMAGES,
    Drawing,
    Edit,
    Settings,
    class_choices,
    coarse_to_fine,
    draw,
    edit,
    open_image,
    summary,
)
from flowar.demo.canvas import SIDE, enlarged, painted
from flowar.demo.reports import reports
from flowar.editing import edits
from flowar.tokenizers.pixel import PixelTokenizer

SIZE = 8  # pixels; latents of 4x4, scales 1, 2, 4
OWN = Settings(seed=3, schedule="", guidance_scale=1.5)


@pytest.fixture(scope="module")
def pipeline() -> FlowARPipeline:
    tokenizer = PixelTokenizer(image_channels=1, stride=2)
    names = ("cat", "crane", "dog", "crane", "fish")
    model = small_model(tokenizer=tokenizer.record(), class_names=names, num_inference_steps=3)
    return FlowARPipeline(model, tokenizer)


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE), dtype=np.uint8))


@pytest.fixture
def layer() -> Image.Image:
    """A stroke over the two pixels at the left of the third row, on a canvas of another size than the pictures."""
    canvas = Image.new("RGBA", (10 * SIZE, 10 * SIZE))
    ImageDraw.Draw(canvas).line((3, 25, 15, 25), (99, 102, 241, 255), width=4)
    return canvas


class TestReports:
    def test_in_order_and_then_the_error(self) -> None:
        def work(report: Callable[[int], None]) -> None:
            report(1)
            report(2)
            raise ValueError("enough")

        iterator = reports(work)
        assert [next(iterator), next(iterator)] == [1, 2]
        with pytest.raises(ValueError, match="enough"):
            next(iterator)

    def test_each_as_it_comes(self) -> None:
        seen = threading.Event()

        def work(report: Callable[[str], None]) -> None:
            report("first")
            report("seen" if seen.wait(60) else "never seen")

        iterator = reports(work)
        assert next(iterator) == "first"
        seen.set()
        assert [*iterator] == ["seen"]

    def test_left_early_it_waits_for_the_work(self) -> None:
        done = []

        def work(report: Callable[[int], None]) -> None:
            report(1)
            done.append(True)

        iterator = reports(work)
        next(iterator)
        iterator.close()  # type: ignore[attr-defined]
        assert done == [True]


class TestCanvas:
    @pytest.mark.parametrize(("size", "factor"), [((8, 8), SIDE // 8), ((28, 20), SIDE // 28), ((SIDE + 1, 9), 1)])
    def test_pixels_become_squares(self, size: tuple[int, int], factor: int) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, size[::-1], dtype=np.uint8)
        expected = pixels.repeat(factor, 0).repeat(factor, 1)
        assert np.array_equal(np.array(enlarged(Image.fromarray(pixels))), expected)

    def test_strokes_become_a_mask(self, layer: Image.Image) -> None:
        mask = np.array(painted([layer], (SIZE, SIZE)))
        assert mask[2, :2].tolist() == [255, 255]
        assert mask.sum() == 2 * 255
        both = np.array(painted([layer, layer.transpose(Image.Transpose.ROTATE_180)], (SIZE, SIZE)))
        assert np.array_equal(both, mask | mask[::-1, ::-1])
        assert not np.array(painted([], (SIZE, SIZE))).any()


class TestDraw:
    def test_every_scale_as_it_comes(self, pipeline: FlowARPipeline) -> None:
        drawings = [*draw(pipeline, [4, 0], 2, OWN)]
        assert [len(drawing.scales) for drawing in drawings] == [1, 2, 3]
        assert drawings[0].scales[0] == drawings[2].scales[0]
        last = drawings[-1]
        assert last.labels == [4, 0, 4, 0]
        assert last.scales[-1] == pipeline([4, 0, 4, 0], seed=3, guidance_scale=1.5).images
        assert 0 < drawings[0].seconds < last.seconds

    def test_settings_matter(self, pipeline: FlowARPipeline) -> None:
        def images(settings: Settings) -> list[bytes]:
            *_, last = draw(pipeline, [1], 1, settings)
            return [image.tobytes() for image in last.scales[-1]]

        changed = [OWN._replace(seed=4), OWN._replace(schedule="draft"), OWN._replace(guidance_scale=4)]
        assert len({b"".join(images(settings)) for settings in [OWN, *changed]}) == 4

    @pytest.mark.parametrize(
        ("labels", "per_class", "settings", "message"),
        [
            ([], 2, OWN, f"pictures: expected 1 to {MOST_IMAGES} of all classes together, got 0"),
            ([0, 1], MOST_IMAGES, OWN, f"together, got {2 * MOST_IMAGES}"),
            ([9], 1, OWN, "class_labels: expected integers from 0 to 4, got 9"),
            ([0], 1, OWN._replace(seed=None), "seed: expected one integer"),
            ([0], 1, OWN._replace(guidance_scale=-1), "guidance_scale: expected"),
            ([0], 1, OWN._replace(schedule="quick"), "schedule: expected"),
        ],
    )
    def test_refused(
        self, pipeline: FlowARPipeline, labels: list[int], per_class: int, settings: Settings, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            next(draw(pipeline, labels, per_class, settings))

    def test_words(self, pipeline: FlowARPipeline, picture: Image.Image) -> None:
        scales = [[picture, picture.rotate(90 * k)] for k in range(3)]
        assert summary(pipeline, Drawing([0, 1], scales[:2], 0.254)) == "at 2x2 after 0.25 s"
        assert summary(pipeline, Drawing([0, 1], scales, 0.31)) == "2 images in 0.31 s, 155 ms each"
        assert summary(pipeline, Drawing([0], scales, 0.31)) == "1 image in 0.31 s, 310 ms each"
        strip = coarse_to_fine(pipeline, Drawing([0, 1], scales, 0.31), 1)
        assert strip == [(scales[k][1], f"{2**k}x{2**k}") for k in range(3)]

    def test_classes_by_name(self, pipeline: FlowARPipeline) -> None:
        names = ["cat", "crane (1)", "dog", "crane (3)", "fish"]
        assert class_choices(pipeline) == [*zip(names, range(5), strict=True)]
        nameless = FlowARPipeline(small_model(tokenizer=pipeline.tokenizer.record()), pipeline.tokenizer)
        assert class_choices(nameless)[3] == ("class 3", 3)


class TestEdit:
    def test_inpaints_what_is_painted(self, pipeline: FlowARPipeline, picture: Image.Image, layer: Image.Image) -> None:
        wanted = Edit("inpaint", [layer], label=2, count=3, paste=True)
        images, words = edit(pipeline, picture, wanted, OWN)
        mask = painted([layer], picture.size)
        expected = edits.inpaint(pipeline, picture, mask, 2, 3, paste=True, seed=3, guidance_scale=1.5)
        assert images == expected
        assert words.startswith("3 images in ")
        changed = ImageChops.difference(images[0], picture)
        assert changed.getbbox() == (0, 2, 2, 3)

    def test_varies(self, pipeline: FlowARPipeline, picture: Image.Image) -> None:
        images, _ = edit(pipeline, picture, Edit("vary", label=0, count=2, keep_scales=1), OWN)
        assert images == edits.vary(pipeline, picture, 0, 1, 2, seed=3, guidance_scale=1.5)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"picture": None}, "image: expected a picture to edit, got none"),
            ({"label": None}, "class: expected one, got none"),
            ({"layers": ()}, "mask: expected white where the image is to be replaced, got none"),
            ({"kind": "vary", "keep_scales": 3}, "keep_scales: expected an integer from 0 to 2, got 3"),
        ],
    )
    def test_refused(
        self,
        pipeline: FlowARPipeline,
        picture: Image.Image,
        layer: Image.Image,
        changes: dict[str, Any],
        message: str,
    ) -> None:
        fields = {"picture": picture, "kind": "inpaint", "layers": [layer], "label": 1} | changes
        with pytest.raises(ValueError, match=message):
            edit(pipeline, fields.pop("picture"), Edit(**fields), OWN)

    def test_opens_pictures_of_its_size(self, pipeline: FlowARPipeline, picture: Image.Image, tmp_path: Path) -> None:
        picture.save(tmp_path / "picture.png")
        picture.resize((9, 7)).save(tmp_path / "other.png")
        (tmp_path / "text.png").write_text("no picture")
        assert open_image(pipeline, str(tmp_path / "picture.png")) == picture
        with pytest.raises(ValueError, match="image: expected 8x8 pixels, got 9x7"):
            open_image(pipeline, str(tmp_path / "other.png"))
        with pytest.raises(ValueError, match=r"image: expected a picture, got text\.png"):
            open_image(pipeline, str(tmp_path / "text.png"))


class TestCommand:
    def refused(self, capsys: pytest.CaptureFixture[str], *options: str) -> str:
        with pytest.raises(SystemExit) as exit_:
            main(["demo", *options])
        assert exit_.value.code == 2
        return capsys.readouterr().err

    def test_addresses(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "port: expected an integer from 1 to 65535, got 0" in self.refused(capsys, "--port", "0")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            message = f"host and port: expected a free address, got 127.0.0.1:{port}: "
            assert message in self.refused(capsys, "--port", str(port))

    def test_without_gradio(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("gradio", "flowar.demo.page"):
            monkeypatch.setitem(sys.modules, name, None)
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        assert '[demo]"' in self.refused(capsys, "--port", str(port))
