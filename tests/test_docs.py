"""The pages are true: every block of them runs or is parsed, figures are small, the site builds without warnings."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_model
from documents import ROOT, blocks, run_page, write_published
from PIL import Image
from test_data import write_idx

from flowar import FlowARPipeline
from flowar.cli import COMMANDS
from flowar.data.class_names import read_class_names
from flowar.storage import hub
from flowar.tokenizers.pixel import PixelTokenizer

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
SLOW = ("train.md", "evaluate.md")
LARGEST_FIGURE, ALL_FIGURES = 200_000, 1_500_000


def page_id(page: Path) -> str:
    return str(page.relative_to(DOCS))


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages suppose to be there, as small as can be: shipped and published model, data, photos."""
    folder = tmp_path_factory.mktemp("pages")
    tokenizer = PixelTokenizer(image_channels=1, stride=4)
    model = small_model(
        latent_channels=16,
        latent_size=7,
        num_classes=10,
        class_names=read_class_names("fashion_mnist"),
        flow_depth=1,
        num_inference_steps=2,
        tokenizer=tokenizer.record(),
    )
    FlowARPipeline(model, tokenizer).save_pretrained(folder / "assets" / "flowar-fashion")
    shutil.copy(hub.ASSETS / "fashion-classifier.safetensors", folder / "assets")
    images = torch.randint(0, 256, (40, 28, 28), dtype=torch.uint8)
    for split in ("train", "t10k"):
        (folder / "data").mkdir(exist_ok=True)
        write_idx(folder / "data" / "fashion-mnist", images, torch.arange(40, dtype=torch.uint8) % 10, split)
    generator = np.random.default_rng(0)
    for index in range(8):
        path = folder / "photos" / ("cats", "dogs")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (40, 32, 3), np.uint8)).save(path)
    write_published(folder / "FlowAR-L.pth")
    return folder


@pytest.mark.parametrize(
    "page", [pytest.param(page, id=page_id(page), marks=[pytest.mark.slow] * (page.name in SLOW)) for page in PAGES]
)
def test_page(
    page: Path, material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_tensorboard: None
) -> None:
    workplace = shutil.copytree(material, tmp_path / "page")
    shutil.copytree(ROOT / "configs", workplace / "configs")
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(hub, "ASSETS", workplace / "assets")
    run_page(page)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```\nflowar info\n```\n", "expected a language"),
        ("    flowar info\n", "expected a fenced block, got an indented line"),
        ("```sh\nflowar info\n", "expected an end of the last block"),
        ("```sh\nflowar info --no_such_option 1\n```\n", "exit code 2"),
        ('```sh title="needs a GPU"\nflowar info --no_such_option 1\n```\n', "no_such_option"),
        ('```sh title="needs two"\ntorchrun --nproc-per-node 2 -m flowar info --nothing\n```\n', "nothing"),
        ('```sh title="needs a GPU"\nmake nothing\n```\n', "expected targets of the Makefile"),
        ('```sh title="needs the network"\npip install -e ".[nothing]"\n```\n', "nothing"),
        ("```python\n1 / 0\n```\n", "ZeroDivisionError"),
        ('```cpp title="csrc/kernels/silu_add.h"\nno such words\n```\n', "expected words of csrc"),
        ("```yaml\n# run.yaml\noutput: runs/x\nno_such_field: 1\n```\n", "no_such_field"),
    ],
)
def test_wrong_page(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(AssertionError, match=message):
        run_page(tmp_path / "page.md")


def test_every_command_is_on_some_page() -> None:
    used = {words[1] for page in PAGES for block in blocks(page) for words in block.lines if words[0] == "flowar"}
    assert used >= {*COMMANDS}


def test_figures_are_small() -> None:
    sizes = {path: path.stat().st_size for path in (DOCS / "figures").iterdir()}
    assert max(sizes.values()) < LARGEST_FIGURE
    assert sum(sizes.values()) < ALL_FIGURES


@pytest.mark.slow
def test_site(tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    commands = (tmp_path / "site" / "commands.html").read_text()
    assert all(f'id="flowar-{name}"' in commands for name in COMMANDS)
    assert all(f"<code>--{name}</code>" in commands for name in ("guidance_interval", "optim.lr", "finetune.classes"))
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text()
        loaded = [tag for tag in re.findall(r"<(?:script|link|img)[^>]*>", text) if "//" in tag]
        assert loaded == [], page
