"""For every option of every command the values that are refused: of another type, out of range, impossible."""

from __future__ import annotations

LONG = 5000  # characters
NO_NUMBER = ("abc", "", "nan", "1,5", "0.5.5", "[1", "{}", "true", "12 apes", "1e", "\x1b[31m5", "5\n6", "x" * LONG)
NO_INTEGER = (*NO_NUMBER, "1.5", "1e300", "inf", "[2]")
NO_FLOAT = (*NO_NUMBER, "inf", "-inf", "1e400", "[0.5]")
NEGATIVE = ("-1", "-1000000", str(-(2**63)))
IMPOSSIBLE = (str(10**9), str(2**40), str(2**64), "1" + 100 * "0", "9" * LONG)  # as work, or as memory
NO_LIST = ("abc", "{}", "[1,", "[[1]]", "[nan]", '["x"]', "[1e300]", "[null]")
NO_SIZE = ("0", "-8", "1.5", "nan", "[]", "[28]", "[28,28,28]", "[0,28]", "[-28,28]", "abc", "[28,", str(10**9))
NO_CHOICE = ("bogus", "", "a\x1b[2Jb", "two\nlines", "[1]", "y" * LONG)
NO_FILE = (
    "missing",
    "missing/deep",
    "no\x1bsuch",
    "no\nsuch",
    "z" * LONG,
    "a/" * LONG,
    "/dev/null/x",
    "\udcff",
    "~nobody/x",
)
NO_PLACE = ("z" * LONG, "a/" * LONG, "/dev/null/x")
NO_FLAG = ("maybe", "2", "[]", "\x1b[31m", "abc")

COUNT = (*NO_INTEGER, "0", *NEGATIVE)
WORK = (*COUNT, *IMPOSSIBLE)
FROM_ZERO = (*NO_INTEGER, *NEGATIVE)
POSITIVE = (*NO_FLOAT, "0", "-0.5", "-1e300")
WEIGHT = (*NO_FLOAT, "-0.5", "-1e300")
SHARE = (*WEIGHT, "1", "1.5", "1e300")
SEED = ("abc", "", "nan", "1.5", "1e300", "[1]", "{}", "5\n6", "x" * LONG, "9" * LONG)
TOKENIZER = (*NO_FILE, "pixel:0", "pixel:-7", "pixel:", "pixel:nan", "pixel:1000000000", f"pixel:{2**64}")

GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("per_class num_inference_steps count rounds num_images turns neighbours workers", WORK),
    ("steps latent_channels ar_width ar_depth ar_heads flow_width flow_depth flow_heads num_classes channels", WORK),
    ("batch_size max_images shard_size encode_batch every images micro_batch log_every save_every", COUNT),
    ("keep_checkpoints interval max_skipped", COUNT),
    ("sample_every robust_steps warmup_steps", FROM_ZERO),
    ("crops samples bootstrap keep_scales scale", (*FROM_ZERO, *IMPOSSIBLE)),
    ("zoom", (*COUNT, "65", *IMPOSSIBLE)),
    ("image_channels", (*COUNT, "2", "4", str(10**9))),
    ("port", (*COUNT, "65536", str(10**9))),
    ("seed to_seed", SEED),
    ("epochs lr target_ms", (*POSITIVE, "1e300")),
    ("save_minutes", (*WEIGHT, "1e300")),
    ("max_grad_norm skip_grad_norm warmup_epochs", POSITIVE),
    ("guidance_scale context_noise weight_decay latent_noise robust_noise", (*WEIGHT, "1e300")),
    ("scale_exponent final_lr edge_weight perceptual_weight kl_weight", WEIGHT),
    ("dropout class_dropout", SHARE),
    ("share", (*NO_FLOAT, "-0.5", "1", "1.5", "1e300")),
    ("betas", (*NO_LIST, "[0.9]", "[0.9,1]", "[-0.1,0.9]", "[2,3]", "[nan,0.9]", "[0.9,0.9,0.9]", "0.9")),
    ("ema_decays", (*NO_LIST, "[]", "[1]", "[-0.5]", "[0.9,0.9]")),
    ("guidance_interval", (*NO_LIST, "[]", "[0.5]", "[0.9,0.1]", "[nan,1]", "[-1,2]", "[0,0.5,1]", "0.5")),
    ("guidance_scales", (*NO_LIST, "[]", "[-1]", "[inf]")),
    ("interval_highs", (*NO_LIST, "[]", "[-1]", "[2]")),
    ("show.steps sweep.steps", (*NO_LIST, "[]", "[0]", "[-1]", "[1.5]", "[1000000000]")),
    ("solvers", ("bogus", "[]", '["bogus"]', "[1]", '["euler","bogus"]', "[null]")),
    ("widths", (*NO_LIST, "[0]", "[8]", "[-8,16]", "[8,1000000000]", "[4,8]", str([8] * 40))),
    ("scales", (*NO_LIST, "[]", "[0]", "[4,2,1]", "[1,2]", "[1,2,1000000]", "[[1,1],[2]]")),
    ("image_size", NO_SIZE),
    ("latent_size", (*NO_SIZE, "5")),
    ("box", (*NO_LIST, "[0,0,0,0]", "[9,9,5,5]", "[0,0,1000,1000]", "[-5,0,9,9]", "[0,0,9]", f"[0,0,9,{2**64}]")),
    ("query", (*NO_LIST, "[]", "[0]", "[99,0]", "[-1,0]", "[0,0,0]")),
    ("classes", ("99", "-1", "bogus", "", ",", "nan", "1e300", "[1", "0;1", str(2**64), "\x1b[31m", "class", "[[0]]")),
    ("finetune.classes", (*NO_LIST, "[0]", str([99] * 10), str([-2] * 10))),
    ("class_names", ("abc", "{}", '["a"]', '["a","a","b"]', "[[1]]")),
    ("kind flow_block upsample on_bad_image optimizer lr_schedule times precision parallel", NO_CHOICE),
    ("checkpointing export_dtype extractor split dtype attention schedule", NO_CHOICE),
    ("device", ("bogus", "cuda:99", "meta", "", "cpu:x", "\x1b[1m", "cuda,cpu", "d" * LONG)),
    ("image mask checkpoint folder reference classifier data evaluation compare", NO_FILE),
    ("latents", NO_PLACE),
    ("model", (*NO_FILE, "somebody/unknown", "..", "a/b/c")),
    ("tokenizer", TOKENIZER),
    ("distill.data", ("bogus", "[1]", "5", "missing.yaml")),
    ("jumps", ("-1", "1.5", "nan", "abc", "[1]", "3", "1e300")),
    ("teacher_share", ("-1", "1", "0", "nan", "abc", "[1]")),
    ("train.model.tokenizer", ("abc", "[1]", '{"channels": 3}', "5")),
    ("repo", ("noslash", "a/b/c", "", "../x", "a b/c", "a/\x1b", "somebody/" + "m" * LONG)),
    ("runs", ('["missing"]', "[]", '["run","run"]', '["run","missing"]', "5")),
    ("search", ("bogus", "\x1b[31m", "z" * LONG)),
    ("host", ("no such host", "256.256.256.256", "", "\x1b", "h" * LONG)),
    ("naive preview preview_steps paste labels save_images flips qk_norm balance_classes", NO_FLAG),
    ("interpolate_positions compile nan_trace resume private json fix", NO_FLAG),
    ("sample.output edit.output", ("a.tiff", "a", "{bogus}.png", "{class", "", "out/{seed}", "z" * LONG)),
    ("show.output plot.output", ("a.tiff", "a", "-", "out/", "")),
    ("output npz animate license training_data datasets revision", ()),  # files to write to, and texts
)
REFUSED_VALUES = {name: values for names, values in GROUPS for name in names.split()}

# What may mean something to some options, and is no reason for a traceback to any.
ODD = ("", "null", "-1", "0", "nan", str(2**63), str(2**64), str(-(2**63) - 1), "1e300", "\x1b[31m", "a\nb", "t" * LONG)


def refused_values(command: str, option: str) -> tuple[str, ...]:
    """The values that `option` of a command does not take. Raises KeyError for an option that is not known here."""
    known = (f"{command}.{option}", option, option.split(".")[-1])
    return next(REFUSED_VALUES[name] for name in known if name in REFUSED_VALUES)
