"""Peers and measures made of counts: Kneser-Ney by hand and by definition, BLEU beside sacrebleu, copies."""
import itertools
from collections import Counter, defaultdict
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tok.hindi import aksharas
from train import kneser_ney, ngrams
from train.kneser_ney import ALPHABET, END, KneserNey

TEXTS = st.lists(st.text(st.sampled_from("कखग "), max_size=6), min_size=1, max_size=5)


def by_definition(texts, order):
    """A function p(unit, units before it) that follows [KN1] to [KN4] word for word, in fractions."""
    padded = [["$"] * (order - 1) + aksharas(text) + [END] for text in texts]
    counts = [Counter(tuple(text[i - n + 1:i + 1]) for text in padded for i in range(order - 1, len(text)))
              for n in range(1, order + 1)]
    k = [Counter(gram[1:] for gram in counts[n]) for n in range(1, order)] + [counts[-1]]
    of = [defaultdict(dict) for _ in k]
    for table, level in zip(k, of):
        for gram, times in table.items():
            level[gram[:-1]][gram[-1]] = times
    n1, n2 = ([sum(times == wanted for times in table.values()) for table in k] for wanted in (1, 2))
    discounts = [Fraction(a, a + 2 * b) if a else Fraction(1, 2) for a, b in zip(n1, n2)]

    def p(unit, before):
        value = Fraction(1, (ALPHABET + 1) ** (len(unit) + 1))
        for n, (level, d) in enumerate(zip(of, discounts)):
            followers = level.get(tuple(before[len(before) - n:]))
            if followers:
                value = (max(followers.get(unit, 0) - d, 0) + d * len(followers) * value) / sum(followers.values())
        return value
    return p


def test_kneser_ney_by_hand(monkeypatch):
    """The example of its docstring."""
    monkeypatch.setattr(kneser_ney, "ALPHABET", 3)
    model = KneserNey(["कखक"], order=2)
    found = dict(zip(["क|$", "ख|क", ".|ख"], model.probabilities(["कख"])))
    assert found["ख|क"] == pytest.approx(19 / 128)
    p_a, p_end = (Fraction(2) - Fraction(1, 2) + Fraction(3, 32)) / 4, (Fraction(1, 2) + Fraction(3, 32)) / 4
    assert found["क|$"] == pytest.approx(float(p_a)) and found[".|ख"] == pytest.approx(float(p_end))


@given(TEXTS, TEXTS, st.integers(1, 5))
def test_kneser_ney_is_its_definition(training, texts, order):
    """On texts with aksharas that training has not, too."""
    texts = [*texts, "गा"]
    p, found = by_definition(training, order), iter(KneserNey(training, order).probabilities(texts))
    for text in texts:
        before = ["$"] * (order - 1)
        for unit in [*aksharas(text), END]:
            assert next(found) == pytest.approx(float(p(unit, before)), rel=1e-12)
            before.append(unit)


def test_what_is_new_has_a_probability_where_nothing_stands_once():
    assert KneserNey(["क", "क"], 2).bits(["न"]) < 100


@given(TEXTS, st.text(st.sampled_from("कखगघ"), max_size=3), st.integers(1, 4))
def test_kneser_ney_sums_to_one(training, before, order):
    """Over all units that it has seen, and all others together, which get of [KN4] as much as this one does."""
    model = KneserNey(training, order)
    seen = {unit for text in training for unit in aksharas(text)}
    other = "ॐ"
    p = {unit: model.probabilities([before + unit])[-2] for unit in [*seen, other]}
    ends = model.probabilities([before])[-1]
    spelled = {unit: (ALPHABET + 1.0) ** -(len(unit) + 1) for unit in [*seen, other, END]}
    rest = p[other] / spelled[other] * (1 - sum(spelled[unit] for unit in [*seen, END]))
    assert sum(p[unit] for unit in seen) + ends + rest == pytest.approx(1)


def test_more_context_makes_verse_likelier():
    from train import verse
    texts = [*itertools.islice(verse.corpus(600, 0), 600)]
    bits = [KneserNey(texts[:500], order).bits(texts[500:]) for order in (1, 2, 5)]
    assert bits[0] > 1.3 * bits[1] > 1.5 * bits[2]
    assert kneser_ney.count_of(["भगवान् ॥", "क्या, हाँ।"]) == 6


# ------------------------------------------------------------------------------------------------------------- n-grams

def test_bleu_by_hand():
    """Of 5 words 5, of 4 pairs 3, of 3 triples 2 and of 2 quadruples 1 stand in the references; length is right."""
    text, refs = "a b c d e".split(), ["a b c d x".split(), "e z".split()]
    assert ngrams.bleu([text], [refs]) == pytest.approx((1 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    assert ngrams.bleu(["a a a a".split()], [["a b c d".split()]]) == pytest.approx(
        (1 / 4 * 1 / (2 * 3) * 1 / (4 * 2) * 1 / (8 * 1)) ** 0.25)                      # clipped, then smoothed
    assert ngrams.bleu([text[:4]], [[text * 2]]) == pytest.approx(2.718281828459045 ** (1 - 10 / 4))
    assert ngrams.bleu([[]], [refs]) == 0 and ngrams.bleu([text[:4]], [[["?"] * 9]]) == 0


LISTS = st.lists(st.sampled_from("abcd"), min_size=4, max_size=9)


@given(st.lists(st.tuples(LISTS, st.lists(LISTS, min_size=2, max_size=2)), min_size=1, max_size=4))
@example([(list("aaaa"), [list("bbbb")] * 2)])
def test_bleu_is_sacrebleus(cases):
    sacrebleu = pytest.importorskip("sacrebleu")
    texts, references = [text for text, _ in cases], [refs for _, refs in cases]
    theirs = sacrebleu.corpus_bleu([" ".join(text) for text in texts], [
        [" ".join(refs[k]) for refs in references] for k in range(2)], tokenize="none")
    assert 100 * ngrams.bleu(texts, references) == pytest.approx(theirs.score, rel=1e-9)


@given(st.lists(LISTS, min_size=2, max_size=6))
def test_self_bleu_is_bleu_against_all_others(texts):
    others = [texts[:k] + texts[k + 1:] for k in range(len(texts))]
    assert ngrams.self_bleu(texts) == pytest.approx(ngrams.bleu(texts, others))


def test_distinct():
    assert ngrams.distinct([list("aab"), list("ab")], 1) == 2 / 5
    assert ngrams.distinct([list("aab"), list("ab")], 2) == 2 / 3
    assert ngrams.words("राम, सीता।\nजय॥") == ["राम", ",", "सीता", "।", "जय", "॥"]


def test_copies():
    """A line is copied if one of the texts has it, in whatever spelling; words in a row may cross lines, not texts."""
    copies = ngrams.Copies(["गुणी राम वन को।\nचले गए॥", "फूल खिले॥"])
    assert copies.copied("गुनी, राम बन को।\nनहीं गए॥") == (1, 2)
    assert copies.longest("जब गुनी राम बन को चले तब") == 5
    assert copies.longest("चले गए फूल खिले") == 2 and copies.longest("राम") == copies.longest("नहीं") == 0
