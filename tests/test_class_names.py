"""Classes by name: the lists that come with the package, what a name means, and which names are proposed."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest
import torch
from conftest import small_model
from PIL import Image

from flowar import FlowARConfig, FlowARPipeline
from flowar.cli import main, parse_options
from flowar.data.class_names import (
    FOLDER,
    class_names_of,
    closest,
    names_of_folders,
    read_class_names,
    resolve,
    search,
)
from flowar.errors import FlowARError
from flowar.storage.hub import ASSETS
from flowar.tokenizers.pixel import PixelTokenizer

IMAGENET = read_class_names("imagenet")
FASHION = read_class_names("fashion_mnist")


class TestLists:
    @pytest.mark.parametrize(("name", "count"), [("imagenet", 1000), ("fashion_mnist", 10)])
    def test_complete_and_with_source(self, name: str, count: int) -> None:
        record = json.loads((FOLDER / f"{name}.json").read_text())
        assert len(record["names"]) == count
        assert len({*record["names"]}) >= count - 1  # ImageNet has two cranes
        assert record["source"]
        assert record["licence"]
        assert f"`{name}.json`" in (FOLDER / "README.md").read_text()

    @pytest.mark.parametrize(
        ("label", "name"),
        [
            *((0, "tench"), (1, "goldfish"), (88, "macaw"), (207, "golden retriever"), (250, "Siberian husky")),
            *((279, "Arctic fox"), (281, "tabby"), (360, "otter"), (388, "giant panda"), (417, "balloon")),
            *((141, "redshank"), (511, "convertible"), (980, "volcano"), (985, "daisy"), (999, "toilet tissue")),
        ],
    )
    def test_order_of_imagenet(self, label: int, name: str) -> None:
        assert resolve([name], IMAGENET) == [label]

    def test_names_of_a_model(self) -> None:
        named = FlowARConfig(num_classes=2, class_names=["cat", "dog"])
        assert class_names_of(named) == ("cat", "dog")
        assert class_names_of(FlowARConfig(num_classes=1000)) == IMAGENET
        assert class_names_of(FlowARConfig(num_classes=1001)) == ()

    def test_shipped_model(self) -> None:
        shipped = json.loads((ASSETS / "flowar-fashion" / "config.json").read_text())
        assert tuple(shipped["class_names"]) == FASHION


class TestResolve:
    @pytest.mark.parametrize(
        ("word", "label"),
        [
            ("golden retriever", 207),
            ("Golden_Retriever", 207),
            ("  GOLDEN  retriever ", 207),
            ("flat coated retriever", 205),
            ("Tinca tinca", 0),
            ("tench, Tinca tinca", 0),
            ("tank suit", 639),
            ("207", 207),
            (" 207 ", 207),
            (207, 207),
            (torch.tensor(207), 207),
            (-1, -1),
            ("1000", 1000),
        ],
    )
    def test_one_class(self, word: str | int, label: int) -> None:
        assert resolve([word], IMAGENET) == [label]

    @pytest.mark.parametrize("word", ["T-shirt/top", "t_shirt", "TOP", "0"])
    def test_fashion(self, word: str) -> None:
        assert resolve([word], FASHION) == [0]

    def test_mixed(self) -> None:
        assert resolve(["ankle boot", 3, "7", "Bag", "bag"], FASHION) == [9, 3, 7, 8, 8]
        assert resolve([], FASHION) == []

    @pytest.mark.parametrize(
        ("word", "labels"),
        [
            ("crane", "134 (crane), 517 (crane)"),
            ("Cardigan", "264 (Cardigan, Cardigan Welsh corgi), 474 (cardigan)"),
            ("missile", "657 (missile), 744 (projectile, missile)"),
        ],
    )
    def test_two_classes(self, word: str, labels: str) -> None:
        message = f"classes: expected the name of one class, got '{word}', the name of several: {labels}"
        with pytest.raises(FlowARError, match=f"^{re.escape(message)}$"):
            resolve([word], IMAGENET)

    @pytest.mark.parametrize(
        ("word", "proposals"),
        [
            ("golden retreiver", "golden retriever (207), "),
            ("retriever", "golden retriever (207), Labrador retriever (208), flat-coated retriever (205)"),
            ("crain", "crane (134, 517), "),
            ("Shirrt", "Shirt (6), T-shirt (0)"),
            ("boot", "Ankle boot (9)"),
            ("qqqq", "none; flowar classes lists them all"),
            ("", "none; flowar classes lists them all"),
            ("1.5", "none; flowar classes lists them all"),
        ],
    )
    def test_no_class(self, word: str, proposals: str) -> None:
        names = FASHION if word in ("Shirrt", "boot") else IMAGENET
        expected = f"classes: expected names or integers from 0 to {len(names) - 1}, got {word!r}; closest names: "
        with pytest.raises(FlowARError, match=f"^{re.escape(expected + proposals)}"):
            resolve([word], names)

    @pytest.mark.parametrize(
        ("names", "word", "label"),
        [
            (("1", "10", "2"), "2", 2),
            (("1", "10", "2"), "1", 0),
            (("1", "10", "2"), 1, 1),
            (("1", "10", "2"), "0", 0),
            (("00", "01", "02"), "01", 1),
            (("00", "01", "02"), "1", 1),
            (("01", "02", "03"), "3", 2),
            (("Cat", "cat"), "cat", 1),
            (("Cat", "cat"), "Cat", 0),
            (("cafe\u0301",), "caf\u00e9", 0),
        ],
    )
    def test_a_name_comes_before_a_number(self, names: tuple[str, ...], word: str | int, label: int) -> None:
        assert resolve([word], names) == [label]

    @pytest.mark.parametrize(
        ("names", "word", "labels"),
        [
            (("01", "02", "03"), "1", "0 (01), 1 (02)"),
            (("1", "001", "2"), "01", "0 (1), 1 (001)"),
            (("Cat", "cat"), "CAT", "0 (Cat), 1 (cat)"),
        ],
    )
    def test_what_may_be_either_is_neither(self, names: tuple[str, ...], word: str, labels: str) -> None:
        message = f"classes: expected the name of one class, got '{word}', the name of several: {labels}"
        with pytest.raises(FlowARError, match=f"^{re.escape(message)}$"):
            resolve([word], names)

    def test_neither_name_nor_number(self) -> None:
        with pytest.raises(FlowARError, match=r"classes: expected names or integers, got 1\.5"):
            resolve([1.5], FASHION)  # type: ignore[list-item]

    def test_folders_of_imagenet(self) -> None:
        folders = ["n01440764", *(f"n{number}" for number in range(2000000, 2000998)), "n15075141"]
        assert names_of_folders(folders) == IMAGENET
        assert names_of_folders(folders[:-1]) == tuple(folders[:-1])

    def test_classes_without_names(self) -> None:
        assert resolve(["3", 4], ()) == [3, 4]
        with pytest.raises(FlowARError, match="expected integers as in 0,3,7, as these classes have no names"):
            resolve(["cat"], ())

    def test_closest_come_first(self) -> None:
        assert closest("tabby", IMAGENET)[0] == "tabby (281)"
        assert len(closest("dog", IMAGENET)) == 3
        assert search("RETRIEVER", IMAGENET) == [205, 206, 207, 208, 209]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("sample", ["02", "01"]),
        ("sample", ["02"]),
        ("show", ["02", "01"]),
        ("edit", ["02", "01"]),
        ("evaluate", ["02,01"]),
    ],
)
def test_words_of_a_command_stay_words(command: str, words: list[str]) -> None:
    """Of 02 and 01 no command makes the numbers 2 and 1."""
    options = importlib.import_module(f"flowar.commands.{command}").Options
    rest = {"show": ["path"], "edit": ["vary"]}.get(command, [])
    classes = parse_options(command, options, [*rest, "--classes", *words]).classes
    listed = classes.split(",") if isinstance(classes, str) else classes
    assert resolve(listed, ("01", "02")) == [1, 0][: len(listed)]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of 8x8 grey images with the classes of ImageNet, which its configuration does not name."""
    folder = tmp_path_factory.mktemp("classes") / "model"
    tokenizer = PixelTokenizer(image_channels=1, stride=2)
    model = small_model(num_classes=1000, tokenizer=tokenizer.record(), num_inference_steps=2)
    FlowARPipeline(model, tokenizer).save_pretrained(folder)
    return folder


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that the command ends with."""
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("flowar: ")


class TestPipeline:
    def test_names_are_labels(self, model_folder: Path) -> None:
        pipeline = FlowARPipeline.from_pretrained(model_folder)
        expected = pipeline([207, 3], seed=5).latents
        assert torch.equal(pipeline(["golden_retriever", 3], seed=5).latents, expected)
        assert torch.equal(pipeline("Golden Retriever", seed=5).latents, pipeline(207, seed=5).latents)
        assert torch.equal(pipeline(torch.tensor([207, 3]), seed=5).latents, expected)

    def test_bad_names(self, model_folder: Path) -> None:
        pipeline = FlowARPipeline.from_pretrained(model_folder)
        with pytest.raises(ValueError, match="got 'crane', the name of several: 134"):
            pipeline(["crane", 3])
        with pytest.raises(ValueError, match=r"closest names: otter \(360"):
            pipeline("oter")
        with pytest.raises(ValueError, match="class_labels: expected integers from 0 to 999, got 1000"):
            pipeline(["otter", 1000])


class TestCommands:
    def test_sample(self, capsys: pytest.CaptureFixture[str], model_folder: Path, tmp_path: Path) -> None:
        pipeline = FlowARPipeline.from_pretrained(model_folder)
        expected = [image.tobytes() for image in pipeline([207, 360], seed=[4, 5], dtype="float32").images]
        output = tmp_path / "grid.png"
        base = ["sample", f"--model={model_folder}", "--per_class=1", "--dtype=float32", f"--output={output}"]
        base += ["--seed=4", "--zoom=1"]
        for classes in (["golden retriever", "360"], ["Golden_retriever,otter"], ["207,otter"], ["207", "otter"]):
            main([*base, "--classes", *classes])
            grid = Image.open(output)
            assert [grid.crop((x, 0, x + 8, 8)).tobytes() for x in (0, 8)] == expected
            output.unlink()
        assert capsys.readouterr().out == f"2 images in {output}, seed 4\n" * 4
        line = refused(capsys, *base, "--classes", "golden retreiver", "3")
        assert line.startswith("classes: expected names or integers from 0 to 999, got 'golden retreiver'; closest")
        assert "the name of several: 134" in refused(capsys, *base, "--classes", "crane")
        assert not output.exists()

    def test_evaluate(self, capsys: pytest.CaptureFixture[str]) -> None:
        line = refused(capsys, "evaluate", "--reference", "x", "--classes", "bag,Shirrt")
        assert line.endswith("got 'Shirrt'; closest names: Shirt (6), T-shirt (0)")

    def test_show(self, capsys: pytest.CaptureFixture[str], model_folder: Path, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        base = ["show", "scales", "--model", str(model_folder), "--output", str(tmp_path / "scales.png")]
        main([*base, "--classes", "golden retriever", "3"])
        assert (tmp_path / "scales.png").exists()
        assert "the name of several: 134" in refused(capsys, *base, "--classes", "crane")

    def test_classes(self, capsys: pytest.CaptureFixture[str], model_folder: Path) -> None:
        main(["classes"])
        assert capsys.readouterr().out.splitlines() == [f"{i}  {name}" for i, name in enumerate(FASHION)]
        main(["classes", "golden", "retriever", "--model", str(model_folder)])
        assert capsys.readouterr().out == "207  golden retriever\n"
        main(["classes", "--model", "imagenet", "--search", "Tinca"])
        assert capsys.readouterr().out == "  0  tench, Tinca tinca\n"

    def test_bad_search(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        line = refused(capsys, "classes", "shrt")
        assert line == "search: expected a part of a name, got 'shrt'; closest names: Shirt (6), T-shirt (0)"
        small_model().save_pretrained(tmp_path)
        line = refused(capsys, "classes", "--model", str(tmp_path))
        assert line == f"{tmp_path}: expected a model whose classes have names, got one without"
