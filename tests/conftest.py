"""What the tests share: the recorded fixtures, small models with weights that matter, and a disk that is full."""

from __future__ import annotations

import functools
import json
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from fixture_weights import reference_state_dict
from safetensors import safe_open
from torch import Tensor

from flowar import FlowAR, FlowARConfig, Schedule, ops
from flowar.engine.packed import Savings
from flowar.engine.plan import InferencePlan
from flowar.ops import backend
from flowar.storage.published import published_buffers
from flowar.system import precision
from flowar.system.precision import Precision

FIXTURES = Path(__file__).parent / "fixtures"
TINY = ("tiny_attn_mlp", "tiny_attn_cross_mlp")

needs_fp8 = pytest.mark.skipif(
    "fp8" not in precision.served_precisions(torch.device("cpu")),
    reason=f"torch {torch.__version__} does not multiply float8 rows on a CPU",
)

torch.set_num_threads(1)  # the tests run in several processes


@dataclass
class Recording:
    """One file of `fixtures/`: tensors, and the JSON in its metadata."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def per_scale(self, name: str) -> list[Tensor]:
        return [self[f"{name}.{k}"] for k in range(5)]

    def state_dict(self) -> dict[str, Tensor]:
        """The weights that the recording was made with, under the published names."""
        return reference_state_dict(self.metadata["parameters"])

    def published(self) -> dict[str, Tensor]:
        """What the authors' file of this model would hold: rotary tables too, which tell how many heads it has."""
        tables = {key: torch.zeros(shape) for key, shape in published_buffers(self.config()).items()}
        return self.state_dict() | tables

    def schedule(self) -> Schedule:
        config = self.metadata["config"]
        return Schedule.published(config["steps"], config["cfg"], (0.0, config["guidance"]))

    def config(self) -> FlowARConfig:
        recorded = self.metadata["config"]
        return FlowARConfig(
            latent_channels=recorded["latent_channels"],
            latent_size=recorded["scales"][-1],
            scales=recorded["scales"],
            num_classes=recorded["num_classes"],
            ar_width=recorded["ar_dim"],
            ar_depth=recorded["ar_depth"],
            ar_heads=recorded["ar_heads"],
            flow_width=recorded["flow_dim"],
            flow_depth=recorded["flow_depth"],
            flow_block="attn_cross_mlp" if recorded["cross"] else "attn_mlp",
        )


@functools.cache
def recording(name: str) -> Recording:
    with safe_open(FIXTURES / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        return Recording(tensors, {key: json.loads(value) for key, value in file.metadata().items()})


@functools.cache
def recorded_model(name: str) -> FlowAR:
    """The model of a recording."""
    return FlowAR.from_published(recording(name).published())


def error(got: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the standard deviation of `expected` (to its size, for one number)."""
    assert got.shape == expected.shape
    got, expected = got.detach(), expected.detach()
    difference = (got.double() - expected.double()).abs().max()
    scale = expected.double().std() if expected.numel() > 1 else expected.double().abs()
    return float(difference / scale)


def psnr(got: Tensor, expected: Tensor) -> float:
    """Peak signal-to-noise ratio, in decibels, of images in [-1, 1]."""
    return float(10 * torch.log10(4 / (got - expected).square().mean()))


SMALL = FlowARConfig(
    latent_channels=4, latent_size=4, num_classes=5, ar_width=32, ar_depth=2, ar_heads=2, flow_width=64, flow_depth=2
)


def small_model(seed: int = 0, **fields: Any) -> FlowAR:
    """A small model whose layers all matter: none is zero, as some are at initialisation."""
    model = FlowAR(FlowARConfig(**(SMALL.to_dict() | {"scales": None, "flow_heads": None} | fields))).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        norm = name.endswith("norm.weight")
        damping = 0.3 if "output_proj" in name else 1.0
        with torch.no_grad():
            parameter.copy_(1 + 0.1 * values if norm else values * damping / parameter[0].numel() ** 0.5)
    return model


def inference_plan(
    model: FlowAR, precision: Precision | torch.dtype | str | None, savings: Savings | None = None
) -> InferencePlan:
    """A plan of the networks of `model`."""
    return InferencePlan(model.ar_transformer, model.flow_transformer, model.pyramid, model.config, precision, savings)


@pytest.fixture(scope="session", autouse=True)
def heard_ctrl_c() -> Iterator[None]:
    """Shells have what they start in the background ignore SIGINT, and processes hand that down."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def float32_on_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the processor: bfloat16, the default where it is native, would hide the errors that tests look for."""
    pretend_native_bfloat16(monkeypatch, False)


@pytest.fixture(params=["float32", "bfloat16"])
def either_default(request: pytest.FixtureRequest, float32_on_cpus: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """The test runs as a CPU without native bfloat16 does by default, and as one with it, whatever the processor."""
    pretend_native_bfloat16(monkeypatch, request.param == "bfloat16")
    return request.param


def pretend_native_bfloat16(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    capabilities = torch.cpu.get_capabilities() | {"avx512_bf16": native, "amx_bf16": native}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)


@pytest.fixture(params=["compiled", "reference"])
def served_by(request: pytest.FixtureRequest) -> Iterator[str]:
    """The test runs with each implementation of the ops."""
    if request.param == "compiled" and not backend.compiled:
        pytest.skip("flowar is installed without compiled ops")
    with ops.use_reference() if request.param == "reference" else nullcontext():
        assert ops.reference_active() == (request.param == "reference")
        yield request.param


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file can grow beyond 512 bytes: the writes of a test fail as they do on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    """Forty grey images of 8 x 8 in ten classes, as idx files."""
    from test_data import pictures, write_idx  # which would miss pytest's rewriting if imported here first

    return write_idx(tmp_path / "idx", *pictures(40))


@pytest.fixture
def without_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing it takes seconds."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
