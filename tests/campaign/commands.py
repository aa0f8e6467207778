"""The commands that work, from which every case begins, and the files that they read."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile


@dataclass(frozen=True, eq=False)
class Command:
    """A call of `flowar`.

    Attributes:
        line: what stands behind `flowar`, every option as one word, --name=value.
        files: the files and folders of the material that it reads.
        title: how the report calls it, if not by its words.
        unread: patterns of what means nothing to it: options, files, and document:place for what is in files.
        made_anew: patterns of files that it need not refuse when they are damaged, as it can make them anew.
        result: patterns of files that are then as in the material.
        may_write: patterns of the files that may stay when it fails: whole ones, which the next call goes on from.
        codes: exit codes that are right beside 0 and 2.
        works: whether it can be seen to work; one that serves until it is interrupted cannot.
    """

    line: str
    files: str = ""
    title: str = ""
    unread: str = ""
    may_write: tuple[str, ...] = ()
    made_anew: str = ""
    result: str = ""
    codes: tuple[int, ...] = ()
    works: bool = True

    @cached_property
    def arguments(self) -> list[str]:
        """The words of the command line."""
        return shlex.split(self.line)

    @property
    def name(self) -> str:
        """The subcommand."""
        return self.arguments[0]

    @property
    def words(self) -> list[str]:
        """What stands between the subcommand and the options."""
        return [*takewhile(lambda word: not word.startswith("--"), self.arguments[1:])]

    @property
    def options(self) -> dict[str, str]:
        """The options by name."""
        pairs = (word.removeprefix("--").partition("=") for word in self.arguments[1 + len(self.words) :])
        return {name: value for name, _, value in pairs}

    @property
    def goes_on(self) -> bool:
        """Whether it goes on with what another call has begun, of the same data."""
        return bool(self.made_anew) or "resume" in self.options

    def with_option(self, name: str, value: object) -> Command:
        """This command with one option more, or another."""
        others = [word for word in self.arguments if not word.startswith(f"--{name}=")]
        return replace(self, line=shlex.join([*others, f"--{name}={value}"]))

    def __str__(self) -> str:
        return self.title or " ".join([self.name, *self.words])


ONE = "--model=model --classes=1"
EDIT = f"{ONE} --image=picture.png --count=1 --output=out.png"
SHOW = f"{ONE} --output=out.png"
OF_SHOW = "data extractor classifier neighbours"
JUDGE = "--extractor=fashion --device=cpu"
EVALUATE = f"evaluate {JUDGE} --output=evaluation --bootstrap=2 --batch_size=6"
OF_DRAWING = "model num_images classes seed schedule num_inference_steps guidance_* dtype save_images"
SIZE = "--image_size=28 --image_channels=1"
SWEEP = (
    f"sweep {JUDGE} --reference=reference.safetensors --model=model --guidance_scales=[2] --steps=[1] --num_images=10 "
    "--batch_size=10 --turns=1"
)
TRAIN = (
    "train --output=new --optim.batch_size=6 --optim.steps=4 --optim.epochs=1 --precision=float32 --device=cpu "
    "--sample_every=0 --save_every=2 --log_every=1"
)
DISTILL = (
    "distill --model=model --output=student --images=4 --optim.batch_size=2 --optim.steps=2 --sample_every=0 "
    "--save_every=2 --log_every=1 --precision=float32 --device=cpu"
)
SMALL = (
    "--model.ar_width=32 --model.ar_depth=2 --model.ar_heads=2 --model.flow_width=64 --model.flow_depth=1 "
    "--model.num_inference_steps=2"
)
TOKENIZER = (
    f"train-tokenizer {SIZE} --data=folders --validation.share=0.2 --device=cpu --training.steps=2 "
    "--training.robust_steps=1 --training.batch_size=4 --training.interval=2 --training.widths=[8,16] "
    "--training.channels=2"
)
PIXELS = "--data.tokenizer=pixel:7"
CUT = "--data.image_size=28 --data.image_channels=1"
OF_DATA = "model.latent_channels model.latent_size"  # which a training takes from its data
OF_TOKENIZER = "config.json:tokenizer.*"  # which is not loaded
OF_ENCODING = (
    f"{OF_DATA} data.split data.image_* data.flips data.crops data.dtype data.shard_size data.workers data.device"
)

MODEL = "model/config.json model/model.safetensors model/tokenizer.json"
IDX = "idx/train-images-idx3-ubyte idx/train-labels-idx1-ubyte"
# A run goes on from its store of latents, and from its checkpoints; an evaluation from its features.
STORE = (r"/(shard_\d+\.safetensors|tokenizer/tokenizer\.(json|safetensors)|store\.json)$",)
RUN = (*STORE, r"/checkpoints/step_", r"/(config\.json|metrics\.jsonl)$", r"/events\.")
FEATURES = (r"(features|reference_features)/(chunk_\d+\.safetensors|settings\.json)$",)
POINTS = (r"/(settings\.json|points\.jsonl|sweep\.csv|sweep\.md)$",)
TOKENIZER_RUN = (*RUN, r"/training\.json$", r"/reconstructions/")

COMMANDS = (
    Command(f"sample {ONE} --per_class=1 --output=out.png", MODEL),
    Command(f"sample {ONE} --animate=film.gif --output=out.png", MODEL, "sample --animate"),
    Command(f"sample {ONE} --schedule=schedule.json", f"{MODEL} schedule.json", "sample --schedule"),
    Command(f"sample {ONE} --num_images=3 --batch_size=2 --npz=out.npz", MODEL, "sample --npz"),
    Command(f"sample {ONE} --per_class=2 --labels=true --output=out/", MODEL, "sample into a folder"),
    Command(f"edit inpaint {EDIT} --mask=mask.png", f"{MODEL} picture.png mask.png", unread="box keep_scales to_seed"),
    Command(f"edit outpaint {EDIT} --box=[4,4,20,20]", f"{MODEL} picture.png", unread="mask keep_scales to_seed"),
    Command(f"edit vary {EDIT}", f"{MODEL} picture.png", unread="mask box rounds to_seed"),
    Command(
        f"edit super-resolve {ONE} --image=small.png --count=1 --output=out.png",
        f"{MODEL} small.png",
        unread="mask box rounds keep_scales to_seed",
    ),
    Command(
        "edit interpolate --model=model --classes=0,1 --count=2 --output=out.png",
        MODEL,
        unread="image mask box rounds keep_scales",
    ),
    Command(f"show scales {SHOW}", MODEL, unread=f"scale query guidance_scales steps {OF_SHOW}"),
    Command(f"show path {SHOW} --scale=1", MODEL, unread=f"query guidance_scales steps {OF_SHOW}"),
    Command(f"show attention {SHOW} --scale=2", MODEL, unread=f"guidance_scales steps {OF_SHOW}"),
    Command(f"show guidance {SHOW} --guidance_scales=[1,2]", MODEL, unread=f"scale query steps {OF_SHOW}"),
    Command(f"show steps {SHOW} --steps=[1,2]", MODEL, unread=f"scale query guidance_scales {OF_SHOW}"),
    Command(
        f"show neighbours {SHOW} --data=idx --neighbours=2",
        f"{MODEL} {IDX}",
        unread="scale query guidance_scales steps classifier",
    ),
    Command(
        f"{EVALUATE} --model=model --num_images=10 --reference=idx",
        f"{MODEL} {IDX}",
        "evaluate a model",
        may_write=FEATURES,
    ),
    Command(
        f"{EVALUATE} --model=model --num_images=10 --reference=idx",
        f"{MODEL} {IDX} evaluation/features evaluation/reference_features",
        "evaluate again",
        may_write=FEATURES,
        made_anew="evaluation/*features/*",
        result="evaluation/card.json",
    ),
    Command(
        f"{EVALUATE} --images=images.npz --reference=reference.safetensors",
        "images.npz reference.safetensors",
        "evaluate an npz",
        f"split {OF_DRAWING}",
        FEATURES,
    ),
    Command(
        f"{EVALUATE} --images=flat --reference=idx --classifier=classifier.safetensors --image_size=28",
        f"flat {IDX} classifier.safetensors",
        "evaluate a folder",
        OF_DRAWING,
        FEATURES,
    ),
    Command(
        "evaluate --compare=[evaluation,other_evaluation]",
        "evaluation/card.json other_evaluation/card.json",
        "evaluate --compare",
        f"split reference images output extractor classifier batch_size image_size bootstrap device {OF_DRAWING}",
    ),
    Command(f"reference {JUDGE} --images=idx --output=new.safetensors", IDX, may_write=FEATURES),
    Command(
        f"reference {JUDGE} --images=tars --image_size=28 --output=new.safetensors",
        "tars",
        "reference of tars",
        "split",
        FEATURES,
    ),
    Command("tune --target_ms=10000 --model=model --batch_size=1 --output=new.json --device=cpu", MODEL),
    Command(SWEEP, f"{MODEL} reference.safetensors", unread="split", may_write=POINTS),
    Command(
        SWEEP,
        f"{MODEL} reference.safetensors sweep/points.jsonl sweep/settings.json",
        "sweep again",
        "split",
        POINTS,
        made_anew="sweep/settings.json",
    ),
    Command(f"{TRAIN} {SMALL} {PIXELS} --data.folder=idx", IDX, "train on idx files", OF_DATA, RUN),
    Command(
        f"{TRAIN} {SMALL} {PIXELS} {CUT} --data.folder=folders",
        "folders",
        "train on folders",
        f"data.split {OF_DATA}",
        RUN,
    ),
    Command(
        f"{TRAIN} {SMALL} {PIXELS} {CUT} --data.folder=tars", "tars", "train on tars", f"data.split {OF_DATA}", RUN
    ),
    Command(
        f"{TRAIN} {SMALL} --data.tokenizer=store/tokenizer --data.latents=store",
        "store",
        "train on a store",
        OF_ENCODING,
        RUN,
    ),
    Command(f"{DISTILL} --data=self", MODEL, "distill", may_write=RUN),
    Command("train --config=train.yaml", f"train.yaml {IDX}", "train --config", OF_DATA, RUN),
    Command(
        f"{TRAIN} {SMALL} {PIXELS} --data.folder=idx --output=run --resume=true",
        f"{IDX} run/checkpoints run/latents run/metrics.jsonl",
        "train --resume",
        f"metrics.jsonl:* {OF_DATA} data.device",
        RUN,
        made_anew="*/metrics.jsonl",
    ),
    Command(
        f"{TRAIN} {PIXELS} --data.folder=idx --finetune.checkpoint=model",
        f"{IDX} model/config.json model/model.safetensors",
        "train --finetune",
        f"{OF_DATA} {OF_TOKENIZER}",
        RUN,
    ),
    Command(
        f"encode {SIZE} --folder=folders --tokenizer=pixel:7 --latents=new --shard_size=5",
        "folders",
        unread="split",
        may_write=STORE,
    ),
    Command(
        f"encode {SIZE} --folder=folders --tokenizer=pixel:7 --latents=store --shard_size=5",
        "folders store/shard_00000.safetensors store/shard_00002.safetensors store/tokenizer",
        "encode the rest",
        "split",
        STORE,
        made_anew="store/*",
        result="store/*",
    ),
    Command(
        f"encode {SIZE} --folder=tars --tokenizer=tokenizer --latents=new",
        "tars tokenizer",
        "encode tars",
        "split",
        STORE,
    ),
    Command(f"{TOKENIZER} --output=new", "folders", unread="split", may_write=TOKENIZER_RUN),
    Command(
        f"{TOKENIZER} --output=tokenizer_run --resume=true",
        "folders tokenizer_run/checkpoints tokenizer_run/metrics.jsonl",
        "train-tokenizer --resume",
        "split metrics.jsonl:*",
        TOKENIZER_RUN,
        made_anew="*/metrics.jsonl",
    ),
    Command(
        f"calibrate-tokenizer {SIZE} --tokenizer=tokenizer --data=folders --output=new",
        "folders tokenizer",
        unread="split",
    ),
    Command("convert --checkpoint=published.pth --output=new", "published.pth"),
    Command("push model somebody/model --samples=1 --evaluation=evaluation", f"{MODEL} evaluation/card.json", "push"),
    Command("plot run --output=out.png", "run/metrics.jsonl", "plot"),
    Command("classes --model=model", "model/config.json", unread=OF_TOKENIZER),
    Command("info --model=model", "model/config.json model/model.safetensors", unread=OF_TOKENIZER),
    Command("doctor --model=model", MODEL, codes=(1,)),
    Command("demo --model=model --device=cpu --port=7861", MODEL, works=False),
)
