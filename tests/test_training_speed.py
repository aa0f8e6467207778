"""The benchmarks of training steps and their attention: naive is as published, and what is wrong is not timed."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attention_speed
import gpu_report
import pytest
import steps
import timing
import torch
import training_speed
import training_variants
from agreement import Disagreement
from conftest import error, small_model
from gradients import Expected
from naive_training import Batch, NaiveTraining
from torch._dynamo.utils import counters
from training_rows import ATTENTION_HEADER, TRAINING_HEADER, training_rows
from training_variants import Step, Variant, random_batch, saved_mib, variants

from flowar import FlowAR
from flowar.networks.attention_backends import attention
from flowar.system.precision import PRECISIONS

CPU = torch.device("cpu")
FLOWAR = ["flowar float32", "flowar float32, checkpointing flow", "flowar float32, checkpointing all"]
FLOAT32, BFLOAT16 = PRECISIONS["float32"], PRECISIONS["bfloat16"]


def gradients(model: FlowAR) -> list[torch.Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


class TestNaive:
    @pytest.mark.parametrize("flow_block", ["attn_mlp", "attn_cross_mlp"])
    def test_is_what_the_model_trains_on(self, flow_block: str) -> None:
        model = small_model(flow_block=flow_block)
        batch = random_batch(model, 11, CPU)
        assert batch.dropped.tolist() == [False] * 9 + [True, False]
        expected = model.loss(batch.latents, batch.labels, batch.noise, batch.times, batch.dropped).loss
        assert NaiveTraining(model).loss(batch).item() == pytest.approx(expected.item(), rel=1e-5)

    def test_dropout_while_training(self) -> None:
        model = small_model(dropout=0.5)
        batch, naive = random_batch(model, 3, CPU), NaiveTraining(model)
        assert naive.loss(batch).item() == naive.loss(batch).item()
        model.train()
        assert naive.loss(batch).item() != naive.loss(batch).item()

    def test_blocks_share_one_compilation(self, monkeypatch: pytest.MonkeyPatch) -> None:
        compile_ = torch.compile
        monkeypatch.setattr(torch, "compile", lambda function: compile_(function, backend="eager"))
        torch._dynamo.reset()
        counters.clear()
        model = small_model(ar_depth=4, flow_depth=3)
        batch = random_batch(model, 3, CPU)
        plain, compiled = NaiveTraining(model).loss(batch), NaiveTraining(model, compiled=True).loss(batch)
        assert compiled.item() == plain.item()
        assert not counters["graph_break"]
        assert counters["stats"]["unique_graphs"] == 2


class TestAgreement:
    @pytest.fixture
    def model(self) -> FlowAR:
        return small_model()

    def test_of_the_package(self, model: FlowAR) -> None:
        batch = random_batch(model, 3, CPU)
        expected = Expected(model, batch)
        for make in variants(model, ["float32", "bfloat16"], []).values():
            assert "loss off by" in expected.check(make())
        assert not gradients(model)
        assert {block.attn.dropout for block in model.ar_transformer.blocks} == {0.1}

    @pytest.mark.parametrize("precision", [FLOAT32, BFLOAT16])
    def test_of_a_wrong_gradient(self, model: FlowAR, precision: Any) -> None:
        """The loss is right to the last bit."""

        def loss(batch: Batch) -> torch.Tensor:
            right = NaiveTraining(model).loss(batch)
            return right + 0.1 * (right - right.detach())

        with pytest.raises(Disagreement, match=r"gradient by 1\.\de-01, expected at most"):
            Expected(model, random_batch(model, 3, CPU)).check(Variant(loss, precision))

    def test_of_a_wrong_loss(self, model: FlowAR) -> None:
        wrong = Variant(lambda batch: NaiveTraining(model).loss(batch) + 0.1, FLOAT32)
        with pytest.raises(Disagreement, match=r"loss off by \d\.\de-02"):
            Expected(model, random_batch(model, 3, CPU)).check(wrong)

    def test_of_a_parameter_without_gradient(self, model: FlowAR) -> None:
        variant = Variant(lambda batch: model.ar_transformer.input_proj.weight.sum(), FLOAT32)
        with pytest.raises(Disagreement, match="expected a gradient of every parameter"):
            Expected(model, random_batch(model, 3, CPU)).check(variant)


class TestStep:
    def test_leaves_the_weights(self) -> None:
        """So that all variants find the same; what they do at every step is done."""
        model = small_model()
        before = [parameter.detach().clone() for parameter in model.parameters()]
        step, batch = Step(model), random_batch(model, 3, CPU)
        variant = Variant(NaiveTraining(model).loss, FLOAT32)
        losses = [step.run(variant, batch).item() for _ in range(2)]
        assert losses[0] == losses[1]
        assert all(map(torch.equal, before, model.parameters()))
        assert all(map(torch.equal, before, step.ema))
        assert torch.stack([each.norm() for each in gradients(model)]).norm() == pytest.approx(1, rel=1e-4)
        assert all((state["exp_avg"] != 0).any() for state in step.optimizer.state.values())

    def test_saved_for_backward(self) -> None:
        """Of a product with a parameter its other factor, of a sine its argument; views count once, parameters not."""
        weight, x = torch.nn.Parameter(torch.ones(256, 256)), torch.ones(1024, 256)
        batch = random_batch(small_model(), 1, CPU)

        def saved(loss: Callable[[Batch], torch.Tensor]) -> float:
            return saved_mib(Variant(loss, FLOAT32), batch, [weight])

        assert saved(lambda batch: (x @ weight.T).sin().sum()) == 2
        assert saved(lambda batch: (y := x @ weight).view(2, -1).sin().sum() + y.sin().sum()) == 2
        assert saved(lambda batch: (x @ (2 * weight)).sum()) == 1

    def test_the_package_saves_less(self) -> None:
        model = small_model().train()
        batch, makers = random_batch(model, 4, CPU), variants(model, ["float32"], []).values()
        naive, flowar, flow, both = (saved_mib(make(), batch, model.parameters()) for make in makers)
        assert naive > flowar > flow > both
        assert model.checkpointing == "none"


class TestTrainingSpeed:
    @pytest.fixture
    def run(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, Any]]:
        clock = itertools.count()
        monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
        small_model().save_pretrained(tmp_path / "small")

        def run(*arguments: str) -> dict[str, Any]:
            output = ["--output", str(tmp_path / "out.json"), "--device", "cpu", "--seconds", "0"]
            monkeypatch.setattr(
                sys, "argv", ["training_speed.py", "--models", str(tmp_path / "small"), *output, *arguments]
            )
            training_speed.main()
            return json.loads((tmp_path / "out.json").read_text())

        return run

    @pytest.mark.slow
    def test_end_to_end(self, run: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
        (result,) = run("--batch-sizes", "2", "--precisions", "float32", "bfloat16", "--details")["results"]
        plain = ["naive float32", "flowar float32", "naive bfloat16", "flowar bfloat16"]
        checkpointed = [f"flowar bfloat16, checkpointing {which}" for which in ("flow", "all")]
        assert list(result["variants"]) == plain + checkpointed
        assert result["wrong"] == result["skipped"] == {}
        for values in result["variants"].values():
            assert (values["median"], values["speed_up"], values["seconds"]) == (1, 1, [1, 1])
            assert values["memory_mib"] > 0
        assert result["peak_tflops"] == {"float32": None, "bfloat16": None}
        assert result["details"]["flowar float32"]["kinds_ms"]["this package's ops"] > 0
        assert result["details"]["naive float32"]["kinds_ms"]["this package's ops"] == 0
        assert capsys.readouterr().out.splitlines()[0].split()[:3] == ["model", "batch", "variant"]

    def test_wrong_gradients_are_not_timed(
        self, run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        right = training_variants.flowar_loss
        monkeypatch.setattr(training_variants, "flowar_loss", lambda function: lambda batch: 2 * right(function)(batch))
        with pytest.raises(SystemExit) as exit_:
            run("--batch-sizes", "2")
        assert exit_.value.code == 1
        (result,) = json.loads((tmp_path / "out.json").read_text())["results"]
        assert list(result["variants"]) == ["naive float32"]
        assert list(result["wrong"]) == FLOWAR
        assert "loss off by 1.0e+00" in result["wrong"]["flowar float32"]

    def test_a_compiler_that_fails_is_a_word(
        self, run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(function: object) -> None:
            raise RuntimeError("no compiler\nhere")

        monkeypatch.setattr(torch, "compile", fails)
        (result,) = run("--batch-sizes", "2", "--compile", "naive", "flowar")["results"]
        reason = "RuntimeError: no compiler"
        assert result["skipped"] == {f"{name} float32 + torch.compile": reason for name in ("naive", "flowar")}
        assert list(result["variants"]) == ["naive float32", *FLOWAR]

    def test_memory_that_runs_out_is_a_word(
        self, run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        backward = Variant.backward

        def limited(variant: Variant, batch: Batch) -> torch.Tensor:
            if (
                "NaiveTraining" in str(variant.loss)
                and variant.loss.__self__.model.ar_transformer.blocks[0].attn.dropout
            ):
                raise torch.OutOfMemoryError("out of memory")
            return backward(variant, batch)

        monkeypatch.setattr(Variant, "backward", limited)
        (result,) = run("--batch-sizes", "2")["results"]
        assert result["skipped"] == {"naive float32": "OutOfMemoryError: out of memory"}
        assert result["variants"]["flowar float32"]["speed_up"] is None

    def test_the_budget_leaves_cases_out(
        self, run: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        values = run("--batch-sizes", "1", "2", "--budget-seconds", "-1")
        assert values["results"] == []
        assert [title.split(", ")[1] for title in values["left_out"]] == ["batch 1", "batch 2"]
        assert "left out, since -1 s were over: " in capsys.readouterr().out


class TestAttentionSpeed:
    @pytest.fixture
    def run(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], dict[str, Any]]:
        clock = itertools.count()
        monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
        monkeypatch.setattr(attention_speed.FlowARConfig, "preset", lambda name: small_model().config)
        monkeypatch.setattr(attention_speed, "flex", lambda config, device: fails)

        def run() -> dict[str, Any]:
            output = ["--output", str(tmp_path / "out.json"), "--device", "cpu", "--seconds", "0"]
            monkeypatch.setattr(sys, "argv", ["attention_speed.py", "--models", "L", *output])
            attention_speed.main()
            return json.loads((tmp_path / "out.json").read_text())

        return run

    def test_end_to_end(self, run: Callable[[], dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
        values = run()
        assert [(each["pass"], each["way"]) for each in values["results"]] == [
            ("forward", "mask"),
            ("forward", "prefixes"),
            ("backward", "mask"),
            ("backward", "prefixes"),
        ]
        forward, backward = (values["results"][i]["tflops"] for i in (1, 3))
        pairs = 1 * 1 + 4 * 5 + 16 * 21
        assert forward == pytest.approx(2 * 4 * pairs * 32 / 1e12)  # in one second; batch 2
        assert backward == pytest.approx(2 * forward)
        assert "L, forward, FlexAttention: RuntimeError: refused" in values["skipped"]
        assert sum("backward, varlen: NotImplementedError" in reason for reason in values["skipped"]) == 1
        assert capsys.readouterr().out.split()[: len(ATTENTION_HEADER)] == " ".join(ATTENTION_HEADER).split()[:9]

    def test_wrong_results_end_the_program(
        self, run: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def wrong(qkv: torch.Tensor, lengths: object, causal: bool) -> torch.Tensor:
            return qkv[0].flatten(2)

        monkeypatch.setattr(attention_speed, "scale_attention", wrong)
        with pytest.raises(SystemExit, match="L, forward, prefixes: error"):
            run()

    def test_flex_attention(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the mask says; without code generation, which takes a minute."""
        compile_ = torch.compile
        monkeypatch.setattr(
            torch, "compile", lambda function, **options: compile_(function, **{"backend": "eager"} | options)
        )
        config = small_model(ar_heads=2, ar_width=32).config
        call = attention_speed.attention_call(config, 2, torch.float32, CPU)
        with torch.inference_mode():
            expected = attention_speed.masked(config, CPU)(*call.arguments)
            got = attention_speed.flex(config, CPU)(*call.arguments)
        assert error(got, expected) < 1e-5

    def test_sequences_of_varlen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With the kernel's place taken by one attention a sequence."""

        def by_sequence(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *rest: Any) -> torch.Tensor:
            starts_q, starts_k, most_q, most_k = rest
            assert (most_q, most_k) == (16, 21)
            spans = zip(itertools.pairwise(starts_q.tolist()), itertools.pairwise(starts_k.tolist()), strict=True)
            parts = [attention(q[None, a:b], k[None, c:d], v[None, c:d])[0] for (a, b), (c, d) in spans]
            return torch.cat(parts).unflatten(-1, q.shape[1:])

        monkeypatch.setattr(attention_speed, "varlen_attn", by_sequence)
        config = small_model().config
        call = attention_speed.attention_call(config, 3, torch.float32, CPU)
        expected = attention_speed.masked(config, CPU)(*call.arguments)
        assert error(attention_speed.varlen(config, 3, CPU)(*call.arguments), expected) < 1e-5


def fails(*_: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("refused. And more\nhere")


def test_pages_of_the_report(tmp_path: Path) -> None:
    case = {"model": "L", "batch": 32, "tflop": 30.0, "peak_tflops": {"bfloat16": 989.0}, "details": {}}
    times = {"median": 0.1, "p20": 0.1, "p80": 0.1, "speed_up": 1.0, "memory_mib": 100.0}
    case |= {"wrong": {"flowar bfloat16": "off"}, "skipped": {}, "variants": {"naive bfloat16": times}}
    way = {"model": "L", "batch": 32, "pass": "forward", "way": "mask", "tflops": 200.0} | times
    environment = {"environment": {"commit": "abc"}}
    for name, values in (
        ("training_speed", {"results": [case]}),
        ("attention_speed", {"results": [way], "skipped": ["L, forward, varlen: RuntimeError: no"]}),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(values | environment))
    report = gpu_report.Report("ACME", tmp_path / "out", tmp_path)
    for name in ("training_speed", "attention_speed"):
        report.add(steps.Outcome(name, "passed", 1.0, False, "", ""))
    page = (tmp_path / "out" / "acme.md").read_text()
    assert "| L | 32 | naive bfloat16 | 100 | 100 | 100 | 320 | 1.00 | 300 | 30 % | 100 | 1.00 |" in page
    assert "- L, batch 32: WRONG flowar bfloat16: off" in page
    assert "| L | 32 | forward | mask | 100 | 100 | 100 | 200 | 1.00 |" in page
    assert "- skipped: L, forward, varlen: RuntimeError: no" in page


def test_rows() -> None:
    times = {"p20": 0.9, "p80": 1.1}
    naive = {"median": 1.0, "speed_up": 1.0, "memory_mib": 1000.0} | times
    flowar = {"median": 0.25, "speed_up": 3.9, "memory_mib": 550.0} | times
    result = {"model": "L", "batch": 32, "tflop": 100.0, "peak_tflops": {"tf32": 494.5, "bfloat16": 989.0}}
    result["variants"] = {"naive tf32": naive, "flowar bfloat16": flowar, "flowar tf32": {"agreement": "good"}}
    rows = list(training_rows(result))
    assert all(len(row) == len(TRAINING_HEADER) for row in rows)
    assert rows[0][6:] == ["32", "1.00", "100", "20 %", "1000", "1.00"]
    assert rows[1][6:] == ["128", "3.90", "400", "40 %", "550", "0.55"]
    del result["variants"]["naive tf32"]
    assert [row[7:] for row in training_rows(result)] == [["", "400", "40 %", "550", ""]]
