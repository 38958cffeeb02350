"""Does a model keep the rules that it was never told? python -m bench verse runs/verse

Lets a run on the Hindi couplets write, as `python -m train.sample RUN --n 300` does, and counts those in meter, those
whose lines rhyme on two words, and those that the grammar of train/verse.py could have composed: these keep both, agree
in gender and number, and say what can be said of the theme. What the grammar itself writes keeps all.
"""
import argparse
import math

from bench.turns import count, positive
from train.text import GPT2
from train.verse import COUPLET, FORMS, METERS, length, logprob, rhyme


def kept(couplet: str) -> tuple[bool, bool, bool]:
    """Whether the couplet is in meter, rhymes, and could be the grammar's; none of it, if a word cannot be scanned."""
    match = COUPLET.fullmatch(couplet)
    if not match or match["form"] not in FORMS:
        return False, False, False
    lines = [[pada.split(" ") for pada in line.split(", ")] for line in match.group("first", "second")]
    wanted = [METERS[name].length for name in FORMS[match["form"]]]
    a, b = (line[-1][-1] for line in lines)
    try:
        meter = all([sum(map(length, pada)) for pada in line] == wanted for line in lines)
        return meter, a != b and rhyme(a) == rhyme(b), logprob(couplet) > -math.inf
    except ValueError:
        return False, False, False


def main(argv):
    parser = argparse.ArgumentParser("python -m bench verse", description=__doc__.split("\n\n")[0])
    parser.add_argument("run", metavar="RUN", help="a folder that python -m train.run has written")
    parser.add_argument("--n", type=positive, default=300, help="couplets [%(default)s]")
    parser.add_argument("--seed", type=count, default=0, help="of the first; the next has the next [%(default)s]")
    parser.add_argument("--temperature", type=float, default=0.8,
                        help="below 1 safer, above 1 wilder, 0 always the likeliest token [%(default)s]")
    args = parser.parse_args(argv)
    couplets = GPT2.from_pretrained(args.run).write(args.n, seed=args.seed, temperature=args.temperature)
    print(f"{args.n} couplets at temperature {args.temperature:g}, and how far chance may move a percentage")
    for what, found in zip(("in meter", "in rhyme", "the grammar's own"), zip(*(kept(c + "\n") for c in couplets))):
        share = sum(found) / args.n
        print(f"{what:18} {share:6.1%} ± {(share * (1 - share) / args.n) ** 0.5:.1%}")
