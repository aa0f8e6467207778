"""CUDA kernels under emulation: sampling, training and the tests of the ops run upon them, on tensors of the CPU.

So the strides, offsets and aliases that the kernels see are those of the engine.
"""

from __future__ import annotations

from pathlib import Path

import emulated_library
import pytest

from flowar import ops

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ops.reference_active(), reason="installed without the compiled ops"),
    pytest.mark.skipif(emulated_library.CMAKE is None, reason="needs CMake"),
]

SAMPLING, TRAINING = "tests/test_sampling.py", "tests/test_training_step.py"

# What a GPU does not have, what needs no kernel, and what is of torch.compile.
BESIDE_THE_POINT = "not float64 and not gradcheck and not instruction_set and not reference and not compile"

SESSIONS = {
    "recorded runs": [f"{SAMPLING}::test_recorded_run", "tests/test_model.py::TestRecorded", "-k", "not reference"],
    "every op, and gradients": ["tests/emulated/upon_kernels.py"],
    "ops": ["tests/ops", "-k", BESIDE_THE_POINT],
    "engine": [
        *("tests/test_engine.py", f"{SAMPLING}::test_optimised_equals_naive_after_a_training_step"),
        *(f"{SAMPLING}::test_low_precision_errs_no_more_than_autocast", f"{TRAINING}::TestStep"),
    ],
}


@pytest.fixture(scope="module")
def libraries() -> Path:
    return emulated_library.build()


@pytest.mark.parametrize("tests", [pytest.param(tests, id=name) for name, tests in SESSIONS.items()])
def test_passes_upon_emulated_kernels(tests: list[str], libraries: Path) -> None:
    result = emulated_library.pytest_upon(libraries / "libemulated_ops.so", *tests)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]


def test_the_engine_catches_a_wrong_stride(libraries: Path) -> None:
    test = f"{SAMPLING}::test_recorded_run[compiled-tiny_attn_mlp]"
    result = emulated_library.pytest_upon(libraries / "libplanted_ops.so", test)
    assert result.returncode == 1, result.stdout[-4000:] + result.stderr[-4000:]
    assert "1 failed" in result.stdout
    assert "assert error(got[k], expected) < 1e-4" in result.stdout
