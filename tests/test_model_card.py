"""Model cards: what they say is true of the model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from conftest import small_model
from huggingface_hub import ModelCard
from PIL import Image

from flowar import FlowARPipeline
from flowar.errors import FlowARError
from flowar.evaluation.card import markdown, read_card, write_card
from flowar.sharing.model_card import CardDetails
from flowar.sharing.push import write_model_card
from flowar.storage.weights import fingerprint
from flowar.tokenizers.base import Tokenizer
from flowar.tokenizers.conv import ConvTokenizer
from flowar.tokenizers.pixel import PixelTokenizer


def pipeline(tokenizer: Tokenizer | None = None, **fields: Any) -> FlowARPipeline:
    tokenizer = tokenizer or PixelTokenizer(image_channels=1, stride=2)
    fields = {"latent_channels": tokenizer.channels, "tokenizer": tokenizer.record(), "num_inference_steps": 2} | fields
    return FlowARPipeline(small_model(**fields), tokenizer)


def write(folder: Path, pipe: FlowARPipeline, **details: Any) -> str:
    write_model_card(folder, pipe, "user/some-model", CardDetails(**details))
    return (folder / "README.md").read_text()


def evaluation_of(weights: str) -> dict[str, Any]:
    metric = {"value": 1.25, "interval": (1.0, 1.5), "better": "lower", "error_by": "bootstrap"}
    settings = {"model": {"source": "here", "weights": weights}, "seeds": [0, 9]}
    return {"settings": settings, "metrics": {"FID": metric}, "unavailable": {"recall": "few images"}, "warnings": []}


def test_front_matter(tmp_path: Path) -> None:
    write(tmp_path, pipeline(), license="cc-by-4.0", datasets=("user/data",), samples=0)
    assert ModelCard.load(tmp_path / "README.md").data.to_dict() == {
        "license": "cc-by-4.0",
        "library_name": "flowar",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["flowar", "image-generation", "class-conditional", "flow-matching", "autoregressive"],
        "datasets": ["user/data"],
    }
    write(tmp_path, pipeline(), samples=0)
    data = ModelCard.load(tmp_path / "README.md").data.to_dict()
    assert data["license"] == "unknown"
    assert "datasets" not in data


def test_what_the_model_is(tmp_path: Path) -> None:
    pipe = pipeline(class_names=["a", "b", "c", "d", "e"], guidance_scale=2.5, guidance_interval=(0.1, 0.8))
    text = write(tmp_path, pipe, training_data="Five kinds of noise.", samples=0)
    table = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE))
    count = sum(parameter.numel() for parameter in pipe.model.parameters())
    assert table == {
        "images": "8x8, grey",
        "classes": "5: a, b, c, d, e",
        "tokenizer": "pixel, 4 channels at stride 2",
        "scales": "1x1, 2x2, 4x4",
        "AR transformer": "width 32, 2 blocks, 2 heads",
        "flow transformer": "width 64, 2 blocks (`attn_mlp`), 1 heads",
        "parameters": f"{count:,}, and 0 of the tokenizer",
        "hash of the weights": f"`{fingerprint(pipe.model.state_dict())}`",
    }
    assert "\n# some-model\n" in text
    assert "\n## Training data\n\nFive kinds of noise.\n" in text
    assert "## Schedule\n\nUnless a call says otherwise:\n\n```text\nscale  solver" in text
    assert "\n2      euler         2            2  2.5\nguidance where 0.1 <= t <= 0.8\n```\n" in text
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_names_show_as_they_are(tmp_path: Path) -> None:
    names = ["<img src=//x>", "![x](http://e/x.png)", "a | b", "c ## d", "`*e*`"]
    table = write(tmp_path, pipeline(class_names=names), samples=0).split("## Model")[1].split("## Training")[0]
    assert r"5: &lt;img src=//x>, ![x\](http\://e/x.png), a \| b, c ## d, \`\*e\*\` |" in table


def test_words_of_an_evaluation_show_as_they_are() -> None:
    metric = {"value": 1.0, "interval": None, "better": "low|er", "error_by": "<b>"}
    settings = {"images": {"source": "![x](http://e/x.png)"}, "a|b": "c\nd"}
    card = {"settings": settings, "metrics": {"F|D": metric}, "unavailable": {"<i>": "`x`"}, "warnings": ["*few*"]}
    lines = markdown(card).splitlines()
    assert r"| F\|D | 1 | not computed | low\|er | &lt;b> |" in lines
    assert r"| &lt;i> | none: \`x\` | | | |" in lines
    assert r"| images.source | ![x\](http\://e/x.png) |" in lines
    assert r"| a\|b | c d |" in lines
    assert r"Warning: \*few\*" in lines


def test_many_classes_and_colours(tmp_path: Path) -> None:
    tokenizer = ConvTokenizer(3, 4, (8, 16)).eval()
    text = write(tmp_path, pipeline(tokenizer, num_classes=30, class_names=[f"n{i}" for i in range(30)]), samples=1)
    assert "| classes | 30: n0, n1, " in text
    assert ", n19, ... |" in text
    assert "n20" not in text
    assert "| images | 8x8, RGB |" in text
    assert "\n## Training data\n\nNot stated.\n" in text
    assert Image.open(tmp_path / "samples.png").size == (10 * 8, 8)
    assert "| classes | 5 |" in write(tmp_path, pipeline(), samples=0)


def test_picture(tmp_path: Path) -> None:
    pipe = pipeline()
    text = write(tmp_path, pipe, samples=2)
    assert "![A column for each class](samples.png)" in text
    picture = Image.open(tmp_path / "samples.png")
    assert (picture.mode, picture.size) == ("L", (5 * 8, 2 * 8))
    images = pipe([*range(5)] * 2, seed=0).images
    assert picture.crop((8, 8, 16, 16)).tobytes() == images[6].tobytes()


def test_code_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = pipeline()
    (block,) = re.findall(r"```python\n(.*?)```", write(tmp_path, pipe, samples=0), re.DOTALL)
    assert '"user/some-model"' in block
    monkeypatch.chdir(tmp_path)
    pipe.save_pretrained("user/some-model")
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["images"][0].tobytes() == pipe([0], seed=0).images[0].tobytes()


def test_evaluation(tmp_path: Path) -> None:
    pipe = pipeline()
    card = evaluation_of(fingerprint(pipe.model.state_dict()))
    write_card(tmp_path / "evaluation", card)
    text = write(tmp_path / "page", pipe, evaluation=tmp_path / "evaluation", samples=0)
    assert "| FID | 1.25 | 1 to 1.5 | lower | bootstrap |\n| recall | none: few images | | | |" in text
    assert read_card(tmp_path / "page")["metrics"] == read_card(tmp_path / "evaluation")["metrics"]
    assert (tmp_path / "page" / "card.md").is_file()


def test_evaluation_of_something_else(tmp_path: Path) -> None:
    pipe = pipeline()
    expected = fingerprint(pipe.model.state_dict())
    for card, found in ((evaluation_of("0123"), "0123"), (evaluation_of("") | {"settings": {}}, "none")):
        write_card(tmp_path / "evaluation", card)
        with pytest.raises(FlowARError, match=rf"card of this model \(weights {expected}\), got weights {found}$"):
            write(tmp_path / "page", pipe, evaluation=tmp_path / "evaluation")
    assert not (tmp_path / "page" / "README.md").exists()
    with pytest.raises(FlowARError, match="expected a JSON object"):
        write(tmp_path / "page", pipe, evaluation=tmp_path / "no-such-folder")


def test_number_of_samples() -> None:
    with pytest.raises(ValueError, match="samples: expected an integer >= 0, got -1"):
        CardDetails(samples=-1)
