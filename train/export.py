"""python -m train.export RUN FOLDER: a trained model for transformers, or for llm.c."""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from minigrad.check import exit_status, expect
from train import checkpoint
from train.text import GPT2

LOAD = """{out} is written; to use it:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    model, tokenizer = (A.from_pretrained({out!r}) for A in (AutoModelForCausalLM, AutoTokenizer))
here:
    python -m train.sample {out}"""


def export(run: str | Path, out: str | Path, dtype: str | None = None) -> None:
    """Write the run's model and tokenizer to the folder out, or its model to out.bin."""
    expect(str(out), "train.export", "an empty name", "a folder, or NAME.bin")
    out = Path(out)
    expect(not (out / "run.json").exists() and not (out / "settings.yaml").exists(), "train.export",
           f"{str(out)!r}, which holds a run", "another folder",
           "the tokenizer.json that transformers reads would take the place of the run's own")
    if out.suffix == ".bin":
        model, _ = checkpoint.load(run)
        return model.to(dtype=dtype).save(out)
    text = GPT2.from_pretrained(run)
    text.model.to(dtype=dtype)
    text.save(out)


EXAMPLES = """\
examples:
  python -m train.export runs/verse my-model                         a folder for transformers, tokenizer included
  python -m train.export runs/verse my-model.bin --dtype bfloat16    a file for llm.c"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m train.export", description="Write a trained model as transformers "
                                     "reads it, with its tokenizer; or its weights as llm.c reads them.",
                                     epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="a run folder, or what else train.sample reads")
    parser.add_argument("out", metavar="FOLDER", help="where to write; NAME.bin for llm.c, GPT-2 only")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="round to [as stored]")
    args = parser.parse_args(argv)

    def work():
        export(args.run, args.out, args.dtype)
        print(f"{args.out} is written, for llm.c" if Path(args.out).suffix == ".bin" else LOAD.format(out=args.out))
    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
