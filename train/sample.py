"""python -m train.sample RUN --prompt TEXT: let a trained model write; mpiexec -n N shares the texts out."""
import argparse
import sys
from collections.abc import Sequence

from gpt.decode import Decoder
from minigrad.check import exit_status, expect
from train import parallel
from train.parallel import Group
from train.text import GPT2, SEPARATOR

EXAMPLES = """\
examples:
  python -m train.sample runs/verse --prompt "#वर्षा" --n 3
  python -m train.sample gpt2 --prompt "A framework is" --stream     released weights (pip install -e '.[hub]')"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m train.sample", description="Let a trained model write.",
                                     epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="RUN",
                        help="a run folder, a folder with weights and a tokenizer, or a name on huggingface.co")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="how the texts begin; empty: as a document does")
    parser.add_argument("--n", type=int, default=1, metavar="N",
                        help="how many texts; text k is what --seed SEED + k writes first [%(default)s]")
    parser.add_argument("--tokens", type=int, default=200, metavar="N", help="length of each, at most [%(default)s]")
    parser.add_argument("--stream", action="store_true", help="show the text as it is written, one after the other")
    parser.add_argument("--temperature", type=float, default=0.8, metavar="X",
                        help="below 1 safer, above 1 wilder, 0 always the likeliest token [%(default)s]")
    parser.add_argument("--top_k", type=int, metavar="N", help="choose among the N likeliest tokens only")
    parser.add_argument("--top_p", type=float, metavar="X",
                        help="choose among the likeliest tokens with this probability together")
    parser.add_argument("--min_p", type=float, metavar="X",
                        help="only tokens at least this fraction as likely as the likeliest one")
    parser.add_argument("--repetition_penalty", type=float, default=1.0, metavar="X",
                        help="above 1, what was there is less likely [%(default)s]")
    parser.add_argument("--int8", action="store_true", help="a byte for each weight: faster if the model is large")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, another text [%(default)s]")

    def work() -> int:
        args = parser.parse_args(argv)
        return parallel.run(lambda group: go(args, group))
    return exit_status(work)                                 # --help too: it has letters that not every stream has


def go(args: argparse.Namespace, group: Group) -> int:
    """What was asked for, on each rank of a group. Returns the exit status."""
    try:
        write(args, group)
    except BrokenPipeError:                                  # main knows about readers who have seen enough
        raise
    except (ValueError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


def write(args: argparse.Namespace, group: Group) -> None:
    text = group.together(lambda: GPT2.from_pretrained(args.folder))
    expect(args.n > 0 and args.tokens > 0, "--n, --tokens", f"{args.n}, {args.tokens}", "at least 1")
    expect(args.seed >= 0, "--seed", args.seed, "0 or more")
    expect(group.size == 1 or not args.stream, "--stream", f"{group.size} ranks", "one",
           "leave the flag out, or run without mpiexec")
    how = {name: getattr(args, name) for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")}
    how["decoder"] = Decoder(text.model, args.int8)
    if not args.stream:
        print(SEPARATOR.join(text.write(args.n, args.tokens, args.prompt, args.seed, group, **how)))
    for k in range(args.n if args.stream else 0):
        for piece in text.stream(args.tokens, args.prompt, seed=args.seed + k, **how):
            print(piece, end="", flush=True)
        print(SEPARATOR if k + 1 < args.n else "")


if __name__ == "__main__":
    sys.exit(main())
