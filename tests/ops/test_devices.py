"""Devices without a kernel of an op are served by the definition."""

from __future__ import annotations

import pytest
import torch

from flowar import ops
from flowar.ops import backend


def test_a_device_without_a_kernel_is_served_by_the_reference() -> None:
    packed = torch.randn(3, 5, 16)
    assert backend.reference_serves("geglu", packed.to("meta"))
    assert ops.geglu(packed.to("meta")).shape == (3, 5, 8)


@pytest.mark.skipif(not backend.compiled, reason="runs without compiled ops")
def test_a_missing_kernel_gives_the_numbers_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = torch.randn(3, 5, 16)
    assert not backend.reference_serves("geglu", packed)
    monkeypatch.setattr(backend, "_kernels", backend._kernels - {("geglu", "cpu")})
    assert backend.reference_serves("geglu", packed)
    assert torch.equal(ops.geglu(packed), ops.reference.geglu(packed))
    assert not backend.reference_serves("silu_add", packed)
