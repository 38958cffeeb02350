import math
import random
import re
import statistics
from bisect import bisect
from collections import Counter
from functools import cache
from itertools import accumulate, product
from typing import NamedTuple

from tok.chhand import matras, pattern, tuk
from train.lexicon import (DETERMINERS, NEVER_NE, TRANSITIVE, UPON, WORLD, agree, conjugate, decline, gender,
                           let_us, numbers)

THEMES = tuple(WORLD)


class Meter(NamedTuple):
    """What a pada must be: its length in matras, how its last word may end, and the sentences that it is made of."""

    length: int
    ends: object                                          # last word -> bool
    skeletons: list


def _lines(text):
    return [line.strip() for line in text.strip().splitlines()]


METERS = {
    "chaupai": Meter(16, lambda word: len(feet(word)) > 1 and not feet(word).endswith("GL"), _lines("""
        adj noun place verb
        det adj noun verb
        time adj noun verb
        adj noun manner verb
        place adj noun verb
        noun place manner verb
        time noun place verb
        det noun place verb
        spot का adj noun verb
        spot का noun manner verb
        place verb adj noun
        place verb noun adj
        stem रहा है adj noun
        stem रहा है place noun
        spot का noun है adj
        spot का noun कितना adj
        कितना adj noun verb
        noun भी place verb
        noun quality object verb
        adj noun object verb
        noun place object verb
        time noun object verb
        noun manner object verb
        place noun object verb
        det noun object verb
        spot का noun object verb
        agent ने quality object done
        time agent ने object done
        आओ manner object let
        आओ place object let
        चलो time quality object let
        हम सब मिलकर object let
        """)),
    "doha, first half": Meter(13, lambda word: True, _lines("""
        adj noun verb
        noun place verb
        place noun verb
        det adj noun verb
        noun manner verb
        noun stem रहा है
        place stem रहा noun
        जब adj noun verb
        जब noun place verb
        जब भी noun verb
        spot का noun verb
        verb adj noun time
        ज्यों ही noun verb
        noun time verb
        noun object verb
        noun quality object verb
        time noun object verb
        agent ने object done
        जब noun object verb
        आओ manner object let
        चलो place object let
        """)),
    "doha, second half": Meter(11, lambda word: feet(word).endswith("GL"), _lines("""
        verb adj noun
        verb noun adj
        noun है adj
        verb place noun
        verb time noun
        verb manner noun
        noun verb time
        noun verb manner
        stem रहा है noun
        कितना adj noun
        spot का adj noun
        place verb noun
        det adj noun
        verb spot के पास
        noun verb object
        verb quality object
        आओ let object
        """)),
}
FORMS = {"chaupai": ("chaupai",), "doha": ("doha, first half", "doha, second half")}
TEXT = re.compile(r"#(?P<theme>\S+)\n(?P<first>[^।॥\n]+)।\n(?P<second>[^।॥\n]+)॥\n")

AGREEING = {"का", "रहा", "कितना"}
SUBJECT, OBJECT = {"noun", "adj", "det", "verb", "है", *AGREEING}, {"quality", "done"}


def spell_out(skeleton, theme):
    """Every way to fill a skeleton's slots in a theme: tuples of slots, each a tuple of words that fit all the others."""
    tokens = skeleton.split()
    if "place" in tokens:
        for place in ("inside में", "upon पर"):
            yield from spell_out(skeleton.replace("place", place), theme)
        return
    cast = [(theme.doers, act) for act in theme.acts] if "object" in tokens else [(group, None) for group in [*theme.groups, theme.doers]]
    agreements = list(product("mf", ("sg", "pl")))
    for (group, act), subject, thing in product(cast, agreements if SUBJECT & {*tokens} else [None], agreements if OBJECT & {*tokens} else [None]):
        slots = tuple(_slot(token, group, act, subject, thing, i + 1 == len(tokens)) for i, token in enumerate(tokens))
        if all(slots):
            yield slots


@cache
def _slot(token, group, act, subject, thing, last):
    """The words that a token of a skeleton stands for, once it is settled what agrees with what."""
    verbs = (act or group).verbs
    match token:
        case "noun":
            words = [decline(n, subject[1]) for n in group.nouns if gender(n) == subject[0] and subject[1] in numbers(n)]
        case "object":
            words = [decline(n, number) for n in act.objects for number in numbers(n)
                     if thing is None or thing == (gender(n), number)]
        case "adj":
            words = [agree(a, *subject) for a in group.adjectives]
        case "quality":
            words = [agree(a, *thing) for a in act.adjectives]
        case "det":
            words = [agree(d, *subject) for d in DETERMINERS[subject[1]]]
        case "verb":                                      # the future does not end a line: all futures rhyme, too cheaply
            words = [conjugate(v, tense, *subject) for v in verbs for tense in ("habitual", "past", "future")
                     if not (tense == "past" and v in TRANSITIVE - NEVER_NE or tense == "future" and last)]
        case "done":
            words = [conjugate(v, "past", *thing) for v in verbs if v not in NEVER_NE]
        case "agent":
            words = [decline(n, number, oblique=True) for n in group.nouns for number in numbers(n)]
        case "stem":
            words = verbs
        case "let":
            words = [let_us(v) for v in verbs]
        case "inside" | "upon" | "spot":
            words = [decline(n, number, oblique=True) for n in group.places for number in numbers(n)
                     if token == "spot" or (n in UPON) == (token == "upon")]
        case "time":
            words = group.times
        case "manner":
            words = group.manners
        case "है":
            words = ["है" if subject[1] == "sg" else "हैं"]
        case _:
            words = [agree(token, *subject) if token in AGREEING else token]
    return tuple(dict.fromkeys(words))


class Pada:
    """All padas of one theme and meter, and how many derivations each has."""

    def __init__(self, theme, meter):
        self.meter = meter
        self.patterns = {}                                # slots -> weight of each of its derivations       [V1]
        for skeleton in meter.skeletons:
            found = list(spell_out(skeleton, theme))
            fillings = sum(math.prod(map(len, slots)) for slots in found)
            for slots in found:
                self.patterns[slots] = self.patterns.get(slots, 0) + fillings ** -0.5

        # a trie of the patterns without their last slots; node 0 is the empty prefix
        self.parent, self.children = [None], [{}]
        self.counts = [[1] + [0] * meter.length]
        ends = []                                         # (node, last slot, weight)
        for slots, weight in self.patterns.items():
            node = 0
            for slot in slots[:-1]:
                node = self.children[node].get(slot) or self._grow(node, slot)
            ends.append((node, slots[-1], weight))

        self.ends = {}                                    # node -> [(last slot, weight)]
        ways = {}                                         # last word -> [(mass, node)]
        for node, slot, weight in ends:
            self.ends.setdefault(node, []).append((slot, weight))
            for word in slot:
                rest = meter.length - length(word)
                if rest >= 0 and self.counts[node][rest] and meter.ends(word):
                    ways.setdefault(word, []).append((weight * self.counts[node][rest], node))
        self.mass = {word: sum(mass for mass, _ in found) for word, found in ways.items()}           # [V4]
        self._nodes = {word: _table(found) for word, found in ways.items()}
        self._steps = {}

    def _grow(self, node, slot):
        """Add the prefix that has one slot more, with its counts."""                                # [V3]
        before, counts = self.counts[node], [0] * (self.meter.length + 1)
        for n, words in _lengths(slot).items():
            for total in range(n, len(counts)):
                counts[total] += words * before[total - n]
        self.children[node][slot] = child = len(self.parent)
        self.parent.append((node, slot))
        self.children.append({})
        self.counts.append(counts)
        return child

    def weight(self, words):
        """The weight of a text: of all its derivations together; 0 for what is no pada of this meter."""
        if words[-1] not in self.mass or sum(map(length, words)) != self.meter.length:
            return 0.0
        alive = [0]
        for word in words[:-1]:
            alive = [child for node in alive for slot, child in self.children[node].items() if word in slot]
        return sum(weight for node in alive for slot, weight in self.ends.get(node, ()) if words[-1] in slot)

    def sample(self, last, rng):
        """A pada that ends with the given word, from back to front."""                              # [V6]
        words, rest = [last], self.meter.length - length(last)
        node = _draw(self._nodes[last], rng)
        while node:
            table = self._steps.get((node, rest))
            if table is None:
                parent, slot = self.parent[node]
                before = [(self.counts[parent][rest - length(word)] if length(word) <= rest else 0, word) for word in slot]
                table = self._steps[node, rest] = _table([(n, (word, parent, rest - length(word))) for n, word in before if n])
            word, node, rest = _draw(table, rng)
            words.append(word)
        return " ".join(reversed(words))


def _table(weighted):
    """Choices and their running sums, from (weight, choice) pairs."""
    return list(accumulate(weight for weight, _ in weighted)), [choice for _, choice in weighted]


def _draw(table, rng):
    sums, choices = table
    return choices[bisect(sums, rng.random() * sums[-1])]


class Grammar:
    """A distribution over couplets that can be sampled, and whose probabilities are known exactly."""

    def __init__(self, world=WORLD, meters=METERS):
        self.poems = {}                                   # (theme, form) -> its halves and its rhymes
        for theme, form in product(world, FORMS):
            *opening, closing = (Pada(world[theme], meters[name]) for name in FORMS[form])
            rhymes = {}
            for word in closing.mass:
                rhymes.setdefault(rhyme(word), []).append(word)
            pairs = [(closing.mass[a] * closing.mass[b], (a, b)) for words in rhymes.values() for a in words for b in words if a != b]
            if pairs:
                lasts = [_table([(mass, word) for word, mass in pada.mass.items()]) for pada in opening]
                z = sum(mass for mass, _ in pairs) * math.prod(sums[-1] ** 2 for sums, _ in lasts)   # [V5]
                self.poems[theme, form] = opening, closing, lasts, _table(pairs), math.log(z)
        self._choices = list(self.poems.items())

    def sample(self, rng):
        """One couplet; rng is a random.Random, or anything else whose random() is uniform on [0, 1)."""
        (theme, _), (opening, closing, lasts, pairs, _) = self._choices[int(rng.random() * len(self._choices))]
        lines = []
        for last in _draw(pairs, rng):
            halves = [pada.sample(_draw(table, rng), rng) for pada, table in zip(opening, lasts)]
            lines.append(", ".join([*halves, closing.sample(last, rng)]))
        return f"#{theme}\n{lines[0]}।\n{lines[1]}॥\n"

    def logprob(self, text):
        """ln P(text), summed over all its derivations; -inf for a text that the grammar cannot write."""
        match = TEXT.fullmatch(text)
        if not match:
            return -math.inf
        lines = [line.split(", ") for line in match.group("first", "second")]
        form = next((form for form, halves in FORMS.items() if [len(line) for line in lines] == [len(halves)] * 2), None)
        if (match["theme"], form) not in self.poems:
            return -math.inf
        opening, closing, _, _, log_z = self.poems[match["theme"], form]
        words = [[half.split(" ") for half in line] for line in lines]
        a, b = (line[-1][-1] for line in words)
        if a == b or rhyme(a) != rhyme(b):
            return -math.inf
        weights = [pada.weight(half) for line in words for pada, half in zip([*opening, closing], line)]
        return sum(map(math.log, weights)) - log_z - math.log(len(self.poems)) if all(weights) else -math.inf


@cache
def _lengths(slot):
    """How many words of the slot have which length."""
    return Counter(map(length, slot))


@cache
def length(word):
    """The word's matras under S0."""
    (total,) = matras(word)
    return total


feet, rhyme = cache(pattern), cache(tuk)                  # of a word: "GL" for चाँद, "आँद"


@cache
def grammar():
    """The default grammar, built once when first asked for."""
    return Grammar()


def corpus(n, seed):
    """n couplets, each a text that ends itself; joined they are the training stream. Same seed, same couplets."""
    rng, g = random.Random(seed), grammar()
    return [g.sample(rng) for _ in range(n)]


def logprob(couplet):
    """ln P(couplet) under the default grammar, in nats."""
    return grammar().logprob(couplet)


def entropy(n=20_000, seed=0):
    """The mean of -ln P over n couplets, and its standard error: what no model can beat on average."""
    surprise = [-logprob(text) for text in corpus(n, seed)]
    return statistics.fmean(surprise), statistics.stdev(surprise) / n ** 0.5
