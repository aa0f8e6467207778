"""Every example runs, with what ships, and writes what it says."""

from __future__ import annotations

import ast
import json
import runpy
from pathlib import Path

import pytest
from documents import ROOT
from PIL import Image
from public_api import public_modules

from flowar.tokenizers import KINDS, Tokenizer

EXAMPLES = ROOT / "examples"
WRITES = {
    "dit_script.py": ["0.png", "1.png", "2.png"],
    "own_block.py": ["own_block.png"],
    "own_schedule.py": ["schedule.json"],
    "own_tokenizer.py": ["dct/tokenizer.json", "reconstructions.png"],
}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(KINDS, "dct", Tokenizer)  # what the example enters is gone afterwards


def notebook_cells() -> list[str]:
    cells = json.loads((EXAMPLES / "tour.ipynb").read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_scripts(path: Path) -> None:
    runpy.run_path(str(path), run_name="__main__")
    assert [name for name in WRITES[path.name] if not Path(name).is_file()] == []


@pytest.mark.slow
def test_the_script_for_dit_is_one(tmp_path: Path) -> None:
    """With the class and the model of diffusers it runs as well: a small one, of noise."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    transformer = diffusers.DiTTransformer2DModel(
        sample_size=4, num_layers=1, attention_head_dim=4, num_attention_heads=2, out_channels=8
    )
    vae = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, layers_per_block=1)
    pipe = diffusers.DiTPipeline(transformer, vae, diffusers.DDIMScheduler())
    pipe.save_pretrained(tmp_path / "dit")
    index = tmp_path / "dit" / "model_index.json"
    names = {"0": "tench, Tinca tinca", "1": "goldfish"}
    index.write_text(json.dumps(json.loads(index.read_text()) | {"id2label": names}))
    script = (EXAMPLES / "dit_script.py").read_text().replace("from flowar import", "from diffusers import")
    script = script.replace("FlowARPipeline", "DiTPipeline").replace('"flowar-fashion"', '"dit"')
    exec(compile(script, "dit_script.py", "exec"), {"__name__": "__main__"})
    assert [name for name in WRITES["dit_script.py"] if not Path(name).is_file()] == []


def test_notebook() -> None:
    """Its cells run in order, and those that end with `show` end with a picture."""
    names: dict[str, object] = {}
    for cell in notebook_cells():
        *before, last = ast.parse(cell).body
        exec(compile(ast.Module(before, []), "tour.ipynb", "exec"), names)
        if isinstance(last, ast.Expr):
            shown = eval(compile(ast.Expression(last.value), "tour.ipynb", "eval"), names)
            assert isinstance(shown, Image.Image) == ast.unparse(last).startswith("show(")
        else:
            exec(compile(ast.Module([last], []), "tour.ipynb", "exec"), names)


def test_public_names_alone() -> None:
    public = {(module, name) for module, names in public_modules().items() for name in names}
    sources = [path.read_text() for path in EXAMPLES.glob("*.py")] + notebook_cells()
    imports = [node for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    used = {(node.module, alias.name) for node in imports for alias in node.names if str(node.module)[:6] == "flowar"}
    assert used
    assert used <= public
