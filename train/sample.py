"""python -m train.sample RUN --prompt TEXT: let a trained model write."""
import argparse
import sys

import numpy as np

from gpt import generate
from minigrad.check import expect
from train import checkpoint
from train.data import END, separator

SEPARATOR = "\n" + "-" * 40 + "\n"       # between texts


def write(model, tokenizer, n=1, tokens=200, prompt="", **how):
    """n texts that begin with prompt, or as a document does, and stop where the model ends the document.

    how: temperature, top_k, top_p, seed of gpt.generate.
    """
    ids, end, texts = [separator(tokenizer), *tokenizer.encode(prompt)], tokenizer.special.get(END), []
    for row in generate(model, np.tile(np.array(ids, np.int64), (n, 1)), tokens, **how).tolist():
        begun, new = row[1:len(ids)], row[len(ids):]
        texts.append(tokenizer.decode(begun + new[:new.index(end) if end in new else None]).strip("\n"))
    return texts


def main(argv=None):
    parser = argparse.ArgumentParser("python -m train.sample", description="Let a trained model write.",
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("folder", metavar="RUN", help="a run folder, or any folder with weights and a tokenizer.json")
    parser.add_argument("--prompt", default="", help="how the texts begin; empty: as a document does")
    parser.add_argument("--n", type=int, default=1, help="how many texts")
    parser.add_argument("--tokens", type=int, default=200, help="length of each, at most")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 always takes the likeliest token")
    parser.add_argument("--top_k", type=int, help="choose among the k likeliest tokens only")
    parser.add_argument("--top_p", type=float, help="choose among the likeliest tokens with this probability together")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another text")
    args = parser.parse_args(argv)
    try:
        model, tokenizer = checkpoint.load(args.folder)
        expect(tokenizer is not None, args.folder, "no tokenizer.json in it", "the tokenizer beside the weights")
        expect(args.n > 0 and args.tokens > 0, "--n, --tokens", f"{args.n}, {args.tokens}", "at least 1")
        texts = write(model, tokenizer, args.n, args.tokens, args.prompt, temperature=args.temperature,
                      top_k=args.top_k, top_p=args.top_p, seed=args.seed)
    except (ValueError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(SEPARATOR.join(texts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
