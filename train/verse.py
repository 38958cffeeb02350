"""A corpus that writes itself: Hindi couplets in exact meter, whose every probability is known.

A language model trained on real text is never told how good it could be. Here it is: a seeded grammar composes couplets

    #प्रकृति चौपाई                          #वसंत दोहा
    सखियों ने मीठा गीत सुना।              किसान कुंजों में हँसे, आओ देखें बाग।
    मुनियों ने सुंदर फूल चुना॥              जब माली फूल लाया, आओ गाएँ फाग॥

    a chaupai: two padas of 16 matras    a doha: two lines of 13 + 11 matras, the pause marked by a comma

on a theme, with agreement in gender and number and with end rhyme. For each it knows ln P(text); so the mean of -ln P
is the loss that no model can beat and a good one comes near to. Matras are counted by tok.chhand, rules S0.

How a couplet comes about. Draw one of the 20 poems (theme, form) evenly. Each of its padas follows a skeleton, a row of
tokens such as `adj noun place verb`; in a theme, with agreement settled, that spells out into patterns: rows of slots,
each a set of words any of which will do (सुंदर नन्हे ... | पंछी तोते ... | वन वनों ... | में | गाते उड़े ...). A derivation of
a couplet is a pattern for each pada and a word for each slot.

    weight     Let N(k) be the number of fillings of skeleton k in the theme, over all its patterns.
               Each of them weighs    u = N(k)^(-1/2);    equal patterns are one, with the sum of their weights   [V1]
               (u = 1 would let the longest skeletons crowd out the rest, 1/N make the shortest repeat themselves).
               A derivation d of a couplet weighs
                   w(d) = product of u over its padas    if each pada has the meter's length and last foot,
                                                         and the two last words a, b of the lines are
                                                         different words with the same tuk,
                        = 0                              otherwise                                               [V2]
    counting   A prefix of a pattern (its first slots) can be filled with m matras in A[m] ways:
                   A[m] = (m == 0) for the empty prefix
                   A'[m] = sum over words v of the next slot of A[m - |v|]                                       [V3]
               so the padas of length M that end with the word v weigh together
                   G(v) = sum over patterns (prefix, last slot) with v in the last slot of u A[M - |v|]          [V4]
               and all derivations of a poem together, with G for the padas that rhyme, and G' for a doha's
               others (a chaupai has none, and no first factor),
                   Z = (sum over v of G'(v))^2  sum over a != b, tuk(a) == tuk(b) of G(a) G(b)                   [V5]
    sampling   Draw (a, b) by its term in [V5]; given its last word, a pada's pattern by its term in [V4]; then words
               from back to front, each v by its term in [V3]. Every table holds these terms and their running sums:
               a derivation is drawn with probability w(d) / Z, and nothing is tried and rejected.               [V6]
    text       The conditions in [V2] can be read off the text, and so can its poem. What the text hides is which
               patterns gave it, and that is each pada's own affair: with F(pada) = sum of u over all patterns that
               match the pada word for word,
                   P(text) = 1 / (number of poems)  product of F over its padas / Z                              [V7]

A text ends with its ॥ and newline and no other text begins with it: a stream of couplets is a sequence of independent
draws, and the entropy of the stream is the couplet's times their number. Not done: sense beyond "this can be said of
that", sentences that span two padas, and the finer rules of cadence within a line.

    python -m train.verse [--n 5] [--seed 0]        couplets with their matras and bits, and the grammar in numbers
"""
import argparse
import math
import random
import re
import statistics
import sys
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate, product
from typing import NamedTuple

from minigrad.check import exit_status
from tok.chhand import matras, pattern, scan, tuk
from train import lexicon
from train.lexicon import WORLD, agree, conjugate, decline, gender, let_us, numbers

THEMES = tuple(WORLD)


# the grammar --------------------------------------------------------------------------------------------------------
class Meter(NamedTuple):
    """What a pada must be: its length in matras, how its last word may end, and the skeletons it is made from."""

    length: int
    ends: Callable
    skeletons: list


@cache
def length(word: str) -> int:
    """The word's matras."""
    (total,) = matras(word)
    return total


foot = cache(pattern)                                     # of a word: foot("चाँद") == "GL"
rhyme = cache(tuk)


def _lines(text):
    return [line.strip() for line in text.strip().splitlines()]


# The tokens of a skeleton. noun, adj, det and verb agree with each other; stem is the verb's, before रहा है. An object
# makes the noun a doer and the verb what is done to the object; quality is the object's adjective; let is "let us".
# agent is the doer before ने, and then done, the verb's past, agrees with the object. place is a noun with में or पर,
# spot a noun alone. Devanagari stands for itself, but का रहा कितना है agree with the noun.
METERS = {
    "chaupai": Meter(16, lambda word: len(foot(word)) > 1 and not foot(word).endswith("GL"), _lines("""
        adj noun place verb
        det adj noun verb
        time adj noun verb
        place adj noun verb
        noun place manner verb
        time noun place verb
        spot का adj noun verb
        place verb adj noun
        stem रहा है adj noun
        stem रहा है place noun
        spot का noun कितना adj
        noun quality object verb
        adj noun object verb
        noun place object verb
        time noun object verb
        agent ने quality object done
        time agent ने object done
        आओ place object let
        चलो time quality object let
    """)),
    "doha, odd": Meter(13, lambda word: True, _lines("""
        adj noun verb
        noun place verb
        det adj noun verb
        noun manner verb
        noun stem रहा है
        जब adj noun verb
        जब noun place verb
        spot का noun verb
        noun quality object verb
        agent ने object done
        जब noun object verb
        आओ manner object let
        चलो place object let
    """)),
    "doha, even": Meter(11, lambda word: foot(word).endswith("GL"), _lines("""
        verb adj noun
        noun है adj
        verb place noun
        verb time noun
        verb manner noun
        stem रहा है noun
        कितना adj noun
        spot का adj noun
        det adj noun
        noun verb object
        आओ let object
    """)),
}
FORMS = {                                                 # the meters of each of the two lines; the last one rhymes
    "चौपाई": ("chaupai",),
    "दोहा": ("doha, odd", "doha, even"),
}
COUPLET = re.compile(r"#(?P<theme>\S+) (?P<form>\S+)\n(?P<first>[^।॥\n]+)।\n(?P<second>[^।॥\n]+)॥\n")

AGREEING = {"का", "रहा", "कितना"}                           # words of a skeleton that are inflected like adjectives
SUBJECT = {"noun", "adj", "det", "verb", "है", *AGREEING}   # what agrees with the noun
THING = {"quality", "done"}                               # what agrees with the object
AGREEMENTS = list(product("mf", ("sg", "pl")))


def spell_out(skeleton: str, theme: lexicon.Theme) -> Iterator[tuple[tuple[str, ...], ...]]:
    """Every pattern of a skeleton in a theme: tuples of slots, each a tuple of words that fit all the other slots."""
    tokens = skeleton.split()
    if "place" in tokens:
        for place in ("inside में", "upon पर"):
            yield from spell_out(skeleton.replace("place", place), theme)
        return
    if "object" in tokens:
        cast = [(theme.doers, act) for act in theme.acts]
    else:
        cast = [(group, None) for group in [*theme.groups, theme.doers]]
    subjects, things = (AGREEMENTS if agreeing & {*tokens} else [None] for agreeing in (SUBJECT, THING))
    for (group, act), subject, thing in product(cast, subjects, things):
        slots = tuple(_slot(token, group, act, subject, thing) for token in tokens)
        if all(slots):
            yield slots


@cache
def _slot(token, group, act, subject, thing):
    """The words that a token may become; subject and thing are the (gender, number) that it has to agree with."""
    verbs = (act or group).verbs
    match token:
        case "noun":
            words = [decline(n, number) for n in group.nouns for number in numbers(n) if (gender(n), number) == subject]
        case "object":
            words = [decline(n, number) for n in act.objects for number in numbers(n)
                     if thing in (None, (gender(n), number))]
        case "adj":
            words = [agree(a, *subject) for a in group.adjectives]
        case "quality":
            words = [agree(a, *thing) for a in act.adjectives]
        case "det":
            words = [agree(d, *subject) for d in lexicon.DETERMINERS[subject[1]]]
        case "verb":
            words = [conjugate(v, "habitual", *subject) for v in verbs]
            words += [conjugate(v, "past", *subject) for v in verbs if v not in lexicon.TRANSITIVE - lexicon.NEVER_NE]
        case "done":
            words = [conjugate(v, "past", *thing) for v in verbs if v not in lexicon.NEVER_NE]
        case "agent":
            words = [decline(n, number, oblique=True) for n in group.nouns for number in numbers(n)]
        case "stem":
            words = verbs
        case "let":
            words = [let_us(v) for v in verbs]
        case "inside" | "upon" | "spot":
            words = [decline(n, number, oblique=True) for n in group.places for number in numbers(n)
                     if token == "spot" or (n in lexicon.UPON) == (token == "upon")]
        case "time":
            words = group.times
        case "manner":
            words = group.manners
        case "है":
            words = ["है" if subject[1] == "sg" else "हैं"]
        case _:
            words = [agree(token, *subject) if token in AGREEING else token]
    return tuple(dict.fromkeys(words))


# the distribution ---------------------------------------------------------------------------------------------------
class Pada:
    """All padas of one theme and meter, and how much they weigh."""

    def __init__(self, theme: lexicon.Theme, meter: Meter) -> None:
        self.length = meter.length
        self.patterns = {}                                # slots -> what each filling weighs; only live patterns stay
        for skeleton in meter.skeletons:
            found = list(spell_out(skeleton, theme))
            fillings = sum(math.prod(map(len, slots)) for slots in found)
            for slots in found:
                self.patterns[slots] = self.patterns.get(slots, 0) + fillings ** -0.5                      # [V1]

        # a trie of the patterns without their last slots: node 0 is the empty prefix
        self._parent: list = [None]
        self._children, self._counts = [{}], [[1] + [0] * self.length]
        self._ends = {}                                   # node -> [(last slot, weight)]
        ways = {}                                         # last word -> [(its terms in [V4], node)]
        for slots, weight in list(self.patterns.items()):
            node = 0
            for slot in slots[:-1]:
                node = self._children[node].get(slot) or self._grow(node, slot)
            counts = [(word, self._count(node, word, self.length)) for word in slots[-1] if meter.ends(word)]
            live = [(word, count) for word, count in counts if count]
            if not live:
                del self.patterns[slots]
                continue
            self._ends.setdefault(node, []).append((frozenset(word for word, _ in live), weight))
            for word, count in live:
                ways.setdefault(word, []).append((weight * count, node))
        self.mass = {word: sum(mass for mass, _ in terms) for word, terms in ways.items()}                 # [V4]
        self._nodes = {word: _table(terms) for word, terms in ways.items()}
        self._steps = {}                                  # (node, matras left for it) -> table, see _step

    def _grow(self, node, slot):
        """Add the prefix that is one slot longer."""
        before, counts = self._counts[node], [0] * (self.length + 1)
        for n, words in _lengths(slot).items():
            for m in range(n, self.length + 1):
                counts[m] += words * before[m - n]                                                         # [V3]
        self._children[node][slot] = child = len(self._parent)
        self._parent.append((node, slot))
        self._children.append({})
        self._counts.append(counts)
        return child

    def _count(self, node, word, m):
        """In how many ways can a prefix be filled, so that it and the word after it have m matras?"""
        return self._counts[node][m - length(word)] if length(word) <= m else 0

    def weight(self, words: Sequence[str]) -> float:
        """F of [V7]: the weights of all derivations of this pada; 0 for what is none."""
        alive = [0]
        for word in words[:-1]:
            alive = [child for node in alive for slot, child in self._children[node].items() if word in slot]
        total = sum(weight for node in alive for slot, weight in self._ends.get(node, ()) if words[-1] in slot)
        return total if total and sum(map(length, words)) == self.length else 0.0

    def sample(self, last: str, rng: random.Random) -> str:
        """A pada that ends with the given word, drawn from back to front."""                              # [V6]
        words, state = [last], (_draw(self._nodes[last], rng), self.length - length(last))
        while state[0]:
            word, state = _draw(self._steps.get(state) or self._step(*state), rng)
            words.append(word)
        return " ".join(reversed(words))

    def _step(self, node, m):
        """The table of (last word, state before it) of a prefix that has m matras; made when first needed, and kept."""
        parent, slot = self._parent[node]
        terms = [(self._count(parent, word, m), (word, (parent, m - length(word)))) for word in slot]
        table = self._steps[node, m] = _table([term for term in terms if term[0]])
        return table


@cache
def _lengths(slot):
    return Counter(map(length, slot))


def _table(terms):
    """(weight, choice) pairs as the running sums of the weights, and the choices."""
    return list(accumulate(weight for weight, _ in terms)), [choice for _, choice in terms]


def _draw(table, rng):
    sums, choices = table
    return choices[bisect(sums, rng.random() * sums[-1])]


class Poem(NamedTuple):
    """One theme in one form: all that is needed to draw from it."""

    opening: list                                         # the Padas of a line before the one that rhymes
    closing: Pada
    lasts: list                                           # for each opening Pada a table of its last words
    rhymes: tuple                                         # a table of the pairs (a, b) of [V5]
    log_z: float


class Grammar:
    """A distribution over couplets that can be sampled, and whose probabilities are known."""

    def __init__(self, world: Mapping[str, lexicon.Theme] = WORLD, meters: Mapping[str, Meter] = METERS) -> None:
        self.poems = {}
        for theme, form in product(world, FORMS):
            *opening, closing = (Pada(world[theme], meters[name]) for name in FORMS[form])
            classes = {}
            for word in closing.mass:
                classes.setdefault(rhyme(word), []).append(word)
            pairs = [(closing.mass[a] * closing.mass[b], (a, b))
                     for words in classes.values() for a in words for b in words if a != b]
            if pairs and all(pada.mass for pada in opening):
                lasts = [_table([(mass, word) for word, mass in pada.mass.items()]) for pada in opening]
                rhymes = _table(pairs)
                z = rhymes[0][-1] * math.prod(sums[-1] ** 2 for sums, _ in lasts)                          # [V5]
                self.poems[theme, form] = Poem(opening, closing, lasts, rhymes, math.log(z))
        self._choices = list(self.poems.items())

    def sample(self, rng: random.Random) -> str:
        """One couplet. rng is a random.Random, or anything whose random() is uniform on [0, 1)."""
        (theme, form), poem = self._choices[int(rng.random() * len(self._choices))]
        lines = []
        for last in _draw(poem.rhymes, rng):
            halves = [pada.sample(_draw(lasts, rng), rng) for pada, lasts in zip(poem.opening, poem.lasts)]
            lines.append(", ".join([*halves, poem.closing.sample(last, rng)]))
        return f"#{theme} {form}\n{lines[0]}।\n{lines[1]}॥\n"

    def logprob(self, text: str) -> float:
        """ln P(text), summed over all derivations of the text; -inf for what the grammar cannot write."""  # [V7]
        match = COUPLET.fullmatch(text)
        poem = self.poems.get((match["theme"], match["form"])) if match else None
        if not match or not poem:
            return -math.inf
        padas = [*poem.opening, poem.closing]
        lines = [[half.split(" ") for half in line.split(", ")] for line in match.group("first", "second")]
        if any(len(line) != len(padas) for line in lines):
            return -math.inf
        weights = [pada.weight(half) for line in lines for pada, half in zip(padas, line)]
        a, b = (line[-1][-1] for line in lines)
        if not all(weights) or a == b or rhyme(a) != rhyme(b):
            return -math.inf
        return sum(map(math.log, weights)) - poem.log_z - math.log(len(self.poems))


# the corpus ---------------------------------------------------------------------------------------------------------
@cache
def grammar() -> Grammar:
    """The default grammar, built when it is first asked for."""
    return Grammar()


def corpus(n: int, seed: int) -> list[str]:
    """n couplets, the same for the same seed; joined they are a training stream."""
    rng = random.Random(seed)
    return [grammar().sample(rng) for _ in range(n)]


def logprob(couplet: str) -> float:
    """ln P(couplet) under the default grammar, in nats."""
    return grammar().logprob(couplet)


def entropy(n: int = 20_000, seed: int = 0) -> tuple[float, float]:
    """The mean of -ln P over n couplets, in nats, and its standard error: what no model can beat."""
    surprise = [-logprob(couplet) for couplet in corpus(n, seed)]
    return statistics.fmean(surprise), statistics.stdev(surprise) / n ** 0.5


def main() -> int:
    parser = argparse.ArgumentParser(description="couplets with their matras and bits, and the grammar in numbers")
    parser.add_argument("--n", type=int, default=5, help="couplets to show [5]")
    parser.add_argument("--seed", type=int, default=0, help="other couplets [0]")
    args = parser.parse_args()
    return exit_status(lambda: show(args.n, args.seed))


def show(n: int, seed: int) -> None:
    bit = math.log(2)
    for couplet in corpus(n, seed):
        theme, *lines = couplet.splitlines()
        print(f"{theme}    {-logprob(couplet) / bit:.1f} bits")
        for line in lines:
            print(f"    {line}    {' + '.join(str(length(half)) for half in line.split(', '))}")
    sample = corpus(5000, seed)
    words = {word for couplet in sample for word in re.sub("[#,।॥]", " ", couplet).split()}
    aksharas = statistics.fmean(len(scan(couplet)) for couplet in sample)
    padas = [pada for poem in grammar().poems.values() for pada in [*poem.opening, poem.closing]]
    mean, error = (nats / bit for nats in entropy(len(sample), seed))
    print(f"\n{len(THEMES)} themes, {sum(len(meter.skeletons) for meter in METERS.values())} skeletons, "
          f"{sum(len(pada.patterns) for pada in padas):,} patterns; {len(words):,} words in {len(sample):,} couplets")
    print(f"{mean:.2f} +- {error:.2f} bits a couplet ({mean * bit:.3f} nats), {mean / aksharas:.3f} bits an akshara")


if __name__ == "__main__":
    sys.exit(main())
