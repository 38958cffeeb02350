import math
import random
import re
from bisect import bisect
from functools import cache
from itertools import accumulate, product
from typing import NamedTuple

from tok.chhand import matras, pattern, scan, tuk
from train.lexicon import (DETERMINERS, DOER_MANNERS, MANNERS, NEVER_NE, TRANSITIVE, UPON, WORLD, agree, conjugate, decline, gender,
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
    "chaupai": Meter(16, lambda word: len(scan(word)) > 1 and not pattern(word).endswith("GL"), _lines("""
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
        agent ने place object done
        time agent ने object done
        place agent ने object done
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
        verb place adj noun
        verb adj noun time
        ज्यों ही noun verb
        noun time verb
        noun object verb
        noun quality object verb
        time noun object verb
        agent ने object done
        agent ने quality object done
        जब noun object verb
        आओ manner object let
        चलो place object let
        """)),
    "doha, second half": Meter(11, lambda word: pattern(word).endswith("GL"), _lines("""
        verb adj noun
        verb noun adj
        noun है adj
        verb place noun
        verb time noun
        verb manner noun
        noun verb time
        noun verb manner
        adj noun verb time
        stem रहा है noun
        कितना adj noun
        spot का adj noun
        place verb noun
        det adj noun
        noun verb spot के पास
        noun verb spot की ओर
        noun verb spot के पार
        noun verb object
        verb quality object
        noun verb quality object
        agent ने done object
        आओ let object
        आओ let quality object
        आओ manner let object
        time verb quality object
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
    agreements = list(product("mf", ("sg", "pl")))
    cast = [(theme.doers, act) for act in theme.acts] if "object" in tokens else [(group, None) for group in [*theme.groups, theme.doers]]
    for group, act in cast:
        for subject in agreements if SUBJECT & {*tokens} else [None]:
            for thing in agreements if OBJECT & {*tokens} else [None]:
                slots = tuple(_slot(token, theme, group, act, subject, thing, i + 1 == len(tokens)) for i, token in enumerate(tokens))
                if all(slots):
                    yield slots


def _slot(token, theme, group, act, subject, thing, last):
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
        case "verb":                                      # the future does not end a line: all futures rhyme too cheaply
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
            words = theme.times
        case "manner":
            words = DOER_MANNERS if group is theme.doers else MANNERS
        case "है":
            words = ["है" if subject[1] == "sg" else "हैं"]
        case _:
            words = [agree(token, *subject) if token in AGREEING else token]
    return tuple(dict.fromkeys(words))


class Pada:
    """All padas of one meter and theme: their number of derivations, summed by dynamic programming."""

    def __init__(self, theme, meter):
        self.length = meter.length
        self.patterns = {}                                # slots -> weight
        for skeleton in meter.skeletons:
            found = list(spell_out(skeleton, theme))
            fillings = sum(math.prod(map(len, slots)) for slots in found)
            for slots in found:
                self.patterns[slots] = self.patterns.get(slots, 0) + 1 / fillings
        self.children, self.ends, self.parent, self.counts = [{}], [{}], [(None, None)], [[1] + [0] * self.length]
        for slots, weight in self.patterns.items():
            node = 0
            for slot in slots[:-1]:
                if slot not in self.children[node]:
                    self.children[node][slot] = len(self.parent)
                    self._grow(node, slot)
                node = self.children[node][slot]
            self.ends[node][slots[-1]] = weight
        self.finals = {}                                  # last word -> [(weight, node)]
        for node, ends in enumerate(self.ends):
            for slot, weight in ends.items():
                for word in slot:
                    before = self.length - length(word)
                    if before >= 0 and self.counts[node][before] and meter.ends(word):
                        self.finals.setdefault(word, []).append((weight * self.counts[node][before], node))
        self.mass = {word: sum(w for w, _ in ways) for word, ways in self.finals.items()}
        self._ways = {word: (list(accumulate(w for w, _ in ways)), [n for _, n in ways]) for word, ways in self.finals.items()}
        self._steps = {}

    def _grow(self, parent, slot):
        counts, before = [0] * (self.length + 1), self.counts[parent]
        for word in slot:
            n = length(word)
            for total in range(n, self.length + 1):
                counts[total] += before[total - n]
        self.parent.append((parent, slot))
        self.children.append({})
        self.ends.append({})
        self.counts.append(counts)

    def weight(self, words):
        if words[-1] not in self.finals or sum(map(length, words)) != self.length:
            return 0.0
        alive = [0]
        for word in words[:-1]:
            alive = [child for node in alive for slot, child in self.children[node].items() if word in slot]
        return sum(w for node in alive for slot, w in self.ends[node].items() if words[-1] in slot)

    def sample(self, last, rng):
        words, rest = [last], self.length - length(last)
        cumulative, nodes = self._ways[last]
        node = nodes[bisect(cumulative, rng.random() * cumulative[-1])]
        while node:
            step = self._steps.get((node, rest)) or self._step(node, rest)
            cumulative, choices = step
            word, node, rest = choices[bisect(cumulative, rng.random() * cumulative[-1])]
            words.append(word)
        return " ".join(reversed(words))

    def _step(self, node, rest):
        parent, slot = self.parent[node]
        choices = [(word, parent, rest - length(word)) for word in slot if length(word) <= rest and self.counts[parent][rest - length(word)]]
        self._steps[node, rest] = step = list(accumulate(self.counts[parent][r] for _, _, r in choices)), choices
        return step


@cache
def length(word):
    (total,) = matras(word)
    return total


rhyme = cache(tuk)
