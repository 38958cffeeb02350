"""Is every couplet in meter, in rhyme and in agreement, and is its probability the one it was drawn with?

The proof is a small grammar, made by the same code, of which the test writes out every derivation.
"""
import math
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from functools import cache
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bench.verse import kept
from bench.verse import main as bench
from tok.chhand import matras, pattern, rhymes
from train import lexicon, verse
from train.lexicon import WORLD, agree, conjugate, decline, let_us
from train.verse import METERS, THEMES, Grammar, Meter, corpus, entropy, grammar, logprob

COUPLETS = corpus(4000, seed=7)


def padas(couplet):
    """The halves of each line: [[16], [16]] or [[13, 11], [13, 11]] matras worth of text."""
    first, second = re.fullmatch(r"#\S+ \S+\n(.+)।\n(.+)॥\n", couplet).groups()
    return [line.split(", ") for line in (first, second)]


def poem_of(couplet):
    """What the first line names: (theme, form)."""
    return tuple(couplet[1:couplet.index("\n")].split())


# meter, rhyme, agreement ----------------------------------------------------------------------------------------------
def test_every_pada_is_in_meter():
    forms = Counter(str([[matras(half) for half in line] for line in padas(couplet)]) for couplet in COUPLETS)
    assert set(forms) == {"[[{16}], [{16}]]", "[[{13}, {11}], [{13}, {11}]]"} and min(forms.values()) > 1800


def test_lines_rhyme_on_different_words_and_end_as_their_meter_does():
    for couplet in COUPLETS:
        (*half, a), (_, b) = [["", *line][-2:] for line in padas(couplet)]
        assert rhymes(a, b) and a.split()[-1] != b.split()[-1], couplet
        assert all(pattern(end).endswith("GL") == (half != [""]) for end in (a, b)), couplet


def test_forms_of_nouns():
    for noun, forms in {
        "तारा": "तारा तारे तारे तारों", "कछुआ": "कछुआ कछुए कछुए कछुओं", "मोर": "मोर मोर मोर मोरों",
        "साथी": "साथी साथी साथी साथियों",
        "मुनि": "मुनि मुनि मुनि मुनियों", "गुरु": "गुरु गुरु गुरु गुरुओं", "सखा": "सखा सखा सखा सखाओं",
        "लड्डू": "लड्डू लड्डू लड्डू लड्डुओं", "पहिया": "पहिया पहिये पहिये पहियों", "नदी": "नदी नदी नदियाँ नदियों",
        "चिड़िया": "चिड़िया चिड़िया चिड़ियाँ चिड़ियों", "लता": "लता लता लताएँ लताओं",
        "किताब": "किताब किताब किताबें किताबों", "मिठाई": "मिठाई मिठाई मिठाइयाँ मिठाइयों",
    }.items():
        assert [decline(noun, n, oblique) for n in ("sg", "pl") for oblique in (False, True)] == forms.split()


def test_forms_of_adjectives_and_verbs():
    slots = [(g, n) for g in "mf" for n in ("sg", "pl")]
    for adjective, forms in {
        "मीठा": "मीठा मीठे मीठी मीठी", "नया": "नया नए नई नई", "का": "का के की की", "रहा": "रहा रहे रही रही",
        "सुंदर": "सुंदर सुंदर सुंदर सुंदर", "बढ़िया": "बढ़िया बढ़िया बढ़िया बढ़िया",
    }.items():
        assert [agree(adjective, *slot) for slot in slots] == forms.split()
    for stem, tense, forms in [
        ("चल", "habitual", "चलता चलते चलती चलतीं"), ("चल", "past", "चला चले चली चलीं"),
        ("चल", "future", "चलेगा चलेंगे चलेगी चलेंगी"), ("आ", "past", "आया आए आई आईं"), ("आ", "future", "आएगा आएँगे आएगी आएँगी"),
        ("सो", "past", "सोया सोए सोई सोईं"),
        ("जा", "past", "गया गए गई गईं"), ("दे", "past", "दिया दिए दी दीं"), ("दे", "future", "देगा देंगे देगी देंगी"),
        ("पी", "past", "पिया पिए पी पीं"), ("पी", "future", "पिएगा पिएँगे पिएगी पिएँगी"),
    ]:
        assert [conjugate(stem, tense, *slot) for slot in slots] == forms.split()
    assert [let_us(stem) for stem in ("चल", "गा", "दे", "पी", "ला")] == ["चलें", "गाएँ", "दें", "पिएँ", "लाएँ"]


@pytest.mark.parametrize("theme, good, bad", [
    ("वर्षा", "काले बादल नभ में छाए", ["काला बादल नभ में छाए", "काले बादल नभ में छाई", "काले बादल नभ पर छाए"]),
    ("प्रकृति", "सखियों ने मीठा गीत सुना",
     ["सखियों ने मीठी गीत सुना", "सखियाँ ने मीठा गीत सुना", "सखियों ने मीठा गीत सुनी"]),
    ("प्रकृति", "बालिका सुंदर फूल लाई", ["सखी ने सुंदर फूल लाए", "बालिका ने सुंदर फूल लाई"]),
    ("प्रकृति", "सखियों ने सुंदर फूल चुना", ["सखियों ने मधुर फूल चुना", "सखियों ने नया फूल चुना"]),    # sense; meter
    ("प्रकृति", "वन में आई चंचल मैना", ["वन में आया सुंदर चकोर"]),                 # the end of a pada of a chaupai
    ("वसंत", "बालक ने कोमल फूल चुने", ["बालक ने कोमल फूल चुनी", "बालक भी कोमल फूल चुने"]),
    ("भोर", "ग्वालिन कोमल फूल चढ़ाती", ["ग्वालिन कोमल फूल चढ़ाता", "ग्वालिन कोमल दूध चढ़ाती"]),
    ("उत्सव", "आओ घर में दीप सजाएँ", ["आओ घर में दीप सजाते", "आओ घर पर दीप सजाएँ"]),
    ("रात", "जाग रही है भोली दादी", ["जाग रहा है भोली दादी", "जाग रही हैं भोली दादी"]),
])
def test_agreement(theme, good, bad):
    _, closing, *_ = grammar().poems[theme, "चौपाई"]
    assert closing.weight(good.split()) > 0
    for line in bad:
        assert closing.weight(line.split()) == 0, line


# probability ----------------------------------------------------------------------------------------------------------
TINY_WORLD = {                                            # मोर stands in two groups, so it comes in two ways
    "वन": lexicon.theme("", """
        मोर हंस | नया | गा आ खो | वन
        मोर चोर | नया भोला | आ सो | वन तट

        मुनि | भोला | सो | वन

        फल | नया | ला खा
        """),
    "नदी": lexicon.theme("कल", """
        नाव धार | नया | आ जा | जल

        वीर धीर | भोला | सो खो | जल

        नीर | नया | पी ला
        """),
}
TINY_METERS = {
    "chaupai": Meter(11, lambda word: len(word) > 1, ["noun place verb", "adj noun verb", "spot का noun verb",
                                                      "noun quality object verb", "agent ने quality object done",
                                                      "time time noun verb"]),
    "doha, odd": Meter(7, lambda word: True, ["spot की ओर", "spot भी पास"]),
    "doha, even": Meter(7, lambda word: word[-1] == "र", ["verb noun", "verb object", "place noun"]),
}


@pytest.fixture(scope="module")
def tiny():
    """The tiny grammar, and for each of its texts the probabilities of all derivations, written out one by one."""
    rhyming = cache(lambda a, b: a != b and rhymes(a, b))
    texts, forms = defaultdict(list), list(product(TINY_WORLD, verse.FORMS))
    for theme, form in forms:
        made = []                                         # for each pada of a line its derivations: (text, weight)
        for meter in (TINY_METERS[name] for name in verse.FORMS[form]):
            derivations = Counter()
            for skeleton in meter.skeletons:
                fillings = [(" ".join(words), slots) for slots in verse.spell_out(skeleton, TINY_WORLD[theme])
                            for words in product(*slots)]
                for text, slots in fillings:
                    if matras(text) == {meter.length} and meter.ends(text.split()[-1]):
                        derivations[text, slots] += len(fillings) ** -0.5
            made.append([(text, weight) for (text, _), weight in derivations.items()])
        lines = [(", ".join(text for text, _ in halves), halves[-1][0].split()[-1], math.prod(w for _, w in halves))
                 for halves in product(*made)]
        found = [(f"#{theme} {form}\n{a}।\n{b}॥\n", u * v)
                 for (a, x, u), (b, y, v) in product(lines, lines) if rhyming(x, y)]
        z = math.fsum(weight for _, weight in found)
        for text, weight in found:
            texts[text].append(weight / z / len(forms))
    return Grammar(TINY_WORLD, TINY_METERS), texts


def test_tiny_grammar_has_what_the_proof_needs(tiny):
    _, texts = tiny
    assert len(texts) > 1000 and {len(weights) for weights in texts.values()} >= {1, 2, 4}
    assert len({text.split("\n")[0] for text in texts}) == 4


def test_probabilities_sum_to_one_and_each_is_the_sum_over_its_derivations(tiny):
    g, texts = tiny
    found = {text: g.logprob(text) for text in texts}
    assert abs(math.fsum(map(math.exp, found.values())) - 1) < 1e-12
    for text, weights in texts.items():
        assert abs(found[text] - math.log(math.fsum(weights))) < 1e-12, text


def test_samples_have_these_frequencies(tiny):
    g, texts = tiny
    n, rng = 40_000, random.Random(1)
    drawn = Counter(g.sample(rng) for _ in range(n))
    assert set(drawn) <= set(texts)
    order = sorted(texts, key=lambda text: sum(texts[text]))
    bins = np.array_split(np.array(order), 300)           # enough expected draws in each for the chi-square law
    expected = np.array([n * sum(sum(texts[text]) for text in b) for b in bins])
    observed = np.array([sum(drawn[text] for text in b) for b in bins])
    chi2 = ((observed - expected) ** 2 / expected).sum()
    assert expected.min() > 5 and abs(chi2 - 299) < 4 * math.sqrt(2 * 299)


def test_tiny_entropy_is_that_of_the_text_and_not_of_the_derivation(tiny):
    g, texts = tiny
    of_text = -sum(sum(ws) * math.log(sum(ws)) for ws in texts.values())
    of_derivation = -sum(w * math.log(w) for ws in texts.values() for w in ws)
    rng = random.Random(2)
    surprise = [-g.logprob(g.sample(rng)) for _ in range(20_000)]
    assert of_text < of_derivation - 0.05
    assert abs(np.mean(surprise) - of_text) < 4 * np.std(surprise) / len(surprise) ** 0.5


def derivation_entropy(g):
    """The exact entropy of a derivation: ln Z - E[ln w], by counting each pattern's fillings anew."""
    lengths = cache(lambda slot: Counter(matras(word).pop() for word in slot).items())

    def terms(pada):                                      # last word -> [(pattern weight, number of fillings)]
        found = defaultdict(list)
        for slots, weight in pada.patterns.items():
            ways = {0: 1}
            for slot in slots[:-1]:
                longer = defaultdict(int)
                for (m, n), (k, c) in product(ways.items(), lengths(slot)):
                    longer[m + k] += n * c
                ways = longer
            for word in slots[-1]:
                if n := ways.get(pada.length - verse.length(word)):
                    found[word].append((weight, n))
        return found

    def expected(found, chance):                          # E[ln u] when the last word has the given chances
        return sum(chance[word] * sum(w * n * math.log(w) for w, n in t) / sum(w * n for w, n in t)
                   for word, t in found.items() if word in chance)

    def normal(masses):
        total = sum(masses.values())
        return {word: mass / total for word, mass in masses.items()}

    total = math.log(len(g.poems))
    for opening, closing, _, _, log_z in g.poems.values():
        found = {word: t for word, t in terms(closing).items() if word in closing.mass}
        mass = {word: sum(w * n for w, n in t) for word, t in found.items()}
        classes = defaultdict(float)
        for word in mass:
            classes[verse.rhyme(word)] += mass[word]
        ends = normal({word: mass[word] * (classes[verse.rhyme(word)] - mass[word]) for word in mass})
        mean = 2 * expected(found, ends)
        for pada in opening:
            found = terms(pada)
            mean += 2 * expected(found, normal({word: sum(w * n for w, n in t) for word, t in found.items()}))
        total += (log_z - mean) / len(g.poems)
    return total


def test_entropy_lies_just_below_that_of_the_derivation(tiny):
    g, texts = tiny
    exact = -sum(w * math.log(w) for ws in texts.values() for w in ws)
    assert abs(derivation_entropy(g) - exact) < 1e-9      # the bound is computed rightly
    mean, error = entropy(n=4000, seed=3)
    bound = derivation_entropy(grammar())
    assert bound - 1.0 < mean < bound + 4 * error
    assert 35 * math.log(2) < mean < 60 * math.log(2) and 0 < error < 0.3


def test_all_samples_have_a_probability():
    assert all(-50 < logprob(couplet) < -10 for couplet in COUPLETS[:2000])


def test_weight_of_a_pada_is_the_sum_over_matching_patterns():
    for couplet in COUPLETS[:40]:
        opening, closing, *_ = grammar().poems[poem_of(couplet)]
        for line in padas(couplet):
            for pada, half in zip([*opening, closing], line, strict=True):
                words = half.split()
                matching = [weight for slots, weight in pada.patterns.items()
                            if len(slots) == len(words) and all(map(lambda word, slot: word in slot, words, slots))]
                assert matching and math.isclose(pada.weight(words), sum(matching))


def test_what_the_grammar_cannot_write_has_probability_zero():
    couplet = next(c for c in COUPLETS if "," not in c)
    doha = next(c for c in COUPLETS if "," in c)
    ((first,), (second,)) = padas(couplet)
    for text in ["", "\n", "abc", couplet[:-1], couplet + "\n", couplet * 2, couplet.replace("#", ""),
                 couplet.replace("॥", "।"), couplet.replace(" ", "  "), couplet.replace(" ", ""),
                 couplet.replace("।", " ।"), couplet.replace("#", "#अ"), couplet.replace("चौपाई", "दोहा"),
                 couplet.replace("।", " hello।"), couplet.replace("#", "# "),
                 couplet.replace("।", ", ।"), doha.replace(",", ""), doha.replace(", ", ","),
                 couplet.replace(second, first), doha.replace(", ", ", , "), re.sub(", .*", "", doha)]:
        assert logprob(text) == -math.inf, text


def test_one_wrong_word_makes_a_couplet_impossible():
    words = sorted({word for couplet in COUPLETS for line in padas(couplet) for half in line for word in half.split()})
    rng = random.Random(4)
    changed = Counter()
    for couplet in COUPLETS[:600]:
        spans = [m.span() for m in re.finditer(r"[^\s#,।॥]+", couplet)][2:]
        start, end = rng.choice(spans)
        other = rng.choice(words)
        text = couplet[:start] + other + couplet[end:]
        a, b = (line[-1].split()[-1] for line in padas(text))
        if matras(other) != matras(couplet[start:end]):
            changed["meter"] += 1
            assert logprob(text) == -math.inf
        elif a == b or not rhymes(a, b):
            changed["rhyme"] += 1
            assert logprob(text) == -math.inf
    assert changed["meter"] > 200 and changed["rhyme"] > 10
    for couplet in COUPLETS:                              # -ती scans and rhymes as -ता does: only agreement breaks
        if couplet.count("ता।") == couplet.count("ता॥") == 1 and "," not in couplet:
            changed["agreement"] += 1
            assert logprob(couplet.replace("ता।", "ती।").replace("ता॥", "ती॥")) == -math.inf, couplet
    assert changed["agreement"] > 100


# the corpus -----------------------------------------------------------------------------------------------------------
def test_words_themes_and_patterns_are_many():
    assert len(THEMES) == 10 == len(set(THEMES))
    words = {theme: set() for theme in THEMES}
    for couplet in COUPLETS:
        words[poem_of(couplet)[0]] |= {word for line in padas(couplet) for half in line for word in half.split()}
    assert len(set().union(*words.values())) > 1000
    for theme in THEMES:
        others = set().union(*(words[other] for other in THEMES if other != theme))
        assert len(words[theme] - others) > 20, theme
    live = [pada.patterns for poem in grammar().poems.values() for pada in [*poem.opening, poem.closing]]
    assert sum(map(len, live)) > 3000 and sum(len(meter.skeletons) for meter in METERS.values()) > 40
    assert len({slots for patterns in live for slots in patterns}) > 3000


def test_the_theme_says_what_the_couplet_is_about():
    """The other nine themes rarely could have written it, so a model that reads the tag knows much."""
    possible = [sum(logprob(f"#{theme}" + couplet[couplet.index(" "):]) > -math.inf for theme in THEMES)
                for couplet in COUPLETS[:300]]
    assert min(possible) == 1 and np.mean(possible) < 1.5


def test_lexicon_is_ordered_and_complete():
    text = Path(lexicon.__file__).read_text(encoding="utf-8")
    assert "\u0958" not in text and "\u095c" not in text  # nuktas are written apart, as NFC has them
    nouns, verbs = set(), set()
    for theme in WORLD.values():
        for group in [*theme.groups, theme.doers]:
            assert all(group), group
            nouns |= {*group.nouns, *group.places}
            verbs |= {*group.verbs}
        for act in theme.acts:
            assert all(act), act
            nouns |= {*act.objects}
            verbs |= {*act.verbs}
            assert {*act.verbs} <= lexicon.TRANSITIVE
    assert lexicon.FEMININE | lexicon.SINGULAR | lexicon.PLURAL_ONLY | lexicon.UNCHANGING | lexicon.UPON <= nouns
    assert lexicon.TRANSITIVE | set(lexicon.PAST) <= verbs


def test_corpus_is_fixed_by_its_seed_in_every_process():
    assert corpus(50, 5) == corpus(50, 5) != corpus(50, 6)
    assert corpus(50, 5) == corpus(80, 5)[:50]
    script = "import sys; from train.verse import corpus; sys.stdout.buffer.write(''.join(corpus(50, 5)).encode())"
    env = {**os.environ, "PYTHONHASHSEED": "1"}
    root = Path(__file__).parents[1]
    out = subprocess.run([sys.executable, "-c", script], cwd=root, env=env, capture_output=True, check=True)
    assert out.stdout.decode() == "".join(corpus(50, 5))


def test_any_uniform_source_will_do():
    assert logprob(grammar().sample(np.random.default_rng(0))) > -math.inf


def test_stream_falls_apart_into_its_couplets():
    assert re.findall("[^॥]*॥\n", "".join(COUPLETS)) == COUPLETS


def test_training_and_validation_share_hardly_a_couplet():
    a, b = corpus(20_000, 1), set(corpus(20_000, 2))
    assert sum(couplet in b for couplet in a) / len(a) < 0.001


def test_it_is_fast():
    """Not a benchmark: a machine several times slower than the one it was measured on still passes."""
    began = time.process_time()
    Grammar()
    built = time.process_time()
    corpus(20_000, 9)
    drawn = time.process_time()
    for couplet in COUPLETS[:1000]:
        logprob(couplet)
    assert built - began < 4 and drawn - built < 5 and time.process_time() - drawn < 4


def test_command_line(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["verse", "--n", "3", "--seed", "2"])
    verse.main()
    out = capsys.readouterr().out
    assert all(line in out for couplet in corpus(3, 2) for line in couplet.splitlines())
    assert "10 themes" in out and "bits a couplet" in out and ("    13 + 11" in out or "    16" in out)


@pytest.mark.parametrize("half, keeps", [
    (None, (True, True, True)),
    ("विभोर सहेली झूमी", (True, True, False)),                 # 13 matras, in agreement, of another theme
    ("सखी झूमी", (False, True, False)),
    ("अब सखाों ने फाग गाया", (False, False, False)),            # no scansion has आ and ओ at once
])
def test_couplets_are_judged_by_each_rule(half, keeps):
    doha = next(couplet for couplet in COUPLETS if couplet.startswith("#वर्षा दोहा"))
    opening = doha.split("\n")[1].split(", ")[0]
    assert kept(doha.replace(opening, half or opening)) == keeps


def test_what_is_no_couplet_keeps_nothing_and_a_word_rhymes_with_others_only():
    theme, first, second, _ = COUPLETS[0].split("\n")
    for wrong in (f"{theme}x\n{first}\n{second}\n", f"{theme}\n{first}\n", "#\n", "", f"{theme}\n ।\n ॥\n",
                  "#वर्षा दोहा\nराम, ।\nराम, ॥\n"):
        assert kept(wrong) == (False, False, False)
    assert kept(f"{theme}\n{first}\n{first[:-1]}॥\n") == (True, False, False)


def test_a_run_is_told_what_share_of_its_couplets_keeps_each_rule(monkeypatch, capsys):
    half = [couplet.strip() for couplet in COUPLETS[:2]] + ["no couplet"] * 2
    model = SimpleNamespace(write=lambda n, **how: half[:n])
    monkeypatch.setattr("bench.verse.GPT2.from_pretrained", lambda run: model)
    bench("runs/verse --n 4".split())
    assert capsys.readouterr().out.count(" 50.0% ± 25.0%\n") == 3


def test_the_grammar_can_write_the_couplets_of_its_docstring():
    rows = [re.split(r" {3,}", line.strip()) for line in verse.__doc__.splitlines()[4:7]]
    for header, first, second in zip(*rows, strict=True):
        assert logprob(f"{header}\n{first}\n{second}\n") > -math.inf, header
