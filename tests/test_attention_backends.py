"""The attention backends: all compute the definition, and what was asked for by name is never replaced."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import error, small_model
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from flowar.errors import MissingPackageError
from flowar.networks import attention_backends
from flowar.networks.attention_backends import (
    FLASH_PACKAGES,
    attention,
    attention_backend,
    backend_report,
    choose_flash,
    flash_imports,
    measured_backends,
    reference_attention,
    set_attention_backend,
    use_attention_backend,
)

MODULES = tuple(package.module for package in FLASH_PACKAGES)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    """[B, N, H, d], written out for each image and head."""
    out = torch.empty_like(q)
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            scores = q[b, :, h] @ k[b, :, h].T * (q.shape[-1] ** -0.5 if scale is None else scale)
            out[b, :, h] = scores.softmax(-1) @ v[b, :, h]
    return out


def flash_2(q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0, softmax_scale: float | None = None) -> Tensor:
    """The arguments of flash_attn 2, with a dropout of which one sees that it arrived."""
    return softmax_attention(q, k, v, softmax_scale) * (1 - dropout_p)


def flash_3(q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None = None, causal: bool = False) -> Tensor:
    return softmax_attention(q, k, v, softmax_scale)


def flash_4(q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None = None) -> tuple[Tensor, Tensor | None]:
    return softmax_attention(q, k, v, softmax_scale), None


FUNCTIONS = {"flash_attn": flash_2, "flash_attn_interface": flash_3, "flash_attn.cute": flash_4}


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has, the tests start without; and forget what they imported."""
    monkeypatch.setattr(attention_backends, "_flash", None)
    for name in MODULES:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def install(name: str, function: Callable[..., Any] | None = None, version: str | None = "9.8.7") -> None:
        module = ModuleType(name)
        vars(module).update(flash_attn_func=function or FUNCTIONS[name])
        if version is not None:
            vars(module).update(__version__=version)
        monkeypatch.setitem(sys.modules, name, module)
        if "." in name and sys.modules["flash_attn"] is None:
            monkeypatch.setitem(sys.modules, "flash_attn", ModuleType("flash_attn"))  # the folder, with no function

    return install


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[Tensor]]]:
    """q, k and v as on a GPU of a given compute capability: tensors without numbers, which need no GPU."""

    def make(capability: tuple[int, int] = (9, 0), dtype: torch.dtype = torch.bfloat16, d: int = 64) -> list[Tensor]:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        return [torch.empty(2, tokens, 3, d, device="cuda", dtype=dtype) for tokens in (3, 5, 5)]

    with FakeTensorMode():
        yield make


def qkv(queries: int = 3, keys: int = 5, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.randn(2, tokens, 3, 8, dtype=dtype) for tokens in (queries, keys, keys)]


@pytest.mark.parametrize("backend", ["auto", "sdpa", "reference"])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (5, 5), (3, 8), (16, 21)])
def test_backends_agree(backend: str, queries: int, keys: int) -> None:
    q, k, v = qkv(queries, keys)
    with use_attention_backend(backend):
        got = attention(q, k, v)
    assert got.shape == (2, queries, 24)
    torch.testing.assert_close(got, softmax_attention(q, k, v, None).flatten(2))


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_a_prefix_of_a_cache(backend: str) -> None:
    """Keys and values as the sampler passes them: the first tokens of a larger buffer."""
    q, keys, values = qkv(4, 21)
    with use_attention_backend(backend):
        got = attention(q, keys[:, :5], values[:, :5])
        assert torch.equal(got, attention(q, keys[:, :5].clone(), values[:, :5].clone()))
        torch.testing.assert_close(got, softmax_attention(q, keys[:, :5], values[:, :5], None).flatten(2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_definition_is_computed_in_float32_at_least(dtype: torch.dtype) -> None:
    q, k, v = qkv(dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        got = reference_attention(q, k, v)
    assert got.dtype == dtype
    expected = softmax_attention(*(x.double() for x in (q, k, v)), None).flatten(2)
    torch.testing.assert_close(got.double(), expected.to(dtype).double(), rtol=torch.finfo(dtype).eps, atol=1e-7)


def test_gradients_of_16_bits() -> None:
    """PyTorch's own of bfloat16 on a CPU are slow; ours may err no more."""
    exact = [x.requires_grad_() for x in qkv(dtype=torch.float64)]
    softmax_attention(*exact, None).flatten(2).sin().sum().backward()
    errors = []
    for compute in (attention, sdpa_of_pytorch):
        low = [x.detach().bfloat16().requires_grad_() for x in exact]
        with torch.autocast("cpu", torch.bfloat16):
            out = compute(*low)
        assert out.dtype == torch.bfloat16
        out.sin().sum().backward()
        errors.append(max(error(mine.grad, x.grad) for mine, x in zip(low, exact, strict=True)))
    assert errors[0] <= 1.1 * errors[1]


def sdpa_of_pytorch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    parts = (x.transpose(1, 2) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_dropout(backend: str) -> None:
    q, k, v = qkv()
    with use_attention_backend(backend):
        ones = attention(q, k, torch.ones_like(v), 0.5)
        assert ones.std() > 0.1  # without dropout, weights sum up to 1
        assert torch.isfinite(ones).all()


@pytest.mark.parametrize("name", MODULES)
def test_flash_computes_the_definition(install: Callable[..., None], name: str) -> None:
    install(name)
    (flash,) = flash_imports().installed
    assert flash.label == f"{name} 9.8.7"
    q, k, v = qkv()
    torch.testing.assert_close(flash(q, k, v, 0.0), reference_attention(q, k, v))
    if flash.package.dropout:
        torch.testing.assert_close(flash(q, k, v, 0.25), 0.75 * reference_attention(q, k, v))


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((8, 0), "flash_attn"), ((9, 0), "flash_attn_interface"), ((10, 0), "flash_attn.cute"), ((12, 0), "flash_attn")],
    ids=str,
)
@pytest.mark.parametrize("backend", ["auto", "flash"])
def test_the_package_made_for_the_gpu(
    install: Callable[..., None], gpu: Any, capability: tuple[int, int], expected: str, backend: str
) -> None:
    called = []
    for name in MODULES:
        install(name, lambda q, k, v, name=name: called.append(name) or q)
    with use_attention_backend(backend):
        assert attention(*gpu(capability)).shape == (2, 3, 192)
    assert called == [expected]


@pytest.mark.parametrize(("backend", "expected"), [("flash-2", "flash_attn"), ("flash-3", "flash_attn_interface")])
def test_a_package_by_name(install: Callable[..., None], gpu: Any, backend: str, expected: str) -> None:
    called = []
    for name in MODULES:
        install(name, lambda q, k, v, name=name: called.append(name) or q)
    with use_attention_backend(backend):
        assert attention(*gpu()).shape == (2, 3, 192)
        assert called == [expected]
        with pytest.raises(ValueError, match=f"{backend}: expected CUDA tensors, got cpu"):
            attention(*qkv())


def test_a_package_that_is_not_installed_by_name(install: Callable[..., None]) -> None:
    install("flash_attn")
    with pytest.raises(MissingPackageError, match="attention backend flash-3: flash-3 is not installed: pip install"):
        set_attention_backend("flash-3")


@pytest.mark.parametrize(("dtype", "dropout"), [(torch.bfloat16, 0.0), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("backend", ["sdpa-flash", "sdpa-cudnn", "sdpa-efficient"])
def test_one_kernel_of_pytorch(gpu: Any, backend: str, dtype: torch.dtype, dropout: float) -> None:
    """Their shapes; their numbers need a GPU."""
    with use_attention_backend(backend):
        out = attention(*gpu(dtype=dtype), dropout)
    assert (out.shape, out.dtype, out.device.type) == ((2, 3, 192), dtype, "cuda")


def test_what_is_measured(install: Callable[..., None], gpu: Any) -> None:
    """Packages that serve the GPU, the default first, then the kernels of PyTorch, then its own choice."""
    kernels = ["sdpa-flash", "sdpa-cudnn", "sdpa-efficient", "sdpa"]
    q, k, v = gpu()
    assert [*measured_backends(q, k, v)] == kernels
    attention_backends._flash = None
    for name in MODULES:
        install(name)
    assert [*measured_backends(q, k, v)] == ["flash-3", "flash-4", "flash-2", *kernels]
    assert [*measured_backends(*gpu(dtype=torch.float32))] == kernels


@pytest.mark.parametrize(
    ("name", "request_", "dropout", "refusal"),
    [
        ("flash_attn", {"dtype": torch.float32}, 0.0, "q, k and v in bfloat16 or in float16, got torch.float32"),
        ("flash_attn", {"capability": (7, 5)}, 0.0, "capability 8, 9, 10, 11, 12, got 7.5"),
        ("flash_attn", {"d": 264}, 0.0, "FlashAttention 2 expects a head_dim .* up to 256, got 264"),
        ("flash_attn.cute", {"d": 136}, 0.0, "FlashAttention 4 expects a head_dim .* up to 128, got 136"),
        ("flash_attn", {"d": 12}, 0.0, "a multiple of 8 up to 256, got 12"),
        ("flash_attn_interface", {}, 0.1, "FlashAttention 3 has no dropout, got 0.1"),
        ("flash_attn_interface", {"capability": (10, 0)}, 0.0, "capability 9, got 10.0"),
    ],
)  # fmt: skip
def test_what_flash_refuses(
    install: Callable[..., None], gpu: Any, name: str, request_: dict[str, Any], dropout: float, refusal: str
) -> None:
    """By name it is an error; "auto" goes to PyTorch."""
    install(name)
    q, k, v = gpu(**request_)
    with use_attention_backend("flash"), pytest.raises(ValueError, match=f"^attention backend flash: .*{refusal}"):
        attention(q, k, v, dropout)
    assert attention(q, k, v, dropout).shape == (2, 3, 3 * q.shape[-1])


def test_flash_takes_gpu_tensors_of_one_dtype(install: Callable[..., None], gpu: Any) -> None:
    install("flash_attn")
    q, k, v = gpu()
    refusal = choose_flash(q, k, v.float())
    assert refusal == "expected q, k and v in bfloat16 or in float16, got torch.bfloat16, torch.bfloat16, torch.float32"
    with use_attention_backend("flash"), pytest.raises(ValueError, match="expected CUDA tensors, got cpu"):
        attention(*(x.cpu() for x in (q, k, v)))


def test_flash_that_is_not_installed(gpu: Any) -> None:
    message = r"attention backend flash: the package flash_attn is not installed: pip install .*\[flash\]\""
    with pytest.raises(MissingPackageError, match=message):
        set_attention_backend("flash")
    with pytest.raises(MissingPackageError, match=message), use_attention_backend("flash"):
        pass
    assert attention_backend() == "auto"
    assert attention(*gpu()).shape == (2, 3, 192)


def test_flash_that_does_not_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "flash_attn").mkdir()
    (tmp_path / "flash_attn" / "__init__.py").write_text("raise ImportError('undefined symbol: _Z1x\\nand more')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flash_attn")
    with pytest.raises(
        MissingPackageError, match=r"flash_attn does not load \(undefined symbol: _Z1x\): pip"
    ) as raised:
        set_attention_backend("flash")
    assert "\n" not in str(raised.value)


def test_names() -> None:
    for choose in (set_attention_backend, lambda name: use_attention_backend(name).__enter__()):
        with pytest.raises(ValueError, match=r"expected one of auto, flash, flash-3, .*, reference, got cudnn"):
            choose("cudnn")
    assert attention_backend() == "auto"


def test_the_choice_of_a_thread_precedes_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_backends, "_default", "auto")
    set_attention_backend("sdpa")
    seen: list[str] = []
    with use_attention_backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(attention_backend()))
        thread.start()
        thread.join()
        with use_attention_backend("auto"):
            seen.append(attention_backend())
        seen.append(attention_backend())
    seen.append(attention_backend())
    assert seen == ["sdpa", "auto", "reference", "sdpa"]


def test_the_sampler_runs_on_each_backend() -> None:
    model = small_model()
    expected = model.sample([0, 1], 2)
    with use_attention_backend("reference"):
        got = model.sample([0, 1], 2)
    assert not torch.equal(got, expected)
    assert error(got, expected) < 1e-4


def test_the_naive_path_keeps_to_pytorch() -> None:
    """It is the baseline of benchmarks, and the published code calls PyTorch."""
    model = small_model()
    expected = model.sample([0, 1], 2, naive=True)
    with use_attention_backend("reference"):
        assert torch.equal(model.sample([0, 1], 2, naive=True), expected)


@pytest.mark.parametrize("backend", ["auto", "sdpa", "reference"])
def test_compiles_as_one_graph(install: Callable[..., None], backend: str) -> None:
    install("flash_attn")
    q, k, v = qkv()
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    with use_attention_backend(backend):
        torch.testing.assert_close(compiled(q, k, v), attention(q, k, v))


def test_report(install: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    report = backend_report(torch.device("cpu"))
    assert report["attention"] == "auto (sdpa)"
    assert report["attention flash"] == "unavailable: the package flash_attn is not installed"
    assert report["attention sdpa"] == f"torch {torch.__version__}"
    monkeypatch.setattr(attention_backends, "_flash", None)
    install("flash_attn")
    install("flash_attn.cute")
    with use_attention_backend("reference"):
        report = backend_report(torch.device("cpu"))
    assert report["attention"] == "reference"
    labels = "flash_attn.cute 9.8.7, flash_attn 9.8.7"
    assert report["attention flash"] == f"{labels}, unavailable: expected CUDA tensors, got cpu"


def test_report_on_a_gpu(install: Callable[..., None], gpu: Any) -> None:
    install("flash_attn", version=None)
    gpu()
    report = backend_report(torch.device("cuda"))
    assert (report["attention"], report["attention flash"]) == ("auto (flash)", "flash_attn")
