"""The README is true: its Python runs, its commands have those options, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from conftest import small_model
from documents import ROOT, check_command, write_published

from flowar import FlowARPipeline
from flowar.cli import COMMANDS
from flowar.storage.hub import shipped_models
from flowar.tokenizers.pixel import PixelTokenizer

README = (ROOT / "README.md").read_text()
PAGES = [path for path in ROOT.rglob("*.md") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)]


def commands() -> list[str]:
    """All `flowar` commands of the README, continued lines joined."""
    return re.findall(r"^    (flowar .*)$", README.replace("\\\n", " "), re.MULTILINE)


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_published(tmp_path / "FlowAR-L.pth")
    if not shipped_models():
        tokenizer = PixelTokenizer(1, 2)
        model = small_model(num_classes=10, tokenizer=tokenizer.record())
        FlowARPipeline(model, tokenizer).save_pretrained("flowar-fashion")
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert (tmp_path / "shirt.png").exists()
    assert (tmp_path / "flowar-l" / "model.safetensors").exists()


@pytest.mark.parametrize("command", commands())
def test_commands_have_these_options(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    check_command(shlex.split(command))


def test_every_command_is_listed() -> None:
    assert re.findall(r"^\| `flowar ([\w-]+)` \|", README, re.MULTILINE) == [*COMMANDS]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
