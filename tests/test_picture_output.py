"""Where `flowar sample` and `flowar edit` write: formats by name, stdout, folders, names, and npz for evaluators."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_model
from PIL import Image

import flowar
from flowar import FlowARPipeline, Schedule
from flowar.cli import main
from flowar.commands.pictures import Pictures, Subject, seed_of
from flowar.evaluation.images import open_stored
from flowar.images import read_record, write_picture
from flowar.images.npz import Batch
from flowar.images.shown import enlarged, fitting, with_names, zoom_to_see
from flowar.system.fields import checked
from flowar.system.picture_paths import PictureOutput, filled, is_pattern
from flowar.system.ranks import Ranks
from flowar.tokenizers.pixel import PixelTokenizer

NAMES = ("cat", "dog/hound", "frog", "../up", "tench, Tinca")
SIZE = 8


@pytest.fixture(scope="module")
def pipeline() -> FlowARPipeline:
    tokenizer = PixelTokenizer(image_channels=1, stride=2)
    model = small_model(tokenizer=tokenizer.record(), num_inference_steps=2, class_names=NAMES)
    return FlowARPipeline(model, tokenizer)


@pytest.fixture(scope="module")
def folder(pipeline: FlowARPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures") / "model"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sample(folder: Path, *arguments: object) -> None:
    main(["sample", "--model", str(folder), "--dtype", "float32", "--device", "cpu", *map(str, arguments)])


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: object) -> str:
    with pytest.raises(SystemExit) as exit_:
        sample(folder, *arguments)
    assert exit_.value.code == 2
    return capsys.readouterr().err.removeprefix("flowar: ").rstrip()


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def drawn(pipeline: FlowARPipeline, labels: Sequence[int], seeds: Sequence[int]) -> list[bytes]:
    return [image.tobytes() for image in pipeline([*labels], seed=[*seeds], dtype="float32").images]


class TestFormats:
    @pytest.mark.parametrize(
        ("name", "form"),
        [("a.png", "PNG"), ("a.jpg", "JPEG"), ("new/a.JPEG", "JPEG"), ("a.webp", "WEBP")],
    )
    def test_by_name(self, folder: Path, name: str, form: str) -> None:
        sample(folder, "--output", name, "--classes", "1,2", "--per_class", 2, "--seed", 3, "--schedule", "draft")
        with Image.open(name) as image:
            assert (image.format, image.size) == (form, (2 * 64, 2 * 64))
        record = read_record(name)
        schedule = Schedule.from_dict(json.loads(record.pop("schedule")))
        assert schedule.num_evaluations(3) == Schedule.from_dict(schedule.to_dict()).num_evaluations(3)
        assert record == {
            "class": "dog/hound; frog",
            "label": "1; 2",
            "seed": "3 to 6",
            "model": str(folder),
            "dtype": "float32",
            "software": f"FlowAR {flowar.__version__}",
        }

    def test_text_of_a_png(self, folder: Path) -> None:
        """Other programs read it, too."""
        sample(folder, "--output", "a.png", "--classes", "frog", "--per_class", 1, "--seed", 12)
        with Image.open("a.png") as image:
            image.load()
            assert (image.text["class"], image.text["seed"]) == ("frog", "12")  # type: ignore[attr-defined]

    def test_a_record_repeats_its_picture(self, folder: Path) -> None:
        sample(folder, "--output", "a.png", "--classes", "frog", "--per_class", 1, "--schedule", "draft")
        record = read_record("a.png")
        Path("schedule.json").write_text(record["schedule"])
        again = ("--classes", record["class"], "--seed", record["seed"], "--schedule", "schedule.json")
        sample(folder, "--output", "b.png", "--per_class", 1, *again)
        assert Image.open("a.png").tobytes() == Image.open("b.png").tobytes()

    @pytest.mark.parametrize(
        "name", ["", "a.tiff", "a", "a.png.txt", "dir/a.bmp", "a.npz", "{name}.png", "out/{class}", "{"]
    )
    def test_other_names(self, capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path, name: str) -> None:
        line = refused(capsys, folder, "--output", name)
        assert line.startswith("output: expected a file that ends in .png, .jpg, .jpeg, .webp, a folder as in out/, ")
        assert line.endswith(f", got '{name}'")
        assert files(tmp_path) == []

    @pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
    @pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
    def test_files_of_any_picture(self, ending: str, mode: str) -> None:
        image = Image.new(mode, (5, 4), 77 if mode == "L" else (1, 2, 3))
        write_picture(f"a.{ending}", image, {"class": "Café 犬", "seed": "1"})
        assert read_record(f"a.{ending}") == {"class": "Café 犬", "seed": "1"}
        write_picture(f"b.{ending}", image)
        assert read_record(f"b.{ending}") == {}

    def test_bad_calls(self) -> None:
        with pytest.raises(ValueError, match=r"path: expected a file that ends in \.png, .*, got a\.gif"):
            write_picture("a.gif", Image.new("L", (1, 1)))
        with pytest.raises(ValueError, match="image: expected at most 16383 pixels a side for WEBP, got 16384x1"):
            write_picture("a.webp", Image.new("L", (16384, 1)))
        Path("text.png").write_text("no picture")
        with pytest.raises(ValueError, match=r"text\.png: expected a picture"):
            read_record("text.png")
        with pytest.raises(OSError, match=r"none\.png"):
            read_record("none.png")

    def test_words_of_others(self) -> None:
        exif = Image.Exif()
        exif[0x010E] = "my cat"
        Image.new("RGB", (2, 2)).save("a.jpg", exif=exif)
        assert read_record("a.jpg") == {"description": "my cat"}

    def test_too_large_for_the_format(self, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        line = refused(capsys, folder, "--output", "a.webp", "--zoom", 64, "--per_class", 40)
        assert line == "output: expected at most 16383 pixels a side for WEBP, got 2560x20480"


class TestStdout:
    def test_a_png_and_nothing_else(self, capsysbinary: pytest.CaptureFixture[bytes], folder: Path) -> None:
        sample(folder, "--output", "-", "--per_class", 1, "--seed", 9)
        out, err = capsysbinary.readouterr()
        with Image.open(io.BytesIO(out)) as image:
            assert (image.format, image.size) == ("PNG", (5 * 64, 64))
            image.load()
            assert image.text["seed"] == "9 to 13"  # type: ignore[attr-defined]
        assert out.startswith(b"\x89PNG")
        assert out.endswith(b"IEND\xaeB`\x82")
        assert err.decode() == "5 images in stdout, seed 9\n"

    def test_terminals_and_previews_want_no_bytes(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path
    ) -> None:
        assert refused(capsys, folder, "--output", "-", "--preview").startswith("output and preview: expected one")
        with monkeypatch.context() as patch:
            patch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
            line = refused(capsys, folder, "--output=-")
        assert line == "output: expected a file, or a pipe that reads -, got the terminal"
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", None)
            with pytest.raises(SystemExit):
                sample(folder, "--output=-")
        assert capsys.readouterr().err == "flowar: output: expected a file, or a pipe that reads -, got no stdout\n"


class TestSinglePictures:
    def test_folder(self, capsys: pytest.CaptureFixture[str], folder: Path, pipeline: FlowARPipeline) -> None:
        sample(folder, "--output", "out/", "--classes", "4,1,3", "--per_class", 4, "--seed", 7, "--batch_size", 5)
        labels, seeds = [4, 1, 3] * 4, range(7, 19)
        names = [f"{i:02}-{NAMES[label]}-{seed}" for i, (label, seed) in enumerate(zip(labels, seeds, strict=True))]
        written = [name.replace("../", "-").replace("/", "-").replace(", ", "-") + ".png" for name in names]
        assert files(Path("out")) == written
        images = [Image.open(Path("out", name)) for name in written]
        assert [image.size for image in images] == [(SIZE, SIZE)] * 12
        assert [image.tobytes() for image in images] == drawn(pipeline, labels, seeds)
        assert capsys.readouterr().out == "12 images in out/{index}-{class}-{seed}.png, seed 7\n"

    def test_folder_that_is_there(self, folder: Path) -> None:
        Path("there").mkdir()
        sample(folder, "--output", "there", "--classes", "2", "--per_class", 2, "--seed", 1)
        assert files(Path("there")) == ["0-frog-1.png", "1-frog-2.png"]

    def test_names(self, folder: Path) -> None:
        sample(folder, "--output", "o/{label}/{class}-{seed}.webp", "--classes", "0,3", "--per_class", 1, "--seed", -1)
        assert files(Path("o")) == ["0/cat--1.webp", "3/-up-0.webp"]
        assert read_record("o/0/cat--1.webp")["seed"] == "-1"

    def test_a_picture_alone_is_the_same(self, folder: Path) -> None:
        """By what its name says."""
        sample(folder, "--output", "{class}-{seed}.png", "--per_class", 2, "--seed", 100)
        sample(folder, "--output", "alone.png", "--classes", "frog", "--per_class", 1, "--seed", 107)
        assert Image.open("frog-107.png").tobytes() == Image.open("alone.png").tobytes()

    def test_grids_have_the_same_pictures(self, folder: Path) -> None:
        sample(folder, "--output", "one/", "--classes", "1,2", "--per_class", 2, "--seed", 5, "--zoom", 2)
        sample(folder, "--output", "grid.png", "--classes", "1,2", "--per_class", 2, "--seed", 5, "--zoom", 2)
        grid, side = Image.open("grid.png"), 2 * SIZE
        parts = [grid.crop((x, y, x + side, y + side)).tobytes() for y in (0, side) for x in (0, side)]
        assert [Image.open(Path("one", name)).tobytes() for name in files(Path("one"))] == parts

    def test_names_for_several(self, capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path) -> None:
        line = refused(capsys, folder, "--output", "{class}.png", "--per_class", 2)
        assert line == "output: expected names that tell pictures apart, as {index} does, got cat.png twice"
        assert files(tmp_path) == []

    def test_no_class_leaves_the_folder(self) -> None:
        for name in ("..", "../..", "/etc/passwd", ".hidden", "a\0b", "x" * 300, ""):
            values = dict.fromkeys(("class", "index", "label", "seed"), name)
            path = filled("out/{class}/a.png", values)
            assert path.parts[0] == "out"
            assert len(path.parts) == 3
            assert re.fullmatch(r"[\w-][\w.-]{0,49}", path.parts[1])

    def test_patterns(self, tmp_path: Path) -> None:
        assert checked("~/x.png", PictureOutput) == str(Path.home() / "x.png")
        assert checked("out/", PictureOutput) == checked(checked("out/", PictureOutput), PictureOutput)
        assert [is_pattern(checked(word, PictureOutput)) for word in ("-", "a.png", "o/", "{seed}.jpg")] == [0, 0, 1, 1]
        (tmp_path / "a.png").mkdir()
        assert checked("a.png", PictureOutput) == "a.png/{index}-{class}-{seed}.png"
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(ValueError, match=r"expected a file .*, got 'pipe\.png'"):
            checked("pipe.png", PictureOutput)


class TestLooks:
    def test_zoom(self, folder: Path, pipeline: FlowARPipeline) -> None:
        one = ("--classes", "2", "--per_class", 1, "--seed", 3)
        (expected,) = pipeline([2], seed=[3], dtype="float32").images
        for words, zoom in (((), 1), (("--zoom", 5), 5)):
            sample(folder, *one, "--output", "a.png", *words)
            image = Image.open("a.png")
            assert image.size == (zoom * SIZE, zoom * SIZE)
            assert image.tobytes() == enlarged(expected, zoom).tobytes()
            assert image.resize((SIZE, SIZE), Image.Resampling.NEAREST).tobytes() == expected.tobytes()

    @pytest.mark.parametrize(
        ("size", "zoom"), [((28, 28), 3), ((32, 32), 2), ((64, 64), 1), ((256, 40), 2), ((1, 9), 64)]
    )
    def test_small_ones_of_a_grid(self, size: tuple[int, int], zoom: int) -> None:
        assert zoom_to_see(size) == zoom

    def test_labels(self, folder: Path) -> None:
        for words, columns, output in (((1, 2), 2, "grid.png"), ((2,), 1, "one/{class}.png")):
            classes = ("--classes", *words, "--per_class", 1, "--seed", 2, "--zoom", 8, "--output", output)
            sample(folder, *classes)
            path = Path(output.replace("{class}", "frog"))
            plain = Image.open(path).copy()
            sample(folder, *classes, "--labels")
            named = Image.open(path)
            strip = named.height - plain.height
            assert (named.width, plain.width, strip) == (columns * 64, columns * 64, 16)
            assert named.crop((0, strip, *named.size)).tobytes() == plain.tobytes()
            for column in range(columns):
                assert named.crop((64 * column, 0, 64 * column + 64, strip)).getextrema()[0] < 60

    def test_names_fit(self) -> None:
        from PIL.ImageFont import load_default

        font = load_default(11)
        cut = fitting("golden\nretriever with a ball", font, 64)
        assert cut.startswith("golden re")
        assert cut.endswith("…")
        assert font.getlength(cut) <= 64
        assert fitting("Bag", font, 64) == "Bag"
        assert with_names(Image.new("RGB", (3, 3)), ["Bag"]).size == (3, 19)

    def test_limits(self) -> None:
        """Seeds begin anew after the greatest."""
        assert [seed_of(2**64 - 2, number) for number in range(3)] == [2**64 - 2, 2**64 - 1, 0]
        with pytest.raises(ValueError, match=r"output: expected what fits into .* of free memory"):
            Pictures("a.png", [Subject("a", "0", "0")] * 10**6, 1000, (10**5, 10**5), {})


class TestSeeds:
    def test_fresh_and_told(self, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        told = []
        for name in ("a.png", "b.png"):
            sample(folder, "--output", name, "--per_class", 1)
            told.append(capsys.readouterr().out.rpartition(" seed ")[2].strip())
        assert told[0] != told[1]
        assert Image.open("a.png").tobytes() != Image.open("b.png").tobytes()
        sample(folder, "--output", "again.png", "--per_class", 1, "--seed", told[0])
        assert Image.open("a.png").tobytes() == Image.open("again.png").tobytes()

    def test_number_of_images(self, folder: Path, pipeline: FlowARPipeline) -> None:
        sample(folder, "--num_images", 7, "--seed", 0, "--output", "grid.png", "--zoom", 1)
        grid = Image.open("grid.png")
        assert grid.size == (5 * SIZE, 2 * SIZE)
        boxes = [(x * SIZE, y * SIZE, x * SIZE + SIZE, y * SIZE + SIZE) for y in range(2) for x in range(5)][:7]
        expected = drawn(pipeline, [0, 1, 2, 3, 4, 0, 1], range(7))
        assert [grid.crop(box).tobytes() for box in boxes] == expected

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--num_images", 3, "--per_class", 2), "per_class and num_images: expected one of them, got both"),
            (("--npz", "a.npz", "--output", "a.png"), "npz and output: expected one of them, got both"),
            (("--npz", "a.npz", "--zoom", 2), "npz and zoom: expected one of them, got both"),
            (("--npz", "a.npz", "--labels"), "npz and labels: expected one of them, got both"),
            (("--npz", "a.npz", "--preview"), "npz and preview: expected one of them, got both"),
            (("--npz", "a.npz", "--animate", "a.gif"), "npz and animate: expected one of them, got both"),
            (("--zoom", 0), "zoom: expected an integer from 1 to 64, got 0"),
            (("--num_images", 10**12), "num_images: expected what fits into"),
        ],
    )
    def test_what_excludes_another(
        self, capsys: pytest.CaptureFixture[str], folder: Path, arguments: tuple[object, ...], message: str
    ) -> None:
        assert refused(capsys, folder, *arguments).startswith(message)


class TestEdit:
    @pytest.fixture
    def picture(self) -> str:
        Image.new("L", (SIZE, SIZE), 90).save("picture.png")
        return "picture.png"

    def edit(self, folder: Path, *arguments: object) -> None:
        main(["edit", *map(str, arguments), "--model", str(folder), "--schedule", "draft", "--device", "cpu"])

    def test_every_picture_has_a_seed(self, capsys: pytest.CaptureFixture[str], folder: Path, picture: str) -> None:
        vary = ("vary", "--classes", "frog", "--image", picture, "--keep_scales", 1)
        self.edit(folder, *vary, "--count", 3, "--seed", 7, "--output", "out/")
        assert files(Path("out")) == ["0-frog-7.png", "1-frog-8.png", "2-frog-9.png"]
        self.edit(folder, *vary, "--count", 1, "--seed", 9, "--output", "alone.png")
        assert Image.open("alone.png").tobytes() == Image.open("out/2-frog-9.png").tobytes()
        record = read_record("alone.png")
        assert (record["edit"], record["class"], record["seed"]) == ("vary", "frog", "9")
        self.edit(folder, *vary, "--count", 2, "--output", "a.jpg", "--labels")
        told = re.findall(r"seed (\d+)", capsys.readouterr().out)
        assert told[:2] == ["7", "9"]
        assert read_record("a.jpg")["seed"] == f"{told[2]} to {int(told[2]) + 1}"
        assert Image.open("a.jpg").size == (128, 80)

    def test_between_two(self, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        ends = ("interpolate", "--classes", "cat", "frog", "--count", 3, "--seed", 3)
        self.edit(folder, *ends, "--output", "out/")
        assert files(Path("out")) == [f"{i}-cat-to-frog-3-to-4.png" for i in range(3)]
        self.edit(folder, *ends, "--to_seed", 9, "--output", "row.webp")
        assert read_record("row.webp")["class"] == "cat to frog"
        assert [line.rpartition(", ")[2] for line in capsys.readouterr().out.splitlines()] == [
            "seed 3 to 4",
            "seed 3 to 9",
        ]


class TestNpz:
    def test_as_adm_writes_them(
        self, capsys: pytest.CaptureFixture[str], folder: Path, pipeline: FlowARPipeline, tmp_path: Path
    ) -> None:
        sample(folder, "--num_images", 12, "--npz", "new/a.npz", "--seed", 40, "--batch_size", 5)
        assert capsys.readouterr().out == "12 images in new/a.npz, seed 40\n"
        with np.load("new/a.npz", allow_pickle=False) as arrays:
            images, labels = arrays["arr_0"], arrays["arr_1"]
        assert (images.shape, images.dtype) == ((12, SIZE, SIZE, 3), np.uint8)
        expected = [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
        assert labels.tolist() == expected
        assert [image[..., 0].tobytes() for image in images] == drawn(pipeline, expected, range(40, 52))
        assert (images[..., :1] == images).all()
        assert files(tmp_path) == ["new/a.npz"]
        for channels in (1, 3):
            stored = open_stored("new/a.npz", channels)
            assert (len(stored), stored.size) == (12, (SIZE, SIZE))
            assert stored.read(0, 12).movedim(1, 3).numpy().tobytes() == images[..., :channels].tobytes()

    def test_what_was_there_stays_until_all_is_written(
        self, capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:
        Path("a.npz").write_text("before")
        request.getfixturevalue("full_disk")
        assert "File too large" in refused(capsys, folder, "--num_images", 200, "--npz", "a.npz")
        assert files(tmp_path) == ["a.npz"]
        assert Path("a.npz").read_text() == "before"

    def test_memory_is_that_of_a_batch(self) -> None:
        asked: list[tuple[int, int]] = []

        def draw(begin: int, end: int) -> list[Image.Image]:
            asked.append((begin, end))
            return [Image.new("L", (2, 3), number) for number in range(begin, end)]

        Batch(range(10), (2, 3), draw, 4).write(Path("a.npz"), Ranks(torch.device("cpu")))
        assert asked == [(0, 4), (4, 8), (8, 10)]
        with np.load("a.npz") as arrays:
            assert arrays["arr_0"].shape == (10, 3, 2, 3)
            assert arrays["arr_0"][:, 0, 0, 0].tolist() == [*range(10)]

    @pytest.mark.slow
    def test_several_processes(self, folder: Path, tmp_path: Path) -> None:
        """Each draws a share, and all of it is the same."""
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        words = ["sample", "--model", str(folder), "--dtype=float32", "--device=cpu", "--seed=3", "--batch_size=3"]
        for last in (["--num_images=11", "--npz=several.npz"], ["--num_images=11", "--output=several/"]):
            done = subprocess.run(
                [*torchrun, "-m", "flowar", *words, *last], capture_output=True, text=True, cwd=tmp_path
            )
            assert done.returncode == 0, done.stderr
            assert len(done.stdout.splitlines()) == 1
        main([*words, "--num_images=11", "--npz=one.npz"])
        main([*words, "--num_images=11", "--output=one/"])
        with np.load("several.npz") as several, np.load("one.npz") as one:
            assert (several["arr_0"] == one["arr_0"]).all()
            assert (several["arr_1"] == one["arr_1"]).all()
        assert files(Path("several")) == files(Path("one"))
        done = subprocess.run(
            [*torchrun, "-m", "flowar", *words[:-2], "--output=grid.png"], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 1
