"""Every experiment: its variants, what each changes, and what the paper says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from experiments.budgets import Budget
from experiments.tokenizers import CONVOLUTIONAL, TRAINED, training_recipe
from experiments.variants import MODELS
from experiments.variants.students import STUDENTS
from flowar import FlowAR, FlowARConfig
from flowar.training.config import TrainPrecision


@dataclass(frozen=True)
class Variant:
    """One line of an experiment's table.

    Attributes:
        name: in the table.
        paper: FID of the paper's counterpart, if it has one.
        model: name in `variants.MODELS`.
        tokenizer: as training takes it, `tokenizers.CONVOLUTIONAL`, or one of `tokenizers.TRAINED`.
        changes: of the budget's configuration.
        loss: of `LossConfig`.
        optim: of the budget's optimizer.
        precision: of training.
        ar_width, flow_width: times the budget's.
        longer: times the budget's steps.
        student: name in `students.STUDENTS`, if this is one, of the same variant without it.
        jumps: at every scale, that the student is judged by.
    """

    name: str
    paper: float | None = None
    model: str = "flowar"
    tokenizer: str = CONVOLUTIONAL
    changes: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    optim: dict[str, Any] = field(default_factory=dict)
    precision: TrainPrecision = "float32"
    ar_width: float = 1.0
    flow_width: float = 1.0
    longer: int = 1
    student: str = ""
    jumps: int = 0

    @property
    def teacher(self) -> Variant:
        """Of a student: what it learns from."""
        return replace(self, student="", jumps=0)

    def spent(self, budget: Budget) -> Budget:
        """What this variant may spend of a budget: its own number of steps."""
        return replace(budget, steps=self.longer * budget.steps)

    def config(self, budget: Budget, channels: int) -> FlowARConfig:
        """The configuration with `channels` of latents."""
        base = budget.config()
        widths = {name: round(getattr(base, name) * getattr(self, name)) for name in ("ar_width", "flow_width")}
        scales = {"scales": None} | self.changes
        return replace(base, latent_channels=channels, **widths, **scales)

    def build(self, budget: Budget, channels: int) -> FlowAR:
        """A new model."""
        if self.student:
            return self.student_of(self.teacher.build(budget, channels))
        return MODELS[self.model](self.config(budget, channels))

    def student_of(self, teacher: FlowAR) -> FlowAR:
        """A new student of a trained model."""
        model = STUDENTS[self.student].new(teacher)
        model.config = replace(model.config, schedule=f"{self.jumps}-step", num_inference_steps=self.jumps)
        return model

    def training_recipe(self, budget: Budget) -> dict[str, Any]:
        """All that trained weights depend on but the seed, as JSON has it: variants of equal recipes share weights."""
        elsewhere = ("samples", "inference_steps", "guidance_scale", "seeds", "tokenizer_steps")
        spent = {name: value for name, value in vars(self.spent(budget)).items() if name not in elsewhere}
        own = {name: getattr(self, name) for name in ("model", "tokenizer", "ar_width", "flow_width")}
        plain = Variant("")
        own |= {name: getattr(self, name) for name in TRAINING if getattr(self, name) != getattr(plain, name)}
        changes = {name: value for name, value in self.changes.items() if name not in SAMPLING}
        tokenizer = training_recipe(self.tokenizer, budget) if self.tokenizer in TRAINED else self.tokenizer
        return own | {"tokenizer": tokenizer, "changes": changes, "budget": spent}

    def recipe(self, budget: Budget) -> dict[str, Any]:
        """All that a result depends on but the seed: variants of equal recipes share rows."""
        config = budget.config()
        sampling = {name: self.changes.get(name, getattr(config, name)) for name in SAMPLING}
        sampling |= {"jumps": self.jumps} if self.student else {}
        return self.training_recipe(budget) | {"sampling": sampling | {"samples": budget.samples}}


TRAINING = (
    "loss",
    "optim",
    "precision",
    "student",
)  # fields of a variant that recipes without a change of theirs leave out
SAMPLING = ("num_inference_steps", "guidance_scale")  # fields of a configuration that training does not see


TIMES: dict[str, Any] = {"times": "logit_normal"}
NOISE: dict[str, Any] = {"context_noise": 0.5}
MUON: dict[str, Any] = {"optimizer": "muon"}


@dataclass(frozen=True)
class Experiment:
    """A table of the paper, or one of our own.

    Attributes:
        name: on the command line.
        title: over the table.
        note: how it differs from the paper's, in a sentence or two.
    """

    name: str
    title: str
    note: str
    variants: Sequence[Variant]


EXPERIMENTS = [
    Experiment(
        "sizes",
        "Main results: sizes",
        "Widths 3/4, 1 and 3/2 times the base model's and flow depths 1, 2 and 4 stand for S, B and L.",
        [
            Variant("small", 3.61, changes={"flow_depth": 1}, ar_width=0.75, flow_width=0.75),
            Variant("base", 2.90),
            Variant("large", 1.90, changes={"flow_depth": 4}, ar_width=1.5, flow_width=1.5),
        ],
    ),
    Experiment(
        "tokenizers",
        "Tokenizer compatibility",
        "All on a 7x7 grid. The paper compares, for S, DC-AE (4.22), SD-VAE (3.94) and MAR-VAE (3.61); VAR, with its "
        "discrete tokenizer, has 5.81. SD-VAE is an AutoencoderKL of diffusers and DC-AE an AutoencoderDC: here small "
        "ones of 8 channels, each trained for a few minutes. Patches of 4x4 pixels, and the convolutional autoencoder "
        "of all other experiments, which was trained for longer, have no counterpart there.",
        [
            Variant("pixel patches", tokenizer="pixel:4"),
            Variant("small AutoencoderDC", 4.22, tokenizer="AutoencoderDC"),
            Variant("small AutoencoderKL", 3.94, tokenizer="AutoencoderKL"),
            Variant("convolutional autoencoder"),
        ],
    ),
    Experiment(
        "scale-sequence",
        "Construction of the scale sequence",
        "Down-sampling of images to 4, 8, 16 and 28 pixels and encoding each, against area averages of the latents.",
        [
            Variant("down-sample the image, encode each scale", 12.19, "encoded scales"),
            Variant("down-sample the latents", 3.61),
        ],
    ),
    Experiment(
        "scales",
        "Scale configurations",
        "The grid ends in 7, not in 16: {1, 2, 7} leaps at both ends as {1, 4, 16} does, {1, 4, 7} leaves the 2 out as "
        "{1, 4, 8, 16} does (and is {1, half, last} too). The dense sequence, as VAR's, is not in the paper.",
        [
            Variant("{1, 2, 7}", 6.10, changes={"scales": [1, 2, 7]}),
            Variant("{1, 4, 7}", 4.88, changes={"scales": [1, 4, 7]}),
            Variant("{1, 2, 4, 7}: doubling", 3.61),
            Variant("{1, 2, 3, 4, 5, 6, 7}: dense", changes={"scales": [1, 2, 3, 4, 5, 6, 7]}),
        ],
    ),
    Experiment(
        "flow-model",
        "Flow model",
        "Per token, the flow network has no attention. All four are sampled by the same solver on the same time grid.",
        [
            Variant("per token, diffusion", 6.85, "per-token diffusion"),
            Variant("per token, flow matching", 6.15, "per-token flow"),
            Variant("per scale, diffusion", 3.93, "per-scale diffusion"),
            Variant("per scale, flow matching", 3.61),
        ],
    ),
    Experiment(
        "injection",
        "Injection of the semantics",
        "All but the first and the last modulate blocks by the time alone.",
        [
            Variant("adaLN on pooled semantics", 14.28, "pooled adaLN"),
            Variant("sequence concatenation", 9.22, "sequence concatenation"),
            Variant("addition", 6.22, "addition"),
            Variant("cross-attention", 5.37, "cross-attention"),
            Variant("channel concatenation", 4.85, "channel concatenation"),
            Variant("Spatial-adaLN", 3.61),
        ],
    ),
    Experiment(
        "blocks",
        "Blocks of the flow transformer",
        "Not in the paper: the block of S and B against that of the published L and H, at equal parameters.",
        [
            Variant("attn_mlp", flow_width=9 / 8),
            Variant("attn_cross_mlp", changes={"flow_block": "attn_cross_mlp"}),
        ],
    ),
    Experiment(
        "qk-norm",
        "Norms of queries and keys",
        "Not in the paper.",
        [Variant("without"), Variant("with", changes={"qk_norm": True})],
    ),
    Experiment(
        "steps",
        "Steps per scale",
        "Not in the paper: the same weights, sampled in fewer and in more steps. 25 is the authors' uneven grid.",
        [Variant(str(steps), changes={"num_inference_steps": steps}) for steps in (2, 5, 10, 25, 50)],
    ),
    Experiment(
        "recipe",
        "How to train",
        "Not in the paper but for its own recipe, the first row; each other one changes what its name says. Times: "
        "logit-normal instead of uniform. Context noise: on the coarser latents that the AR transformer sees, of "
        "strengths up to so many standard deviations. Scale exponent: scales count as (n_k / n_last) to its power, "
        "1 in the paper. Representation alignment: to EfficientNet-Lite0's features, as in REPA. Averages: how many "
        "steps ago counts 1/e; the paper's row has a tenth of all steps.",
        [
            Variant("the paper's"),
            Variant("times", loss=TIMES),
            Variant("context noise 0.5", loss=NOISE),
            Variant("context noise 1", loss={"context_noise": 1.0}),
            Variant("Muon", optim=MUON),
            Variant("times, context noise 0.5", loss=TIMES | NOISE),
            Variant("times, Muon", loss=TIMES, optim=MUON),
            Variant("times, context noise 0.5, Muon", loss=TIMES | NOISE, optim=MUON),
            Variant("times, context noise 0.5, Muon, bfloat16", loss=TIMES | NOISE, optim=MUON, precision="bf16"),
            Variant("bfloat16", precision="bf16"),
            Variant("representation alignment", model="aligned"),
            Variant("times, context noise 0.5, Muon, alignment", model="aligned", loss=TIMES | NOISE, optim=MUON),
            Variant("scale exponent 0.5", loss={"scale_exponent": 0.5}),
            Variant("scale exponent 0", loss={"scale_exponent": 0.0}),
            Variant("averages of 30 steps", optim={"ema_decays": [1 - 1 / 30]}),
            Variant("averages of 300 steps", optim={"ema_decays": [1 - 1 / 300]}),
            Variant("flow network: deep and narrow", changes={"flow_depth": 4}, flow_width=0.75),
            Variant("flow network: shallow and wide", changes={"flow_depth": 1}, flow_width=1.375),
        ],
    ),
    Experiment(
        "distillation",
        "How to distill",
        "Not in the paper: students of the base model, for as many steps as it was trained, at half its learning rate. "
        "Where a jump goes is let in by an embedding of its length, or to the second half of the blocks (Decoupled "
        "MeanFlow); targets are jumps of half the length (interval splitting), or MeanFlow's identity. Jumps: "
        "evaluations a scale, without an unconditional half; the teacher needs ten of both.",
        [
            Variant("the teacher"),
            *(Variant(f"{kind}: {jumps}", student=kind, jumps=jumps) for kind in STUDENTS for jumps in (1, 2, 4)),
        ],
    ),
]


LONGER = 4  # times the steps of an experiment, for the two in which the paper's order is not found


def longer(name: str, loss: dict[str, Any], title: str, note: str) -> Experiment:
    """The experiment called `name` with more steps, and with another loss."""
    (same,) = chosen(name)
    variants = [replace(variant, loss=loss, longer=LONGER) for variant in same.variants]
    return Experiment(f"{name}-{title.replace(' ', '-')}", f"{same.title}, {title}", f"{same.note} {note}", variants)


def chosen(name: str) -> list[Experiment]:
    """The experiment called `name`, or all.

    Raises:
        ValueError: for another name.
    """
    found = [each for each in EXPERIMENTS if name in (each.name, "all")]
    if not found:
        names = ", ".join(each.name for each in EXPERIMENTS)
        raise ValueError(f"experiment: expected all or one of {names}, got {name}")
    return found


for name in ("scale-sequence", "scales"):
    EXPERIMENTS.append(longer(name, {}, "longer", f"Trained for {LONGER} times as many steps."))
    EXPERIMENTS.append(
        longer(name, NOISE, "longer with noise", f"For {LONGER} times as many steps, with context noise of 0.5.")
    )
