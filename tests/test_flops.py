"""Operations by formula against PyTorch's own count, and what devices can do."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from conftest import small_model
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from flowar import Schedule
from flowar.networks.attention_backends import use_attention_backend
from flowar.networks.flops import engine_flops, linear, published_flops, training_flops
from flowar.system import hardware
from flowar.system.hardware import peak_flops, peak_memory_mib


def counted_flops(run: Callable[[], object]) -> int:
    """By PyTorch, of matrix products and attention; resampling, which plain PyTorch does as batched products, aside."""

    def attention(q_shape: list[int], k_shape: list[int], v_shape: list[int], *_: object, **__: object) -> int:
        return int(sdpa_flop_count(q_shape, k_shape, v_shape))

    def product(x_shape: list[int], weight_shape: list[int], *_: object, **__: object) -> int:
        return 2 * math.prod(x_shape) * weight_shape[0]

    # The counter knows neither the attention of CPUs nor products with packed matrices.
    of_cpus = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
        torch.ops.mkldnn._linear_pointwise: product,
    }
    with FlopCounterMode(display=False, custom_mapping=of_cpus) as counter:
        run()
    return sum(count for op, count in counter.get_flop_counts()["Global"].items() if "bmm" not in str(op))


@pytest.mark.parametrize("guidance_scale", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("flow_block", ["attn_mlp", "attn_cross_mlp"])
def test_flops(flow_block: str, guidance_scale: float) -> None:
    """Of widths whose GEGLU needs no padding: the formulas leave that out."""
    model = small_model(flow_block=flow_block, ar_width=48, flow_width=96, latent_channels=6)
    schedule = Schedule.published(5, guidance_scale, (0.0, 0.7))
    naive, engine = (
        counted_flops(lambda naive=naive: model.sample([1, 2, 3], schedule=schedule, naive=naive))
        for naive in (True, False)
    )
    assert published_flops(model.config, schedule, batch=3) == naive
    assert engine_flops(model.config, schedule, batch=3) == pytest.approx(engine, rel=0.02)
    assert engine < naive


@pytest.mark.parametrize("flow_block", ["attn_mlp", "attn_cross_mlp"])
def test_training_flops(flow_block: str) -> None:
    model = small_model(flow_block=flow_block)
    config, labels = model.config, torch.zeros(3, dtype=torch.long)
    latents = torch.randn(3, config.latent_channels, *config.grid)
    assert 3 * counted_flops(lambda: model.loss(latents, labels)) == training_flops(config, batch=3)

    # Backward needs no gradients of what is no parameter: latents (but for token 0, the class), noise and times.
    with use_attention_backend("reference"):  # of products that are counted apart
        forward = counted_flops(lambda: model.loss(latents, labels))
        both = counted_flops(lambda: model.loss(latents, labels).loss.backward())
    inputs = (config.tokens - 1) * linear(config.latent_channels, config.ar_width)
    inputs += config.tokens * linear(config.latent_channels, config.flow_width)
    inputs += len(config.grids) * linear(256, config.flow_width)
    assert both == 3 * forward - 3 * inputs


class TestPeakFlops:
    @pytest.fixture
    def gpu(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], torch.device]:
        def called(name: str) -> torch.device:
            monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
            return torch.device("cuda")

        return called

    @pytest.mark.parametrize(
        ("name", "tflops"),
        [
            ("NVIDIA A100-SXM4-80GB", 312),
            ("NVIDIA A100 80GB PCIe", 312),
            ("NVIDIA H100 80GB HBM3", 989),
            ("NVIDIA H100 PCIe", 756),
            ("NVIDIA H200", 989),
            ("NVIDIA H200 NVL", 835.5),
            ("NVIDIA GeForce RTX 4090", 165.2),
        ],
    )
    def test_published(self, gpu: Callable[[str], torch.device], name: str, tflops: float) -> None:
        assert peak_flops(gpu(name), torch.bfloat16) == peak_flops(gpu(name), torch.float16) == tflops * 1e12

    @pytest.mark.parametrize(
        "name", ["NVIDIA A10G", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA A100-SXM4 MIG 1g.5gb"]
    )
    def test_unknown(self, gpu: Callable[[str], torch.device], name: str) -> None:
        assert peak_flops(gpu(name), torch.bfloat16) is None

    def test_dtypes(self, gpu: Callable[[str], torch.device], monkeypatch: pytest.MonkeyPatch) -> None:
        device = gpu("NVIDIA H200")
        assert peak_flops(device, torch.float64) is None
        for precision, rate in (("ieee", 67e12), ("tf32", 494.5e12)):
            monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(fp32_precision=precision))
            assert peak_flops(device, torch.float32) == rate

    def test_cpus_are_unknown(self) -> None:
        assert peak_flops(torch.device("cpu"), torch.float32) is None


def test_peak_memory_of_a_process() -> None:
    """64 MiB more than there is now."""
    before = hardware.resident_mib("VmRSS")
    torch.ones(2**24).sum()
    assert peak_memory_mib(torch.device("cpu")) > before + 60


def test_peak_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**20)
    assert peak_memory_mib(torch.device("cuda")) == 3
