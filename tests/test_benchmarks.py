"""The logic of the benchmarks. No test asserts a time."""

from __future__ import annotations

import itertools
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import decode_speed
import details
import gemm_speed
import gpu_report
import models
import op_calls
import ops_speed
import peak_memory
import pytest
import record
import sample_speed
import samplers
import sass
import sass_table
import steps
import tables
import timing
import torch
from agreement import Disagreement, Expected
from conftest import SMALL, small_model
from torch._C._autograd import DeviceType
from torch._dynamo.utils import counters

from flowar import FlowAR, FlowARConfig, ops
from flowar.config import PRESETS
from flowar.engine.packed import default_savings
from flowar.sampling.callbacks import Callbacks
from flowar.storage.checkpoint import skeleton

CPU = torch.device("cpu")


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that advances by one second whenever it is read."""
    clock = itertools.count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))


@pytest.mark.usefixtures("ticking")
class TestAlternating:
    def test_variants_take_turns(self) -> None:
        order: list[str] = []
        runs = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
        times = timing.time_alternating(runs, CPU, seconds=3, warmup=0)
        assert order == ["a", "b"] * 3
        assert times == {"a": [1.0] * 3, "b": [1.0] * 3}

    def test_a_slow_variant_leaves_the_rounds_early(self) -> None:
        runs = {"slow": lambda: [timing.time.perf_counter() for _ in range(9)], "fast": lambda: None}
        times = timing.time_alternating(runs, CPU, seconds=12, warmup=0)
        assert times == {"slow": [10.0] * 2, "fast": [1.0] * 12}

    def test_every_variant_runs_twice_at_least(self) -> None:
        times = timing.time_alternating({"a": lambda: None, "b": lambda: None}, CPU, seconds=0, warmup=0)
        assert [len(values) for values in times.values()] == [2, 2]

    def test_warmup_is_not_counted(self) -> None:
        calls: list[int] = []
        times = timing.time_alternating({"a": lambda: calls.append(1)}, CPU, seconds=0, warmup=7)
        assert len(calls) > len(times["a"]) == 2


@pytest.mark.usefixtures("ticking")
class TestGpuClocks:
    """With events and graphs of a GPU that is not there: its clock, too, advances by one second whenever it is read."""

    @pytest.fixture(autouse=True)
    def gpu(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """What was done on it."""
        done: list[str] = []

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.time = timing.time.perf_counter()

            def elapsed_time(self, end: Event) -> float:
                return 1e3 * (end.time - self.time)

        class Graph:
            def replay(self) -> None:
                done.append("replay")

        @contextmanager
        def capture(graph: Graph) -> Iterator[None]:
            done.append("capture")
            yield
            done.append("captured")

        for name, fake in (("Event", Event), ("CUDAGraph", Graph), ("graph", capture)):
            monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
        monkeypatch.setattr(timing, "FLUSH_BYTES", 64)
        return done

    def test_calls_take_turns_with_an_empty_cache(self, gpu: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.Tensor, "sum", lambda self: gpu.append("flush"))
        runs = {"a": lambda: gpu.append("a"), "b": lambda: gpu.append("b")}
        times = timing.event_times(runs, CPU, seconds=0, warmup=0)
        assert gpu == ["flush", "a", "flush", "b"] * timing.MINIMUM_ROUNDS
        assert times == {name: [1.0] * timing.MINIMUM_ROUNDS for name in runs}

    def test_rounds_are_chosen_by_the_warm_up(self) -> None:
        """9 seconds of it, in which the clock is read once a round and twice a call more: 2 rounds; so 20 in 90."""
        times = timing.event_times({"a": lambda: None}, CPU, seconds=90, warmup=9)
        assert len(times["a"]) == 20

    def test_calls_in_a_graph(self, gpu: list[str]) -> None:
        times = timing.graph_times({"a": lambda: gpu.append("a")}, CPU, seconds=0, warmup=0)
        calls = ["a"] * timing.GRAPH_CALLS
        assert gpu == ["a", "capture", *calls, "captured", *["replay"] * timing.MINIMUM_ROUNDS]
        assert times == {"a": [1 / timing.GRAPH_CALLS] * timing.MINIMUM_ROUNDS}


def test_host_time_of_one_call(ticking: None) -> None:
    calls: list[int] = []
    assert timing.host_seconds(lambda: calls.append(1), CPU, calls=4, repeats=3) == 0.25
    assert len(calls) == 12


def test_summary() -> None:
    assert timing.summary([3.0]) == {"median": 3.0, "p20": 3.0, "p80": 3.0, "p99": 3.0}
    expected = {"median": 3.5, "p20": 2.0, "p80": 5.0, "p99": 5.95}
    assert timing.summary([6.0, 1.0, 2.0, 4.0, 3.0, 5.0]) == pytest.approx(expected)
    assert timing.summary([0.0, 1.0]) == pytest.approx({"median": 0.5, "p20": 0.2, "p80": 0.8, "p99": 0.99})


def test_table() -> None:
    shown = tables.table(["name", "s"], [["naive", "10.5"], ["optimised", 2]])
    assert shown.splitlines() == ["name          s", "---------  ----", "naive      10.5", "optimised     2"]


def test_results_say_where_they_come_from(tmp_path: Path) -> None:
    path = record.save_results("sample_speed", CPU, tmp_path / "new" / "results.json", {"results": [1]})
    values = json.loads(path.read_text())
    assert (values["benchmark"], values["results"]) == ("sample_speed", [1])
    assert values["environment"].keys() >= {"device", "commit", "torch", "python", "cpu", "cpu threads", "gpu", "ops"}
    assert values["environment"]["torch"] == torch.__version__


def test_results_of_every_device_have_their_own_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(record, "device_name", lambda device: "ACME (R) CPU @ 2.50GHz")
    assert record.save_results("ops_speed", CPU, None, {}) == tmp_path / "ops_speed-acme-r-cpu-2-50ghz.json"


def test_commit_outside_of_a_checkout(tmp_path: Path) -> None:
    assert record.commit(tmp_path) == "unknown"


def test_weights_are_deterministic_and_all_of_them_matter() -> None:
    def filled() -> FlowAR:
        model = skeleton(FlowAR, SMALL, torch.float32).to_empty(device="cpu")
        models.fill_weights(model)
        return model

    first, second = filled(), filled()
    assert all(map(torch.equal, first.parameters(), second.parameters()))
    assert not [name for name, parameter in first.named_parameters() if (parameter == 0).any()]
    a, b = (first.sample([label], seed=0, guidance_scale=1.0) for label in (0, 1))
    assert (a - b).std() > 1e-4 * a.std()  # the class reaches the latents


class TestAgreement:
    naive = torch.arange(128.0).sin().view(2, 4, 4, 4) * 2**0.5  # of standard deviation 1

    def test_float32(self) -> None:
        expected = Expected(torch.float32, self.naive, self.naive)
        assert "largest difference" in expected.check(self.naive + 1e-5)
        with pytest.raises(Disagreement, match=r"largest difference 2\.\de-04 .*, expected at most 1\.0e-04"):
            expected.check(self.naive + 2e-4 * self.naive.std())

    def test_low_precision(self) -> None:
        expected = Expected(torch.bfloat16, self.naive + 0.01, truth=self.naive)
        assert "of naive autocast" in expected.check(self.naive - 0.014)
        with pytest.raises(Disagreement, match=r"error 1\.\de-02 against 1\.0e-02 .*, expected at most 1\.5e-02"):
            expected.check(self.naive - 0.016)

    def test_the_first_images_of_a_larger_batch(self) -> None:
        expected = Expected(torch.float32, self.naive, self.naive)
        assert expected.check(torch.cat((self.naive, self.naive + 1))).endswith("0.0e+00 of the standard deviation")
        assert expected.check(self.naive[:1]).endswith("0.0e+00 of the standard deviation")

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_not_finite(self, dtype: torch.dtype) -> None:
        bad = torch.full((1, 2), float("nan"))
        with pytest.raises(Disagreement, match="expected finite numbers"):
            Expected(dtype, bad, bad).check(bad)


class TestSampleSpeed:
    """With a small model, on the CPU."""

    @pytest.fixture
    def run(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, Any]]:
        """Call `main` with more options; what it recorded."""
        small_model(seed=1).save_pretrained(tmp_path / "model")
        monkeypatch.setattr(sample_speed, "matmul_rate", lambda device, dtype: 1.0)

        def run(*options: str) -> dict[str, Any]:
            given = ["--models", str(tmp_path / "model"), "--steps", "2", "--seconds", "0", "--device", "cpu"]
            arguments = ["sample_speed.py", *given, *options, "--output", str(tmp_path / "out.json")]
            monkeypatch.setattr(sys, "argv", arguments)
            sample_speed.main()
            return json.loads((tmp_path / "out.json").read_text())

        return run

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_naive_and_engine(
        self, run: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str], dtype: str
    ) -> None:
        values = run("--batch-sizes", "1", "3", "--dtypes", dtype)
        shown = capsys.readouterr().out.splitlines()
        assert shown[0].split()[:4] == ["model", "batch", "dtype", "variant"]
        assert [line.split()[3] for line in shown[2:-1]] == ["naive", "engine", "one"] * 2
        assert values["settings"]["batch_sizes"] == [1, 3]
        for result, batch in zip(values["results"], (1, 3), strict=True):
            assert (result["batch"], result["dtype"], result["evaluations"]) == (batch, dtype, 2 * 3)
            naive, engine = (result["variants"][variant] for variant in ("naive", "engine"))
            assert len(naive["seconds"]) == len(engine["seconds"]) == 2
            assert engine["speed_up"] == pytest.approx(naive["median"] / engine["median"])
            assert engine["tflop_per_image"] < naive["tflop_per_image"]

    def test_students(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Schedules of few steps make a preset a student, which the engine has to draw as the published algorithm."""
        monkeypatch.setitem(PRESETS, "TINY", SMALL.to_dict())
        monkeypatch.setattr(sample_speed, "matmul_rate", lambda device, dtype: 1.0)
        options = SimpleNamespace(
            models=["tiny"],
            schedules=["1-step", "4-step"],
            batch_sizes=[2],
            dtypes=None,
            steps=None,
            guidance_scale=None,
            ladder=False,
            details=False,
            seconds=0,
        )
        made = dict(sample_speed.cases(options, CPU))
        assert [*made] == ["tiny 1-step, batch 2, float32", "tiny 4-step, batch 2, float32"]
        for make, jumps in zip(made.values(), (1, 4), strict=True):
            case = make()
            assert not [line for line in case.measure() if "WRONG" in line]
            assert [*case.values["variants"]] == ["naive", "engine"]
            assert case.values["evaluations"] == 3 * jumps

    def test_ladder_and_details(self, run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
        """Every saving once."""
        monkeypatch.setattr(samplers, "compiled", samplers.naive)
        (result,) = run("--batch-sizes", "1", "--ladder", "--details")["results"]
        savings = [name for name, used in vars(default_savings(torch.device("cpu"))).items() if used]
        rungs = ["naive", "engine", *(f"engine without {name.replace('_', ' ')}" for name in savings)]
        assert list(result["variants"]) == [*rungs, "naive + torch.compile"]
        assert not result["wrong"]
        assert all(values["speed_up"] > 0 for values in result["variants"].values())
        assert list(result["details"]) == ["engine", "naive"]
        stages = result["details"]["engine"]
        assert len(stages["ar_ms"]) == len(stages["ode_ms"]) == 3
        assert all(each["kinds_ms"]["matrix products"] > 0 for each in result["details"].values())

    @pytest.mark.slow
    @pytest.mark.parametrize("flow_block", ["attn_mlp", "attn_cross_mlp"])
    def test_blocks_compile_whole_and_once_a_scale(self, flow_block: str) -> None:
        """Without code generation. The first block of a transformer gets no branch from the one before."""
        counters.clear()
        model = small_model(flow_block=flow_block, flow_depth=3)
        setting = (model, model.schedule(2), torch.float32)
        assert torch.equal(samplers.compiled(*setting, backend="eager")(2), samplers.naive(*setting)(2))
        assert not counters["graph_break"]
        assert counters["stats"]["unique_graphs"] == 2 * len(model.config.grids)

    def test_a_compiler_that_fails_is_a_word(
        self, run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*_: object) -> None:
            raise RuntimeError("no compiler\nhere")

        monkeypatch.setattr(samplers, "compiled", fails)
        (result,) = run("--batch-sizes", "1", "--ladder")["results"]
        assert result["skipped"] == {"naive + torch.compile": "RuntimeError: no compiler"}
        assert "naive + torch.compile" not in result["variants"]

    def test_wrong_latents_are_not_timed(
        self, run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def wrong(*setting: Any) -> samplers.Sampler:
            return lambda batch: samplers.naive(*setting)(batch) + 1

        monkeypatch.setattr(samplers, "engine", wrong)
        with pytest.raises(SystemExit) as exit:
            run("--batch-sizes", "1")
        assert exit.value.code == 1
        (result,) = json.loads((tmp_path / "out.json").read_text())["results"]
        assert list(result["variants"]) == ["naive"]
        assert "largest difference" in result["wrong"]["engine"]

    def test_the_budget_leaves_cases_out(
        self, run: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        values = run("--batch-sizes", "1", "2", "--budget-seconds", "-1")
        assert values["results"] == []
        assert [title.split(", ")[1] for title in values["left_out"]] == ["batch 1", "batch 2"]
        assert "left out, since -1 s were over: " in capsys.readouterr().out


def test_stages_are_told_by_the_callbacks(ticking: None) -> None:
    def run(callbacks: Callbacks) -> None:
        assert callbacks.on_scale is not None
        for scale in range(2):
            for _ in range(3):
                callbacks.on_step()
            callbacks.on_scale(scale, torch.empty(0))

    assert details.stage_times(run, CPU, repeats=2) == {"ar_ms": [1000.0] * 2, "ode_ms": [1000.0] * 2}


def test_launches_of_a_profile() -> None:
    def event(name: str, device: DeviceType) -> SimpleNamespace:
        return SimpleNamespace(name=name, device_type=device)

    host = ["cudaLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaDeviceSynchronize"]
    device = ["geglu_kernel", "ampere_gemm", "Memcpy DtoD (Device -> Device)", "Memset (Device)"]
    events = [event(name, DeviceType.CPU) for name in host] + [event(name, DeviceType.CUDA) for name in device]
    assert details.launches_of(events) == {"kernels": 2, "launches": 4}


class TestProducts:
    def test_ways_are_checked_timed_and_reported(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        monkeypatch.setattr(gemm_speed, "products", lambda config: [gemm_speed.Product("projection", 32, 16)])
        monkeypatch.setitem(gemm_speed.COLD_BYTES, "cpu", 8192)
        options = ["--seconds", "0", "--device", "cpu", "--output", str(tmp_path / "out.json")]
        monkeypatch.setattr(sys, "argv", ["gemm_speed.py", *options])
        gemm_speed.main()
        results = json.loads((tmp_path / "out.json").read_text())["results"]
        assert sorted({result["rows"] for result in results}) == [2, 8, 32, 128, 512]
        assert {result["way"] for result in results} >= {"F.linear"}
        assert all(result["seconds"] > 0 for result in results)
        assert "projection" in capsys.readouterr().out

    @pytest.mark.parametrize("parts", [1, 2, 4])
    def test_split_k_is_the_product(self, parts: int) -> None:
        x, weight, bias = torch.randn(6, 32), torch.randn(10, 32), torch.randn(10)
        expected = torch.nn.functional.linear(x, weight, bias)
        torch.testing.assert_close(gemm_speed.split_k(x, weight, bias, parts), expected)

    def test_a_wrong_product_ends_the_program(self) -> None:
        with pytest.raises(SystemExit, match="expected the product"):
            gemm_speed.check("projection", torch.ones(2, 2), torch.full((2, 2), 1.001))

    def test_shapes_are_those_of_the_model(self) -> None:
        config = FlowARConfig.preset("S")
        block = skeleton(FlowAR, config, torch.float32).flow_transformer.blocks[0]
        linear = {"q, k, v": block.attn.qkv, "projection": block.attn.proj, "modulation": block.position_modulation}
        shapes = {product.name: (product.k, product.n) for product in gemm_speed.products(config)}
        assert all(shapes[name] == (each.in_features, each.out_features) for name, each in linear.items())
        assert shapes["GEGLU in"] == (1024, 2 * 2752)
        assert shapes["GEGLU out"] == (2752, 1024)


def test_peak_memory(tmp_path: Path) -> None:
    small_model().save_pretrained(tmp_path, torch.bfloat16)
    stages = peak_memory.peak(tmp_path, torch.bfloat16)
    assert 0 < stages["before"] <= stages["loaded"] <= stages["prepacked"] <= stages["sampled"]
    assert stages["weights"] == pytest.approx(sum(p.numel() for p in small_model().parameters()) * 2 / 2**20)


def test_kinds_of_work_on_a_cpu() -> None:
    operators = [
        ("aten::addmm", 4.0),
        ("mkldnn::_linear_pointwise", 3.0),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", 2.0),
        ("flowar::geglu", 1.0),
        ("aten::_fused_adamw_", 0.125),
        ("aten::copy_", 0.5),
        ("aten::view", 0.25),
    ]
    kinds = details.sum_by_kind(operators, 12.0)
    assert list(kinds.values()) == [7.0, 2.0, 1.0, 0.125, 0.5, 0.25, 1.125]
    measured = details.kinds_of_work(lambda: torch.mm(torch.ones(64, 64), torch.ones(64, 64)))
    assert measured["matrix products"] > 0
    assert measured.keys() == kinds.keys()


READ_ONCE = [name for name in op_calls.OPS if name not in ("rotary_qkv_cache", "latent_resample", "latent_pyramid")]


@pytest.mark.parametrize("name", READ_ONCE)
def test_bytes_moved_are_those_of_arguments_and_results(name: str) -> None:
    """To 5 %: what broadcasts, and small tables, are left out of the formulas."""
    for call in op_calls.Calls(2, 4, torch.bfloat16, CPU).of([name]):
        tensors = [x for x in call.arguments if isinstance(x, torch.Tensor)]
        read = [
            x for x in tensors if (x.dtype != torch.int64 and x is not call.arguments[-1]) or name != "velocity_step"
        ]
        touched = [*read, *op_calls.results(call, ops)]
        assert call.moved == pytest.approx(sum(x.numel() * x.element_size() for x in touched), rel=0.05)


def test_every_op_has_calls_of_one_and_of_many_images() -> None:
    for batch, scale in ((2, 0), (4, 2)):
        calls = list(op_calls.Calls(batch, scale, torch.float32, CPU).of(op_calls.OPS))
        assert {call.op for call in calls} == set(op_calls.OPS)
        assert {call.rows for call in calls if call.op == "geglu"} == {batch * 4**scale}


class TestOpsSpeed:
    def test_wrong_numbers_end_the_program(self) -> None:
        exact = [torch.ones(3, dtype=torch.float64)]
        eager = [torch.ones(3)]
        ops_speed.check("op", [torch.ones(3)], eager, exact, slack=1)
        for wrong in (1.001, float("nan")):
            with pytest.raises(SystemExit, match=r"op: error .*, expected at most 1\.19e-07"):
                ops_speed.check("op", [torch.full((3,), wrong)], eager, exact, slack=1)

    def test_end_to_end(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        monkeypatch.setattr(
            ops_speed, "compile_reference", lambda call, skipped: skipped.append(f"no compiler: {call.op}")
        )
        monkeypatch.setattr(ops_speed, "COPY_BYTES", {"cpu": 2**20})
        options = ["--ops", "silu_add", "velocity_step", "--seconds", "0", "--output", str(tmp_path / "out.json")]
        monkeypatch.setattr(sys, "argv", ["ops_speed.py", "--device", "cpu", *options])
        ops_speed.main()
        values = json.loads((tmp_path / "out.json").read_text())
        assert values["settings"]["dtype"] == "float32"
        large, small = values["calls"][:4], values["calls"][4:]
        assert [(call["op"], call["pass"]) for call in large] == [
            ("silu_add", "forward"),
            ("silu_add", "forward"),
            ("silu_add", "backward"),
            ("velocity_step", "forward"),
        ]
        assert sorted({call["rows"] for call in small if call["op"] == "silu_add"}) == [2, 8, 32, 128, 512]
        for call in values["calls"]:
            assert call["gb_s"] == pytest.approx(call["bytes"] / call["variants"]["flowar"]["median"] / 1e9)
        assert large[0]["of_copy"] == pytest.approx(large[0]["gb_s"] / values["copy_gb_s"])
        assert [host["op"] for host in values["host"]] == ["silu_add", "velocity_step"]
        shown = capsys.readouterr().out
        assert shown.count("skipped: no compiler") == 3
        assert shown.splitlines()[0].split()[:3] == ["op", "call", "rows"]

    def test_quick_leaves_large_calls_out(self) -> None:
        options = ops_speed.argparse.Namespace(ops=["latent_pyramid", "geglu"], quick=True)
        planned = [(call.op, large) for call, large in ops_speed.plan(options, torch.float32, CPU, [])]
        assert planned == [("geglu", False)] * 4 + [("latent_pyramid", False), ("geglu", False)]


class TestDecodeSpeed:
    @pytest.fixture
    def run(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ticking: None) -> Callable[[], dict[str, Any]]:
        def run() -> dict[str, Any]:
            options = ["--tokenizers", "flowar-fashion", "--batch-sizes", "2", "--latent-sizes", "3", "--bfloat16"]
            output = ["--seconds", "0", "--device", "cpu", "--output", str(tmp_path / "out.json")]
            monkeypatch.setattr(sys, "argv", ["decode_speed.py", *options, *output])
            decode_speed.main()
            return json.loads((tmp_path / "out.json").read_text())

        return run

    def test_end_to_end(self, run: Callable[[], dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
        (result,) = run()["results"]
        assert (result["tokenizer"], result["latents"], result["batch"]) == ("flowar-fashion", 3, 2)
        assert [name for name, each in result["variants"].items() if each["decibels"] < 80] == [
            "default layout, bfloat16",
            "channels last, bfloat16",
        ]
        assert all(each["median"] == 1 for each in result["variants"].values())
        assert capsys.readouterr().out.count("1000.0") == 3 * 4

    def test_wrong_images_are_not_timed(
        self, run: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(decode_speed.MINIMUM_DECIBELS, torch.bfloat16, 150)
        with pytest.raises(SystemExit, match="default layout, bfloat16: expected at least 150 dB"):
            run()

    def test_peak_memory(self) -> None:
        """64 MiB more than what is left of it."""
        _, mebibytes = decode_speed.with_peak_memory(lambda: torch.ones(2**24).sum(), CPU)
        assert 60 < mebibytes < 70


def python(name: str, code: str, **fields: Any) -> steps.Step:
    return steps.Step(name, (sys.executable, "-c", code), fields.pop("seconds", 60), **fields)


class TestSteps:
    def test_what_becomes_of_a_step(self, tmp_path: Path) -> None:
        """What fails, hangs or does not exist is recorded, and the next goes on."""
        program = [
            python("good", "import os; print('at', os.getcwd(), os.environ['MARK'])", environment={"MARK": "here"}),
            python("bad", "print('word'); raise SystemExit(3)", is_test=True),
            python("refused", "print('error: Device not supported'); raise SystemExit(1)", refusal="Device not .*"),
            python("missing", "raise AssertionError", missing="no such tool"),
            steps.Step("no program", (str(tmp_path / "none"),), 1),
        ]
        log: list[str] = []
        outcomes = list(steps.run_steps(program, 120, tmp_path, log.append))
        assert [(outcome.name, outcome.status, outcome.reason) for outcome in outcomes] == [
            ("good", "passed", ""),
            ("bad", "failed", "exit code 3"),
            ("refused", "skipped", "this machine refuses: Device not supported"),
            ("missing", "skipped", "no such tool"),
            ("no program", "failed", f"{tmp_path / 'none'}: No such file or directory"),
        ]
        assert outcomes[0].output == f"at {tmp_path} here"
        assert (outcomes[1].output, outcomes[1].is_test) == ("word", True)
        assert len(log) == 2 * len(program)

    def test_a_step_out_of_time_ends_with_all_that_it_started(self, tmp_path: Path) -> None:
        """Its child holds a pipe open for as long as it lives."""
        os.mkfifo(tmp_path / "pipe")
        reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        program = "exec 3>pipe; sleep 600 & echo begun; sleep 600"  # a shell starts at once, even on a busy machine
        outcome = steps.run_step(steps.Step("slow", ("sh", "-c", program), 60), 4, tmp_path)
        assert (outcome.status, outcome.output) == ("timed out", "begun")
        assert select.select([reader], [], [], 60)[0], "the child lives on"
        assert os.read(reader, 1) == b""
        os.close(reader)

    def test_time_that_a_step_leaves_is_the_next_ones(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A budget of 60 for steps of 10, 20 and 30 seconds, which take 4, 50 and 1."""
        clock, allowed = [0.0], []
        monkeypatch.setattr(steps.time, "monotonic", lambda: clock[0])

        def run_step(step: steps.Step, seconds: float, folder: Path) -> steps.Outcome:
            allowed.append(seconds)
            clock[0] += {"a": 4, "b": 50, "c": 1}[step.name]
            return steps.Outcome(step.name, "passed", 0, False, "", "")

        monkeypatch.setattr(steps, "run_step", run_step)
        program = [steps.Step(name, (), seconds) for name, seconds in (("a", 10), ("b", 20), ("c", 30))]
        list(steps.run_steps(program, 60, tmp_path, lambda message: None))
        assert allowed == [10, 26, 6]

    def test_the_last_lines_are_kept(self, tmp_path: Path) -> None:
        outcome = steps.run_step(python("long", "for i in range(1000): print(i)"), 60, tmp_path)
        assert outcome.output.splitlines() == [str(i) for i in range(1000 - steps.OUTPUT_LINES, 1000)]


class TestGpuReport:
    def test_without_a_gpu(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr(sys, "argv", ["gpu_report.py"])
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(SystemExit) as exit:
            gpu_report.main()
        assert exit.value.code == 2
        assert "expected a GPU that torch can use, found none" in capsys.readouterr().err

    def test_as_a_module_and_as_a_script(self) -> None:
        for command in (["-m", "benchmarks.gpu_report"], ["benchmarks/gpu_report.py"]):
            run = subprocess.run([sys.executable, *command, "--help"], cwd=gpu_report.ROOT, capture_output=True)
            assert run.returncode == 0

    def test_the_steps_fit_the_budget(self, tmp_path: Path) -> None:
        program = gpu_report.steps("9.0", tmp_path)
        assert [step.name for step in program if not step.is_test] == list(gpu_report.BENCHMARKS)
        assert sum(step.seconds for step in program) == 540

    def test_some_steps_again(self, tmp_path: Path) -> None:
        """They replace what they were; the others stay."""

        def report(keep: bool, *outcomes: tuple[str, str]) -> list[tuple[str, str]]:
            written = gpu_report.Report("ACME", tmp_path, tmp_path, keep)
            for name, status in outcomes:
                written.add(steps.Outcome(name, status, 1.0, True, "", ""))
            found = json.loads((tmp_path / "acme.json").read_text())["steps"]
            return [(step["name"], step["status"]) for step in found]

        report(False, ("build", "passed"), ("tests", "failed"))
        assert report(True, ("tests", "passed")) == [("build", "passed"), ("tests", "passed")]
        assert report(False, ("load", "passed")) == [("load", "passed")]

    def test_every_step_fails_by_itself(self, tmp_path: Path) -> None:
        """Without GPU and built libraries: no step of the real ones brings the report down, and each says why."""
        names = ("load", "ops_speed", "gemm_speed")
        program = [step for step in gpu_report.steps("9.0", tmp_path) if step.name in names]
        broken = [replace(step, environment={"PYTHONPATH": str(tmp_path)}) for step in program]
        (tmp_path / "flowar.py").write_text("raise ImportError('no library')\n")
        outcomes = list(steps.run_steps(broken, 300, gpu_report.ROOT, lambda message: None))
        assert [outcome.status for outcome in outcomes] == ["failed"] * 3
        assert all("no library" in outcome.output for outcome in outcomes)

    @pytest.mark.slow
    def test_without_packages_that_a_machine_may_lack(self, tmp_path: Path) -> None:
        for name in ("jsonargparse", "diffusers", "flash_attn"):
            code = f"raise ModuleNotFoundError('No module named {name}', name='{name}')\n"
            (tmp_path / f"{name}.py").write_text(code)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(gpu_report.ROOT)])}
        options = ["--models", "flowar-fashion", "--batch-sizes", "1", "--seconds", "0", "--device", "cpu"]
        commands = [
            ["benchmarks/sample_speed.py", *options, "--output", str(tmp_path / "samples.json")],
            ["benchmarks/training_speed.py", *options, "--output", str(tmp_path / "training.json")],
            ["-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "tests/ops", "tests/test_gpu.py"],
        ]
        for command in commands:
            done = subprocess.run([sys.executable, *command], cwd=gpu_report.ROOT, env=environment, capture_output=True)
            assert done.returncode == 0, done.stdout + done.stderr

    @pytest.mark.parametrize("status", ["passed", "failed", "timed out", "skipped"])
    def test_partial_results(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, status: str
    ) -> None:
        """A test that ends in each way, one benchmark that is cut off after its results, one that leaves none."""
        code = {"failed": "raise SystemExit(1)", "timed out": "import time; time.sleep(99)"}.get(status, "")
        samples = {"results": [SAMPLES], "left_out": ["H, batch 64, bfloat16"], "environment": {"commit": "abc"}}

        def program(capability: str, scratch: Path) -> list[steps.Step]:
            path = str(scratch / "sample_speed.json")
            write = f"open({path!r}, 'w').write({json.dumps(samples)!r}); raise SystemExit(1)"
            missing = "no tool" if status == "skipped" else ""
            return [
                python("tests", code, seconds=1 if status == "timed out" else 30, is_test=True, missing=missing),
                python("sample_speed", write, seconds=30),
                python("ops_speed", "raise SystemExit(1)", seconds=30),
            ]

        budget = sum(step.seconds for step in program("9.0", tmp_path))
        arguments = ["--output", str(tmp_path / "new"), "--budget-seconds", str(budget)]
        monkeypatch.setattr(sys, "argv", ["gpu_report.py", *arguments])
        monkeypatch.setattr(gpu_report, "steps", program)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "ACME G-1")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
        with pytest.raises(SystemExit) as exit:
            gpu_report.main()
        assert exit.value.code == (1 if status in ("failed", "timed out") else 0)
        values = json.loads((tmp_path / "new" / "acme-g-1.json").read_text())
        assert [step["status"] for step in values["steps"]] == [status, "failed", "failed"]
        assert values["sample_speed"] == samples
        page, shown = (tmp_path / "new" / "acme-g-1.md").read_text(), capsys.readouterr().out
        assert "commit abc" in page
        assert "| L | 64 | bfloat16 | engine | 800 | 900 | 80 | 2.50 | 592 | 1234 |" in page
        assert "- left out for want of time: H, batch 64, bfloat16" in page
        assert "- L, batch 64, engine: scale of each scale: 1.00, 2.50 ms" in page
        assert "- L, batch 64, naive: 65000 kernels, 65100 launches" in page
        assert "- L, batch 64: WRONG engine without graphs: error" in page
        assert "engine without time tables |" not in page  # was not measured
        assert "- L, batch 64, engine without time tables: capture failed" in page
        assert shown.splitlines()[0].split() == ["step", "result", "s", "reason"]
        assert "engine" in shown

    def test_page_of_the_ops(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        times = {"median": 1e-4, "p20": 1e-4, "p80": 1e-4, "p99": 1e-4}
        call = {"op": "geglu", "call": "hidden", "rows": 32768, "pass": "forward", "gb_s": 3600.0, "of_copy": 0.9}
        call["variants"] = {"flowar": times, "eager": times | {"median": 3e-4}}
        small = call | {"rows": 2, "of_copy": None}
        host = [{"op": "geglu", "call": "hidden", "flowar_us": "5.0", "eager_us": "9.0"}]
        ops_values = {"calls": [call, small], "copy_gb_s": 4000.0, "host": host, "skipped": ["torch.compile of geglu"]}
        (tmp_path / "ops_speed.json").write_text(json.dumps(ops_values | {"environment": {"commit": "abc"}}))
        report = gpu_report.Report("ACME", tmp_path / "out", tmp_path)
        report.add(steps.Outcome("ops_speed", "passed", 1.0, False, "", ""))
        page = (tmp_path / "out" / "acme.md").read_text()
        assert "Copy: 4000 GB/s." in page
        assert "| geglu | hidden | 32768 | forward | 100.0 | 3600 | 90 % | 3.00 |  |" in page
        assert "| geglu | hidden | 2 | forward | 100.0 |  |  | 3.00 |  |" in page
        assert "| geglu | hidden | 5.0 | 9.0 |" in page
        assert "- skipped: torch.compile of geglu" in page


SAMPLES = {
    "model": "L",
    "batch": 64,
    "dtype": "bfloat16",
    "matmul_tflops": 790.0,
    "variants": {
        "engine": {"median": 0.8, "p99": 0.9, "speed_up": 2.5, "memory_mib": 1234.2, "tflop_per_image": 7.4},
        "engine without time tables": {"agreement": "error 1e-2", "warnings": ["capture failed"]},
    },
    "wrong": {"engine without graphs": "error"},
    "skipped": {},
    "details": {"engine": {"scale_ms": [1.0, 2.5]}, "naive": {"launches": {"kernels": 65000, "launches": 65100}}},
}


# A kernel: a guarded exit, a loop that is entered at its test, a slow path behind a call, padding.
LISTING = """
.text.kernel:
        /*0000*/                   S2R R0, SR_TID.X ;
        /*0010*/               @P0 EXIT ;
.L_x_1:
        /*0020*/                   ISETP.GE.AND P0, PT, R1, R2, PT ;
        /*0030*/               @P0 BRA `(.L_x_2) ;
        /*0040*/                   FADD R1, R1, 1 ;
        /*0050*/                   MUFU.RCP R3, R1 ;
        /*0060*/                   BRA `(.L_x_1) ;
.L_x_2:
        /*0070*/              @!P1 BRA `(.L_x_3) ;
        /*0080*/                   CALL.REL.NOINC `($__internal_0) ;
.L_x_3:
        /*0090*/                   STG.E.128 desc[UR10][R8.64], R4 ;
        /*00a0*/                   EXIT ;
.L_x_4:
        /*00b0*/                   BRA `(.L_x_4);
        /*00c0*/                   NOP;
"""


@pytest.mark.parametrize(("trips", "instructions"), [(1, 11), (3, 21)])
def test_instructions_are_counted_on_the_longest_way(trips: int, instructions: int) -> None:
    (function,) = sass.functions(LISTING)
    issued = sass.path(function, trips)
    assert (function.name, function.calls, issued.total()) == ("kernel", 1, instructions)
    assert issued["MUFU.RCP"] == trips
    assert sass_table.busiest(issued) == (("issue", 11) if trips == 1 else ("special", 24))


def test_the_table_replaces_the_one_that_is_there() -> None:
    page = f"a\n{sass_table.BEGIN}old\n{sass_table.END}z\n"
    text = f"{sass_table.BEGIN}new\n{sass_table.END}"
    assert sass_table.replaced(page, text) == f"a\n{text}z\n"
    assert sass_table.BEGIN in sass_table.README.read_text()
