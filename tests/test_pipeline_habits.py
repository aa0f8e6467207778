"""What users of diffusers' pipelines reach for, and what it does here."""

from __future__ import annotations

import copy
import io
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import error
from pipelines import NAMES, small_pipeline
from torch import Tensor

from flowar import FlowARPipeline, Schedule
from flowar.errors import FlowARError, UnknownArgumentError
from flowar.sampling.noise import scale_noise
from flowar.storage import hub

pytestmark = pytest.mark.usefixtures("either_default")


@pytest.fixture(scope="module")
def pipe() -> FlowARPipeline:
    return small_pipeline()


class TestClasses:
    def test_labels(self, pipe: FlowARPipeline) -> None:
        """Names and synonyms that mean one class; "crane" means two."""
        expected = {"Bag": 4, "T-shirt": 0, "T-shirt/top": 0, "Tinca tinca": 1, "bird": 3, "crane, bird": 3}
        assert pipe.labels == expected | {"tench": 1, "tench, Tinca tinca": 1, "top": 0}
        assert [*pipe.labels] == sorted(pipe.labels)
        assert pipe.get_label_ids([*pipe.labels]) == [*pipe.labels.values()]
        assert small_pipeline(class_names=()).labels == {}

    def test_label_ids(self, pipe: FlowARPipeline) -> None:
        assert pipe.get_label_ids(["Bag", "tench"]) == [4, 1]
        assert pipe.get_label_ids("Bag") == [4]
        with pytest.raises(FlowARError, match=r"got 'bagg'; closest names: Bag \(4\)"):
            pipe.get_label_ids(["bagg"])

    def test_several_pictures_of_each(self, pipe: FlowARPipeline) -> None:
        out = pipe([4, "tench"], num_images_per_prompt=2, seed=[1, 2, 3, 4])
        assert out.classes == ["Bag", "Bag", NAMES[1], NAMES[1]]
        for labels in (torch.tensor([4, 1]), [4, 1]):
            assert torch.equal(pipe(labels, num_images_per_prompt=2, seed=[1, 2, 3, 4]).latents, out.latents)
        assert torch.equal(pipe([4, 4, 1, 1], seed=[1, 2, 3, 4]).latents, out.latents)
        assert pipe(4, num_images_per_prompt=3, output_type="latent").latents.shape[0] == 3

    def test_more_than_memory_holds(self, pipe: FlowARPipeline) -> None:
        with pytest.raises(
            FlowARError, match=r"num_images_per_prompt: expected what fits into .*10000000000000 pictures"
        ):
            pipe([0] * 10, num_images_per_prompt=10**12)


class TestWithoutAClass:
    """None, and a guidance scale of 0, are the null class, at every scale and time, for one half of the work."""

    @pytest.fixture
    def expected(self, pipe: FlowARPipeline) -> Tensor:
        """The null class under its number, by a twin for which it is a class like others."""
        twin = copy.deepcopy(pipe.model)
        object.__setattr__(twin.config, "num_classes", 6)
        object.__setattr__(twin.config, "class_names", ())
        return twin.sample([5, 5], guidance_scale=1.0, seed=3)

    @pytest.mark.parametrize("naive", [False, True])
    @pytest.mark.parametrize(
        ("labels", "options"),
        [
            ([None, None], {}),
            (None, {"num_images_per_prompt": 2}),
            ([0, 3], {"guidance_scale": 0}),
            ([0, 3], {"guidance_scale": 0.0, "guidance_interval": (0.2, 0.5)}),
            ([0, 3], {"schedule": Schedule.published(3, 0.0, (0.1, 0.9))}),
            ([None, 3], {"guidance_scale": 0}),
        ],
    )
    def test_is_the_null_class(
        self, pipe: FlowARPipeline, expected: Tensor, labels: Any, options: dict[str, Any], naive: bool
    ) -> None:
        assert error(pipe(labels, seed=3, naive=naive, dtype="float32", **options).latents, expected) < 0.1

    def test_beside_others(self, pipe: FlowARPipeline, expected: Tensor) -> None:
        got = pipe([3, None], seed=3, dtype="float32").latents
        assert error(got[1], expected[1]) < 0.1
        assert error(got[:1], pipe([3], seed=3, dtype="float32").latents) < 1e-4

    def test_no_argument_at_all(self, pipe: FlowARPipeline) -> None:
        assert pipe().classes == ["no class"]

    def test_both_halves_are_never_computed(self, pipe: FlowARPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        rows: list[int] = []
        sample = pipe.model._plan(pipe.model.precision()).sample
        monkeypatch.setattr(
            "flowar.engine.plan.InferencePlan.sample",
            lambda plan, labels, schedule, *rest: (
                rows.extend({len(labels) * (1 + (weight != 1)) for weight in schedule.guidance_weights(2, 3)}),
                sample(labels, schedule, *rest),
            )[1],
        )
        pipe([None, None])
        pipe([0, 1], guidance_scale=0)
        assert rows == [2, 2]

    def test_weights_of_guidance_0(self) -> None:
        schedule = Schedule.published(4, 0.0, (0.2, 0.8))
        assert [schedule.guidance_weights(k, 3) for k in range(3)] == [[0.0] * 4] * 3
        assert all(row.endswith("  0") for row in schedule.describe(3).splitlines()[1:4])
        assert schedule.describe(3).endswith("guidance where 0 <= t <= 1")
        assert schedule.active_interval == (0, 1)
        assert Schedule.published(4, 0.1, (0.2, 0.8)).active_interval == (0.2, 0.8)

    def test_the_null_class_has_no_number(self, pipe: FlowARPipeline) -> None:
        for call in (pipe, pipe.sample, pipe.model.sample):
            with pytest.raises(ValueError, match="class_labels: expected integers from 0 to 4, got 5"):
                call([5])


class TestLatents:
    def test_the_last_scale_starts_from_them(self, pipe: FlowARPipeline) -> None:
        config, seeds = pipe.config, [5, 6]
        latents = torch.randn(2, config.latent_channels, *config.grid)
        noise = scale_noise(seeds, 2, config.scale_lengths, config.latent_channels, torch.device("cpu"))
        noise[-1] = latents.flatten(2).transpose(1, 2)
        out = pipe([0, 3], latents=latents, seed=seeds)
        assert torch.equal(out.latents, pipe([0, 3], noise=noise).latents)
        assert out.seeds == seeds

    def test_they_fix_the_picture(self, pipe: FlowARPipeline) -> None:
        latents = torch.randn(2, pipe.config.latent_channels, *pipe.config.grid)
        first, again, other = (
            pipe([0, 3], latents=latents),
            pipe([0, 3], latents=latents),
            pipe([0, 3], latents=-latents),
        )
        assert torch.equal(first.latents, again.latents)
        assert not torch.equal(first.latents, other.latents)
        assert torch.equal(first.latents, pipe([0, 3], latents=latents, seed=0).latents)
        one = pipe([0, 3], latents=latents, generator=torch.manual_seed(1))
        assert not torch.equal(first.latents, one.latents)

    def test_refused(self, pipe: FlowARPipeline) -> None:
        with pytest.raises(ValueError, match=r"latents: expected shape \[2, 4, 4, 4\], got \[1, 4, 4, 4\]"):
            pipe([0, 3], latents=torch.randn(1, 4, 4, 4))
        noise = [torch.randn(1, n, 4) for n in pipe.config.scale_lengths]
        for name, value in {"seed": 0, "generator": torch.Generator(), "latents": torch.randn(1, 4, 4, 4)}.items():
            with pytest.raises(ValueError, match=f"noise: expected it or {name}, got both"):
                pipe([0], noise=noise, **{name: value})


class TestCallback:
    @pytest.mark.parametrize("naive", [False, True])
    @pytest.mark.parametrize("solver", ["euler", "heun", "dpm2m"])
    def test_every_step(self, pipe: FlowARPipeline, naive: bool, solver: str) -> None:
        schedule = Schedule((1.0, 0.6, 0.3, 0.0), 2.0, solver=solver)
        steps: list[tuple[int, float, tuple[int, ...]]] = []
        states: list[Tensor] = []

        def callback(pipeline: FlowARPipeline, i: int, t: float, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            assert pipeline is pipe
            steps.append((i, t, tuple(tensors["latents"].shape)))
            states.append(tensors["latents"])
            return tensors

        plain = pipe([0, 3], seed=1, naive=naive, schedule=schedule)
        out = pipe([0, 3], seed=1, naive=naive, schedule=schedule, callback_on_step_end=callback)
        times = [each.time for each in schedule.evaluations(0, 3)]
        expected = [(t, (2, 4, side, side)) for side in (1, 2, 4) for t in times]
        assert steps == [(i, *each) for i, each in enumerate(expected)]
        assert error(out.latents, plain.latents) < 1e-4
        assert torch.equal(states[-1], out.latents)
        assert not torch.equal(states[-1], states[-2])

    @pytest.mark.parametrize("naive", [False, True])
    def test_latents_that_it_returns_replace_the_state(self, pipe: FlowARPipeline, naive: bool) -> None:
        """What follows goes on from them; after the very last step they are what is decoded."""
        replaced = torch.randn(1, 4, 2, 2)
        inside, steps = [], 3

        def callback(pipeline: FlowARPipeline, i: int, t: float, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"latents": replaced.clone()} if i == 2 * steps - 1 else tensors

        def keep(k: int, tokens: Tensor) -> None:
            inside.append(tokens.clone())

        changed = pipe([2], seed=1, naive=naive, callback_on_step_end=callback, on_scale=keep)
        assert torch.equal(inside[1], replaced.flatten(2).transpose(1, 2))
        assert not torch.equal(changed.latents, pipe([2], seed=1, naive=naive).latents)
        last = pipe([2], seed=1, callback_on_step_end=lambda *given: {"latents": torch.ones_like(given[3]["latents"])})
        assert torch.equal(last.latents, torch.ones(1, 4, 4, 4))

    def test_the_next_velocity_sees_them(self, pipe: FlowARPipeline) -> None:
        """In the engine, too, whose networks read a copy of the state."""

        def callback(pipeline: FlowARPipeline, i: int, t: float, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            tensors["latents"].mul_(0.5)  # in place, as users do
            return tensors

        engine, published = (
            pipe([1, 2], seed=1, dtype="float32", naive=naive, callback_on_step_end=callback).latents
            for naive in (False, True)
        )
        assert error(engine, published) < 1e-4
        assert not torch.equal(engine, pipe([1, 2], seed=1, dtype="float32").latents)

    def test_nothing_returned_and_nothing_asked_for(self, pipe: FlowARPipeline) -> None:
        given = []
        out = pipe(
            [1],
            seed=1,
            callback_on_step_end=lambda *arguments: given.append(arguments[3]),
            callback_on_step_end_tensor_inputs=[],
        )
        assert given == [{}] * 9
        assert error(out.latents, pipe([1], seed=1).latents) < 1e-4

    def test_beside_on_step_end_and_pins(self, pipe: FlowARPipeline) -> None:
        order: list[str] = []
        pipe(
            [1],
            num_inference_steps=1,
            on_step_end=lambda k, i, state: order.append(f"own {k} {i} {[*state.shape]}"),
            callback_on_step_end=lambda *_: order.append("diffusers"),
        )
        expected = [f"own {k} 0 [1, {n}, 4]" for k, n in enumerate((1, 4, 16))]
        assert order == [word for own in expected for word in (own, "diffusers")]

    def test_a_callback_of_diffusers_says_what_it_wants(self, pipe: FlowARPipeline) -> None:
        class Callback:
            tensor_inputs = ("prompt_embeds",)

            def __call__(self, *arguments: Any) -> dict[str, Any]:
                return arguments[3]

        with pytest.raises(ValueError, match="callback_on_step_end_tensor_inputs: expected any of latents in a list"):
            pipe([1], callback_on_step_end=Callback())
        Callback.tensor_inputs = ("latents",)
        assert pipe([1], callback_on_step_end=Callback()).images

    def test_refused_inside(self, pipe: FlowARPipeline) -> None:
        for returned, message in (
            (3, "callback_on_step_end: expected a function that returns a dict or None, got 3"),
            ({"latents": torch.ones(1, 4, 9, 9)}, r"callback_on_step_end: latents: expected shape \[1, 4, 1, 1\], got"),
        ):
            with pytest.raises(ValueError, match=message):
                pipe([1], callback_on_step_end=lambda *_, returned=returned: returned)

    def test_an_exception_ends_the_call(self, pipe: FlowARPipeline) -> None:
        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            pipe([1], callback_on_step_end=stop)
        assert pipe([1]).images


class TestProgressBar:
    def test_options_of_tqdm(self, capsys: pytest.CaptureFixture[str]) -> None:
        pipe = small_pipeline()
        pipe([1])
        assert capsys.readouterr().err == ""  # no terminal
        pipe.set_progress_bar_config(disable=False, desc="drawing boots", leave=True)
        pipe([1])
        shown = capsys.readouterr().err
        assert "drawing boots" in shown
        assert "9/9" in shown
        pipe([1], progress=False)
        assert capsys.readouterr().err == ""
        pipe.set_progress_bar_config(desc="drawing bags")
        pipe([1])
        assert capsys.readouterr().err == ""
        pipe([1], progress=True)
        assert "drawing bags" in capsys.readouterr().err
        pipe([1], progress={"disable": False, "desc": "drawing hats"})
        assert "drawing hats" in capsys.readouterr().err

    def test_disabled(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        pipe = small_pipeline()
        pipe([1])
        assert "sampling" in capsys.readouterr().err
        pipe.set_progress_bar_config(disable=True)
        pipe([1])
        assert capsys.readouterr().err == ""

    def test_unknown_option(self) -> None:
        with pytest.raises(UnknownArgumentError, match=r"config: .* got disabel; did you mean disable\?"):
            small_pipeline().set_progress_bar_config(disabel=True)


class TestPlaces:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.float32])
    @pytest.mark.parametrize("how", ["alone", "by name", "after a device"])
    def test_dtypes(self, dtype: torch.dtype, how: str) -> None:
        pipe = small_pipeline()
        ways: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
            "alone": ((dtype,), {}),
            "by name": ((), {"dtype": dtype}),
            "after a device": (("cpu", dtype), {}),
        }
        exact = pipe([0, 3], seed=1, dtype="float32").latents
        arguments, options = ways[how]
        assert pipe.to(*arguments, **options) is pipe
        assert pipe.dtype == dtype == pipe.model.ar_transformer.input_positions.dtype
        assert pipe.tokenizer.mean.dtype == torch.float32
        out = pipe([0, 3], seed=1, preview=lambda *_: None)
        assert error(out.latents.float(), exact) < 0.5
        assert len(out.images) == 2
        assert pipe.to(torch.float32)([0], seed=1).images

    def test_parts_in_a_dtype_of_their_own(self) -> None:
        """`for part in pipe.components.values(): part.to(torch.bfloat16)`."""
        pipe = small_pipeline()
        expected = pipe([0, 3], seed=1, output_type="pt", dtype="bfloat16").images
        for part in pipe.components.values():
            part.to(torch.bfloat16)
        images = pipe([0, 3], seed=1, output_type="pt").images
        assert images.dtype == torch.float32
        assert (images - expected).abs().max() < 0.2

    def test_devices(self) -> None:
        pipe = small_pipeline()
        assert pipe.device == torch.device("cpu")
        assert pipe.to("meta", torch.bfloat16).device == torch.device("meta")
        assert small_pipeline().to(device="meta").device == torch.device("meta")
        assert pipe.tokenizer.mean.is_meta

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "to: expected a device, a dtype or both, got neither"),
            ((torch.float32, torch.float32), "device: expected the name of a device before torch.float32, got"),
            ((torch.int8,), "dtype: expected a floating dtype of torch, got torch.int8"),
            ((torch.float8_e4m3fn,), "dtype: expected one of auto, .*, got torch.float8_e4m3fn"),
            (("cpu", "float16"), "dtype: expected a floating dtype of torch, got 'float16'"),
        ],
    )
    def test_refused(self, pipe: FlowARPipeline, arguments: tuple[Any, ...], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            pipe.to(*arguments)
        assert pipe.dtype == torch.float32

    def test_plans_go_with_the_device(self) -> None:
        """Their packed weights would stay where the model was."""
        model = small_pipeline().model
        model.sample([0])
        model.to("cpu")
        assert model._plans._plans
        model.to("meta")
        assert not model._plans._plans

    def test_offload_wants_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """`other_device_cases.py` shows what it does where there is one."""
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        pipe = small_pipeline()
        with pytest.raises(FlowARError, match="expected a GPU to work on, got a machine without one"):
            pipe.enable_model_cpu_offload()
        with pytest.raises(FlowARError, match="expected a GPU to work on, got the CPU, where the parts wait"):
            pipe.enable_model_cpu_offload(device="cpu")
        monkeypatch.setattr("flowar.pipeline.offload.default_device", torch.device)
        with pytest.raises(FlowARError, match="gpu_id: expected an integer >= 0, got -1"):
            pipe.enable_model_cpu_offload(-1, "meta")
        assert pipe([0]).images


class TestParts:
    def test_components(self, pipe: FlowARPipeline) -> None:
        twin = FlowARPipeline(**pipe.components)
        assert (twin.model, twin.tokenizer) == (pipe.model, pipe.tokenizer)
        assert twin.config is pipe.config is pipe.model.config

    def test_the_scheduler_is_read(self, pipe: FlowARPipeline) -> None:
        """To set it would change nothing."""
        assert pipe.scheduler == pipe.model.schedule()
        with pytest.raises(AttributeError):
            pipe.scheduler = "fast"  # type: ignore[misc]

    def test_copies_have_all_settings(self, pipe: FlowARPipeline) -> None:
        file = io.BytesIO()
        pickle.dump(pipe, file)
        for twin in (copy.deepcopy(pipe), pickle.loads(file.getvalue())):
            assert torch.equal(twin([0], seed=1).latents, pipe([0], seed=1).latents)


class TestFromPretrained:
    @pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
    def test_dtype(self, name: str, tmp_path: Path) -> None:
        small_pipeline().save_pretrained(tmp_path)
        pipe = FlowARPipeline.from_pretrained(tmp_path, **{name: torch.float16})
        assert pipe.dtype == torch.float16
        assert pipe.name_or_path == str(tmp_path)
        assert FlowARPipeline.from_pretrained(tmp_path, dtype=torch.float16, torch_dtype=torch.float16)

    def test_what_means_nothing_here(self, tmp_path: Path) -> None:
        small_pipeline().save_pretrained(tmp_path)
        assert FlowARPipeline.from_pretrained(tmp_path, use_safetensors=True, variant=None).dtype == torch.float32
        for options, message in (
            ({"variant": "fp16"}, "variant: expected None, as a model has one file of weights, .* got 'fp16'"),
            ({"use_safetensors": False}, "use_safetensors: expected True, as no pickle is loaded, got False"),
            ({"dtype": torch.float16, "torch_dtype": torch.float32}, "torch_dtype: expected it or dtype, got"),
        ):
            with pytest.raises(FlowARError, match=message):
                FlowARPipeline.from_pretrained(tmp_path, **options)

    def test_subclasses(self) -> None:
        class Own(FlowARPipeline):
            pass

        own = Own.from_pretrained("flowar-fashion")
        assert type(own) is Own
        assert repr(own).startswith("Own\n")

    def test_options_of_the_hub(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        asked: list[dict[str, Any]] = []
        small_pipeline().save_pretrained(tmp_path / "model")

        def download(source: str, **options: Any) -> str:
            asked.append(options)
            return str(tmp_path / "model")

        monkeypatch.setattr("huggingface_hub.snapshot_download", download)
        options = {"revision": "v1", "cache_dir": tmp_path, "token": "hf_x", "local_files_only": True}
        FlowARPipeline.from_pretrained("user/model", **options)
        assert asked == [options | {"allow_patterns": hub.FILES}]


class TestUnknownArguments:
    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("guidence_scale", "guidance_scale"),
            ("num_inference_step", "num_inference_steps"),
            ("class_label", "class_labels"),
            ("num_images", "num_images_per_prompt"),
            ("steps", "num_inference_steps or preview_steps"),
            ("scheduler", "schedule"),
        ],
    )
    def test_the_nearest_is_named(self, pipe: FlowARPipeline, name: str, hint: str) -> None:
        with pytest.raises(UnknownArgumentError) as raised:
            pipe([0], **{name: 3})
        message = f"FlowARPipeline: expected an argument that it has, got {name}; did you mean {hint}?"
        assert str(raised.value) == message
        assert isinstance(raised.value, TypeError)
        assert isinstance(raised.value, ValueError)

    def test_all_are_named_where_none_is_near(self, pipe: FlowARPipeline) -> None:
        with pytest.raises(UnknownArgumentError, match=r"FlowARPipeline: expected one of class_labels, .*, got height"):
            pipe([0], height=256)

    def test_wherever_options_go(self, pipe: FlowARPipeline, tmp_path: Path) -> None:
        from flowar import FlowAR
        from flowar.editing import inpaint, vary

        picture = pipe([0]).images[0]
        for call in (
            lambda: pipe.sample([0], guidence_scale=3),
            lambda: pipe.model.sample([0], guidence_scale=3),
            lambda: vary(pipe, picture, 0, 1, guidence_scale=3),
            lambda: inpaint(pipe, picture, picture, 0, guidence_scale=3),
        ):
            with pytest.raises(UnknownArgumentError, match=r"got guidence_scale; did you mean guidance_scale\?"):
                call()
        for loader in (FlowARPipeline, FlowAR):
            with pytest.raises(UnknownArgumentError, match=r"got cache_folder; did you mean cache_dir\?"):
                loader.from_pretrained("flowar-fashion", cache_folder=tmp_path)
        with pytest.raises(UnknownArgumentError, match=r"to: expected .*, got dtyp; did you mean dtype\?"):
            pipe.to("cpu", dtyp=torch.float16)
        with pytest.raises(UnknownArgumentError, match=r"push_to_hub: .*, got licence; did you mean license\?"):
            pipe.push_to_hub("user/name", licence="mit")
        with pytest.raises(UnknownArgumentError, match=r"save_pretrained: .*, got dtypes; did you mean dtype\?"):
            pipe.save_pretrained(tmp_path, dtypes=None)
