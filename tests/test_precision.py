"""Precisions by name: what each means on each device, and torch's setting for matrix products."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from flowar.system import precision
from flowar.system.precision import (
    PRECISIONS,
    Precision,
    check_fp8_products,
    matmul_precision,
    resolve_precision,
    served_precisions,
)
from flowar.tokenizers.pixel import PixelTokenizer

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def capability(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A GPU of the given compute capability."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: request.param)


def setting() -> str:
    return torch.backends.cuda.matmul.fp32_precision


@pytest.fixture(autouse=True)
def restored_setting() -> Iterator[None]:
    before = setting()
    yield
    torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ("float32", Precision("float32", torch.float32)),
        ("fp32", Precision("float32", torch.float32)),
        (torch.float32, Precision("float32", torch.float32)),
        ("tf32", Precision("tf32", torch.float32, "tf32")),
        ("bfloat16", Precision("bfloat16", torch.bfloat16)),
        ("bf16", Precision("bfloat16", torch.bfloat16)),
        (torch.bfloat16, Precision("bfloat16", torch.bfloat16)),
        ("float16", Precision("float16", torch.float16)),
        ("fp16", Precision("float16", torch.float16)),
        (torch.float16, Precision("float16", torch.float16)),
        ("fp8", Precision("fp8", torch.bfloat16, "fp8")),
    ],
    ids=str,
)
@pytest.mark.parametrize("capability", [(9, 0)], indirect=True)
@pytest.mark.usefixtures("capability")
def test_names_and_dtypes(request_: Any, expected: Precision) -> None:
    assert resolve_precision(request_, GPU, torch.float16) == expected
    if expected.name in served_precisions(CPU):
        assert resolve_precision(request_, CPU, torch.float16) == expected


@pytest.mark.parametrize("request_", ["float64", torch.float64], ids=str)
def test_float64_is_for_the_cpu(request_: Any) -> None:
    assert resolve_precision(request_, CPU, torch.float32) == Precision("float64", torch.float64)
    for request in (request_, None):
        with pytest.raises(ValueError, match=r"^dtype: float64 expects the CPU, got cuda:0$"):
            resolve_precision(request, GPU, torch.float64)


@pytest.mark.parametrize("request_", [None, "auto"])
@pytest.mark.parametrize(
    ("capability", "device", "parameters", "expected"),
    [
        ((8, 0), GPU, torch.float32, "bfloat16"),
        ((7, 5), GPU, torch.float32, "float32"),
        ((9, 0), GPU, torch.float16, "float16"),
        ((9, 0), GPU, torch.bfloat16, "bfloat16"),
        ((9, 0), CPU, torch.bfloat16, "bfloat16"),
        ((9, 0), CPU, torch.float64, "float64"),
    ],
    indirect=["capability"],
)
@pytest.mark.usefixtures("capability")
def test_automatic_choice(request_: str | None, device: torch.device, parameters: torch.dtype, expected: str) -> None:
    assert resolve_precision(request_, device, parameters) == PRECISIONS[expected]


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True}, "bfloat16"), ({"avx512_f": True}, "float32")],
)
def test_automatic_choice_on_a_cpu(
    capabilities: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert resolve_precision("auto", CPU, torch.float32) == PRECISIONS[expected]


@pytest.mark.parametrize(
    ("capability", "name", "message"),
    [
        ((8, 6), "fp8", "fp8 expects compute capability 8.9 or later, got 8.6"),
        ((7, 5), "bf16", "bfloat16 expects compute capability 8.0 or later, got 7.5"),
        ((7, 5), "tf32", "tf32 expects compute capability 8.0 or later, got 7.5"),
    ],
    indirect=["capability"],
)
@pytest.mark.usefixtures("capability")
def test_gpus_that_are_too_old(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^dtype: {message}$"):
        resolve_precision(name, GPU, torch.float32)


@pytest.mark.parametrize("capability", [(8, 9)], indirect=True)
@pytest.mark.usefixtures("capability")
def test_fp8_from_ada_on() -> None:
    assert resolve_precision("fp8", GPU, torch.float32).matmul == "fp8"


def test_fp8_where_torch_lacks_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("scale_a.numel() == 1 && scale_b.numel() == 1")

    check_fp8_products.cache_clear()
    monkeypatch.setattr(torch, "_scaled_mm", refuse)
    assert "fp8" not in served_precisions(CPU)
    with pytest.raises(
        ValueError, match=r"^dtype: fp8 expects products of float8 matrices .*, torch .* has none on cpu$"
    ):
        resolve_precision("fp8", CPU, torch.float32)


def test_rocm_is_asked_nothing_of_nvidia(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its device is called "cuda" too, but its capabilities are other ones; what it multiplies is tried."""
    tried: list[str] = []
    monkeypatch.setattr(torch.version, "hip", "7.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: pytest.fail("asked for a capability"))
    monkeypatch.setattr(precision, "check_fp8_products", tried.append)
    assert served_precisions(GPU) == ["float32", "bfloat16", "float16", "fp8"]
    assert tried == ["cuda"]
    assert resolve_precision("auto", GPU, torch.float32).name == "float32"
    with pytest.raises(ValueError, match=r"^dtype: tf32 expects an NVIDIA GPU, got one of AMD$"):
        resolve_precision("tf32", GPU, torch.float32)


def test_no_tf32_on_the_cpu() -> None:
    with pytest.raises(ValueError, match=r"^dtype: tf32 expects an NVIDIA GPU, got cpu$"):
        resolve_precision("tf32", CPU, torch.float32)


@pytest.mark.parametrize("request_", ["int8", "float8", "", torch.int8, torch.float8_e4m3fn, 16, ["bf16"]], ids=str)
def test_unknown_names(request_: Any) -> None:
    expected = "expected one of auto, float32, tf32, bfloat16, float16, fp8, float64, got"
    with pytest.raises(ValueError, match=f"^dtype: {expected} ") as raised:
        resolve_precision(request_, CPU, torch.float32)
    assert str(raised.value).endswith(f"got {request_}")


@pytest.mark.parametrize("before", ["none", "ieee", "tf32"])
@pytest.mark.parametrize(("name", "inside"), [("tf32", "tf32"), ("float32", "ieee"), ("bfloat16", None), ("fp8", None)])
def test_matmul_setting(before: str, name: str, inside: str | None) -> None:
    torch.backends.cuda.matmul.fp32_precision = before
    with matmul_precision(PRECISIONS[name]):
        assert setting() == (inside or before)
        with matmul_precision(PRECISIONS[name]):
            pass
        assert setting() == (inside or before)
    assert setting() == before
    with pytest.raises(ZeroDivisionError), matmul_precision(PRECISIONS[name]):
        _ = 1 // 0
    assert setting() == before
    assert setting() == before


@pytest.mark.parametrize("before", ["none", "ieee", "tf32"])
def test_decoding_convolves_exactly(before: str, monkeypatch: pytest.MonkeyPatch) -> None:
    convolutions, inside = torch.backends.cudnn.conv, []
    default, tokenizer = convolutions.fp32_precision, PixelTokenizer(1, 1)
    monkeypatch.setattr(tokenizer, "_decode", lambda z: (inside.append(convolutions.fp32_precision), z)[1])
    try:
        convolutions.fp32_precision = before
        tokenizer.decode(torch.zeros(1, 1, 2, 2))
        assert (inside, convolutions.fp32_precision) == (["ieee"], before)
    finally:
        convolutions.fp32_precision = default


def test_threads_share_the_setting_and_do_not_change_it_under_each_other() -> None:
    before = setting()
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with matmul_precision(PRECISIONS["tf32"]):
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    with matmul_precision(PRECISIONS["tf32"]):
        thread.start()
        assert entered.wait(60)
    assert setting() == "tf32"  # the other thread is still at work
    refused = pytest.raises(RuntimeError, match="one float32 precision at a time, got ieee beside tf32")
    with refused, matmul_precision(PRECISIONS["float32"]):
        pass
    leave.set()
    thread.join()
    with matmul_precision(PRECISIONS["float32"]):
        assert setting() == "ieee"
    assert setting() == before


def test_torch_reads_its_setting_by_the_old_name_too() -> None:
    """torch refuses that where old and new names disagree; what runs in float32 must not bring that about."""
    with matmul_precision(PRECISIONS["float32"]):
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cuda.matmul.allow_tf32
