"""Every setting of a run, once: the command line, the YAML files and --help all come from the dataclass below.

Later wins: defaults < preset < YAML file < flags. A name that no setting has is an error that suggests the nearest.
"""
import argparse
import difflib
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from minigrad.check import expect
from train import checkpoint

CONFIGS = Path(__file__).with_name("configs")


def setting(default: Any, help: str, **rule: Any) -> Any:
    """A field of Config. rule: opens= (a topic of --help begins here), low= (least value), below= (stays under it),
    choices=, fixed= (a resumed run cannot change it)."""
    return field(default=default, metadata={"help": help, **rule})


@dataclass
class Config:
    """What a run is made of. The defaults are a small run; configs/*.yaml say in what each named run differs."""
    config: str = setting("verse", "a name from train/configs, or a YAML file", opens="run")
    out: str = setting("", "run folder (empty: runs/CONFIG, or the next free runs/CONFIG-2, -3, ...)")
    resume: str = setting("", "a run folder to go on with where it stopped; auto: --out, whether it has begun or not")
    init: str = setting("", "start from these weights: a run folder or a Hugging Face GPT folder", fixed=True)
    seed: int = setting(0, "fixes initial weights, data order, dropout, samples and the couplets of verse", low=0)
    backend: str = setting("numpy", "the CPU or an NVIDIA GPU", choices=("numpy", "cupy"))
    dtype: str = setting("float32", "how parameters are stored", fixed=True,
                         choices=("float32", "float64", "bfloat16", "float16"))
    recompute: int = setting(0, "of every so many blocks keep the input alone, and compute the rest again on the way "
                             "back: less memory, more time (0: of none, 1: of all)", low=0)
    recompute_part: str = setting("block", "of those blocks", choices=("block", "attention", "mlp"))
    lost_after: float = setting(300.0, "seconds without a word from another rank after which the run ends (mpiexec)",
                                low=1)
    check_finite: bool = setting(False, "look at the result of every op, forward and backward, and stop at the first "
                                 "that is not finite: slower, and says where it began")
    graph: bool = setting(False, "record a step once and launch it as a whole, as a CUDA graph (cupy): for small "
                          "models, in whose steps a GPU waits for Python")
    profile: int = setting(0, "steps to time op by op, after the first few: a table at the end, and OUT/profile.json",
                           low=0)

    data: str = setting("verse", "a text file, .jsonl with a \"text\" field, .parquet with a \"text\" column, a dump "
                        "of Wikipedia (.xml, .xml.bz2), a folder of such files, a name that python -m train.catalogue "
                        "lists, or the word verse: Hindi couplets that the project composes itself", opens="data")
    downloads: str = setting("runs/downloads", "where texts of the catalogue are kept")
    deduplicate: bool = setting(True, "leave out exact copies of documents (not of verse)")
    couplets: int = setting(100_000, "how many couplets verse composes", low=1)
    split: tuple = setting((0.8, 0.1, 0.1), "shares of training, validation and test text (not of a folder whose files "
                           "are named train, val and test: there the names say it)", fixed=True)
    tokenizer: str = setting("char", "char, bpe, or the file of a trained tokenizer", fixed=True)
    vocab_size: int = setting(1024, "tokens that bpe learns (char and files bring their own)", low=257, fixed=True)
    special: bool = setting(False, "read the names of special tokens in the text as those tokens, but for "
                            "<|endoftext|>", fixed=True)
    align: bool = setting(True, "begin training windows where a document begins, if one block reaches back that far")
    shards: str = setting("runs/shards", "where tokenized text is kept for later runs on the same data")

    preset: str = setting("", "a published size, gpt2 for instance: fills in the five settings below", opens="model",
                          fixed=True)
    n_layer: int = setting(4, "blocks", low=1, fixed=True)
    n_head: int = setting(4, "attention heads; divides n_embd", low=1, fixed=True)
    n_embd: int = setting(128, "width", low=1, fixed=True)
    block_size: int = setting(64, "longest context, in tokens", low=1, fixed=True)
    pre_norm: bool = setting(True, "normalise what goes into each branch (GPT-2); false: the sum (GPT-1)", fixed=True)
    activation: str = setting("gelu", "inside the MLPs", choices=("gelu", "relu"), fixed=True)
    dropout: float = setting(0.0, "share of activations dropped in training", low=0, below=1, fixed=True)

    steps: int = setting(1000, "updates of the weights", opens="training", low=0)
    epochs: float = setting(0.0, "passes over the training text, which then give the steps (0: --steps does)", low=0,
                            below=1e9)
    tokens_per_step: int = setting(2048, "tokens that one update sees: decides the result", low=1)
    device_batch: int = setting(32, "rows that go through the model at once: decides memory and speed only, because "
                              "tokens_per_step / (device_batch * block_size) such micro-batches are accumulated; with "
                              "dropout also its masks, which depend on a micro-batch's number", low=1)
    lr: float = setting(1e-3, "highest learning rate", low=0)
    min_lr: float = setting(1e-4, "learning rate at the end of the cosine", low=0)
    warmup: int = setting(100, "steps in which the learning rate rises (all steps, if there are fewer)", low=0)
    weight_decay: float = setting(0.1, "AdamW's decay of matrices and embeddings; vectors do not decay", low=0)
    betas: tuple = setting((0.9, 0.95), "AdamW's memory of gradients and of their squares")
    clip: float = setting(1.0, "largest norm of the gradient; 0 does not clip", low=0)
    label_smoothing: float = setting(0.0, "share of the target that is spread over all tokens", low=0, below=1)

    spike: str = setting("off", "where the loss leaps up or is no number: skip the update, or go back to the last "
                         "checkpoint and on with other text", choices=("off", "skip", "back"))
    spike_size: float = setting(6.0, "standard deviations above the mean of recent losses that make a leap", low=0)

    eval_every: int = setting(250, "steps between validations", opens="evaluation", low=1)
    patience: int = setting(0, "end the run after so many validations in a row that were no better than the best (0: "
                            "never)", low=0)
    save_every: int = setting(0, "steps between checkpoints (0: as between validations)", low=0)
    keep: int = setting(2, "newest checkpoints that stay, beside the best of those saved", low=1)
    background: bool = setting(True, "write checkpoints while training goes on, from a copy of parameters and moments")
    eval_tokens: int = setting(32_768, "about how many validation tokens are scored", low=1)
    stats_every: int = setting(0, "steps between statistics of every parameter: size, gradient, update (0: none)",
                               low=0)
    tensorboard: bool = setting(False, "also write the log as TensorBoard events, to OUT/tensorboard")
    samples: int = setting(4, "texts written at the end, and one at every validation (0: none)", low=0)
    sample_prompt: str = setting("", "how they begin (empty: as a document does)")
    sample_tokens: int = setting(200, "their length", low=1)
    temperature: float = setting(0.8, "below 1 safer, above 1 wilder, 0 always the likeliest token", low=0)

    @property
    def per_step(self) -> int:
        """Windows of a step."""
        return self.tokens_per_step // self.block_size

    @property
    def device(self) -> str:
        return "gpu" if self.backend == "cupy" else "cpu"

    def rows(self, ranks: int) -> int:
        """Rows that go through the model at once on each of so many ranks: device_batch, or the most below it that
        share a step out evenly."""
        each, rest = divmod(self.per_step, ranks)
        expect(not rest, "tokens_per_step", f"{self.tokens_per_step} for {ranks} ranks",
               f"a multiple of ranks * block_size = {ranks * self.block_size}",
               f"--tokens_per_step {max(1, each) * ranks * self.block_size}")
        return next(rows for rows in range(min(each, self.device_batch), 0, -1) if each % rows == 0)


FIELDS = {f.name: f for f in fields(Config)}
EXAMPLES = """\
examples:
  python -m train.run                                            Hindi couplets on a CPU: the whole project in one run
  python -m train.run --config shakespeare-char                  Shakespeare by characters; downloads 1.1 MB once
  python -m train.run --data my_texts/ --tokenizer bpe --vocab_size 2000 --steps 3000
  python -m train.run --resume runs/verse --steps 8000           go on where a run stopped, further
  mpiexec -n 4 python -m train.run                               the same on four processes, or on many machines
  python -m train.sample runs/verse --prompt "..."               let the result write"""


def parse(argv: Sequence[str] | None = None) -> Config:
    """The command line -> a checked Config."""
    flags = _read_flags(argv)
    if "steps" in flags:                                     # later than a file's epochs, so it is they that give way
        expect(not flags.get("epochs"), "--steps", "it together with --epochs", "one of them")
        flags["epochs"] = 0.0
    name = flags.get("config", Config.config)
    lines = read_yaml(config_file(name))
    resume = flags.get("resume", lines.get("resume", ""))
    if auto := resume == "auto":
        out = flags.get("out") or lines.get("out") or f"runs/{Path(name).stem}"
        flags, resume = {**flags, "out": out}, out if checkpoint.steps(out) else ""
    if not resume:
        return build({**_expand(lines), **_expand(flags)})
    if auto:                                                 # the same command as the one that it began with
        flags = {key: value for key, value in flags.items() if key not in ("config", "out")}
    for key in ("config", "out"):
        expect(key not in flags, f"--{key}", f"both --{key} and --resume", "one of them",
               "--resume takes the settings and the folder of the run itself")
    if not checkpoint.steps(resume):
        one = Path(resume, "run.json").is_file()
        expect(False, "--resume", f"{resume!r}, {'a checkpoint' if one else 'where no checkpoint is'}",
               "a run folder with one", f"--resume {Path(resume).parent.parent}" if one else
               f"--resume auto --out {resume}, with the settings of the run, goes on or begins")
    saved = checked(checkpoint.newest(resume)[1]["config"], f"{resume}/run.json")
    for key in flags:
        expect(flags[key] == saved.get(key) or not FIELDS[key].metadata.get("fixed"), f"--{key}", repr(flags[key]),
               f"{saved.get(key)!r}, as in {resume}", "--init starts a new run from the weights of this one")
    return build({**saved, **flags, "out": str(resume), "resume": "auto" if auto else resume})


def build(given: dict) -> Config:
    """{name: value} -> Config; settings that are fine one by one but not together are refused."""
    c = Config(**given)
    expect(c.n_embd % c.n_head == 0, "n_embd", f"{c.n_embd} for {c.n_head} heads", "a multiple of n_head",
           f"--n_embd {max(1, round(c.n_embd / c.n_head)) * c.n_head}")
    expect(len(c.split) == 3 and all(s >= 0 for s in c.split) and abs(sum(c.split) - 1) < 1e-6, "split", c.split,
           "three shares (train, validation, test) that sum to 1", "--split 0.8 0.1 0.1")
    expect(c.min_lr <= c.lr, "min_lr", f"{c.min_lr:g} above lr {c.lr:g}", "a learning rate that falls",
           f"--min_lr {c.lr / 10:g}")
    expect(len(c.betas) == 2 and all(0 <= b < 1 for b in c.betas), "betas", c.betas, "two numbers from 0 to below 1",
           "--betas 0.9 0.95")
    graph_or = {"--backend numpy": c.backend == "numpy", "--spike": c.spike != "off", "--check_finite": c.check_finite,
                "--profile": c.profile, "--dtype float64": c.dtype == "float64"}
    at_odds = [flag for flag, given in graph_or.items() if given]
    expect(not c.graph or not at_odds, "--graph", f"it together with {', '.join(at_odds)}", "a step on a GPU that is "
           "the same every time and waits for nothing", "leave one of them out")
    at_once = c.device_batch * c.block_size
    expect(c.tokens_per_step % at_once == 0, "tokens_per_step", c.tokens_per_step,
           f"a multiple of device_batch {c.device_batch} * block_size {c.block_size} = {at_once}", _fitting(c))
    return c


def _fitting(c):
    """The nearest settings that divide, as a hint."""
    at_once = c.device_batch * c.block_size
    below = c.tokens_per_step // at_once * at_once
    hint = "--tokens_per_step " + " or ".join(str(t) for t in (below, below + at_once) if t)
    rows, rest = divmod(c.tokens_per_step, c.block_size)
    if rest or not rows:
        return hint
    divisors = [b for b in range(1, min(rows, 10_000) + 1) if rows % b == 0]
    near = sorted(sorted(divisors, key=lambda b: abs(math.log(b / c.device_batch)))[:2])
    return f"{hint}, or --device_batch {' or '.join(map(str, near))}"


def names() -> list[str]:
    """The configurations that come with the project."""
    return sorted(file.stem for file in CONFIGS.glob("*.yaml"))


def config_file(name: str) -> Path:
    """A configuration's name or a path -> its file."""
    if name in names():
        return CONFIGS / f"{name}.yaml"
    expect(Path(name).is_file(), "--config", repr(name), f"a YAML file or one of {', '.join(names())}",
           _nearest(Path(name).stem, names()))
    return Path(name)


def read_yaml(file: Path) -> dict:
    """A file of settings -> {name: value}."""
    try:
        given = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise ValueError(f"{file}: got {' '.join(str(e).split())}; expected a readable YAML file") from None
    return checked(given, file)


def checked(given: Any, who: object) -> dict:
    """{name: value} with every name known and every value of its type."""
    expect(isinstance(given, dict), who, f"a {type(given).__name__}", "lines of `name: value`")
    for name in given:
        expect(name in FIELDS, who, f"an unknown setting {name!r}", "a setting from --help", _nearest(name, FIELDS))
    return {name: convert(name, value, f"{who}: {name}") for name, value in given.items()}


def to_yaml(config: Config) -> str:
    """The settings as a YAML file that --config reads back; where the run lives is left out."""
    said = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}
    kept = {k: v for k, v in said.items() if k not in ("config", "out", "resume")}
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)


def topics() -> dict[str, list[Field]]:
    """{topic: its fields}."""
    found = {}
    for f in FIELDS.values():
        if "opens" in f.metadata:
            found[f.metadata["opens"]] = group = []
        group.append(f)
    return found


def describe(config: Config) -> str:
    """The resolved settings, a paragraph per topic."""
    lines = []
    for topic, group in topics().items():
        said = [f"{f.name} {_show(getattr(config, f.name))}" for f in group
                if getattr(config, f.name) != "" and not (f.name == "steps" and config.epochs)]
        lines += textwrap.wrap("  ".join(said), 118, initial_indent=f"{topic:11}", subsequent_indent=" " * 11,
                               break_on_hyphens=False, break_long_words=False)
    return "\n".join(lines)


KINDS: dict[Any, str] = {str: "text in UTF-8", int: "a whole number", float: "a number", bool: "true or false",
                         tuple: "numbers"}


def convert(name: str, value: object, who: str) -> Any:
    """What YAML or a flag gave -> the field's type. Numbers may come as text: YAML reads 1e-3 as a string."""
    kind, rule = FIELDS[name].type, FIELDS[name].metadata
    try:
        result = _CONVERT[kind](value)
    except (TypeError, ValueError, KeyError):
        raise ValueError(f"{who}: got {value!r}; expected {KINDS[kind]}. Hint: {rule['help']}") from None
    if choices := rule.get("choices"):
        expect(result in choices, who, repr(value), f"one of {', '.join(choices)}", _nearest(value, choices))
    if "low" in rule:
        expect(result >= rule["low"], who, result, f"at least {rule['low']}", rule["help"])
    if "below" in rule:
        expect(result < rule["below"], who, result, f"less than {rule['below']}", rule["help"])
    return result


def _text(value):
    if not isinstance(value, str):
        raise TypeError
    value.encode()                             # a path may have bytes that no checkpoint could write down
    return value


def _whole(value):
    if isinstance(value, (bool, float)):       # int(1.5) would be 1
        raise TypeError
    return int(value)


def _number(value):
    if isinstance(value, bool) or not math.isfinite(float(value)):
        raise TypeError
    return float(value)


def _numbers(value):
    if isinstance(value, (list, tuple)) and not any(isinstance(v, str) for v in value):
        return tuple(map(_number, value))
    words = value if isinstance(value, str) else " ".join(map(str, value))       # 0.9,0.95 or 0.9 0.95
    return tuple(map(_number, words.replace(",", " ").split()))


_CONVERT: dict[Any, Callable] = {
    str: _text, int: _whole, float: _number, tuple: _numbers,
    bool: lambda value: {"true": True, "false": False}[str(value).lower()]}


def _read_flags(argv):
    """The command line -> {name: value} of what was said; --help answers with the values of the chosen --config."""
    given, rest = _parser(Config()).parse_known_args(argv)
    for word in rest:
        expect(not word.startswith("--"), word, "no setting of that name", "one of those in --help",
               _nearest(word.split("=")[0].strip("-"), FIELDS, "--"))
    expect(not rest, "the command line", repr(" ".join(rest)), "flags such as --steps 100",
           "quote texts that have spaces in them")
    flags = {name: convert(name, value, f"--{name}") for name, value in vars(given).items() if name != "help"}
    if given.help:
        print(_parser(build(_expand(read_yaml(config_file(flags.get("config", Config.config)))))).format_help())
        raise SystemExit(0)
    return flags


class _Layout(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog):
        super().__init__(prog, max_help_position=33, width=118)


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise ValueError(f"the command line: {message}")


def _parser(shown):
    """argparse's view of Config: one flag per field, by topic, with the values of the config shown."""
    parser = _Parser(prog="python -m train.run", usage="python -m train.run [--config NAME|FILE] [--SETTING VALUE ...]",
                     description="Train a GPT on text. Each setting is a flag or a line of a YAML file; flags win.",
                     epilog=EXAMPLES, allow_abbrev=False, add_help=False, formatter_class=_Layout)
    parser.add_argument("-h", "--help", action="store_true", help="this text, for the chosen --config")
    words: dict[Any, str] = {str: "TEXT", int: "N", float: "X", bool: "true|false", tuple: "X"}
    shapes: dict[Any, dict[str, Any]] = {tuple: {"nargs": "+"}, bool: {"nargs": "?", "const": "true"}}
    for topic, group in topics().items():
        add = parser.add_argument_group(topic).add_argument
        for f in group:
            text = f"{f.metadata['help']} [{_show(getattr(shown, f.name))}]".replace("%", "%%")
            word = "|".join(f.metadata.get("choices", ())) or words[f.type]
            add(f"--{f.name}", default=argparse.SUPPRESS, metavar=word, help=text, **shapes.get(f.type, {}))
            if f.type is bool:
                add(f"--no-{f.name}", dest=f.name, action="store_const", const="false", default=argparse.SUPPRESS,
                    help=argparse.SUPPRESS)
    return parser


def _expand(given):
    """Put a preset's sizes under the settings that were given beside it."""
    if not given.get("preset"):
        return given
    from gpt import GPTConfig
    sizes = GPTConfig.preset(given["preset"])
    return {**{k: getattr(sizes, k) for k in ("n_layer", "n_head", "n_embd", "block_size", "pre_norm")}, **given}


def _nearest(word, known, prefix=""):
    near = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
    return f"did you mean {prefix}{near[0]}?" if near else ""


def _show(value):
    """As it would be typed after a flag."""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
