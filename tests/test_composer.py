"""Does what is written always scan, rhyme and end, whatever the vocabulary, and is nothing forbidden that could be?"""
import random
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_meter import VERSES

from tok import BPETokenizer, CharTokenizer, HindiTokenizer, WordPieceTokenizer, scansion
from tok.composer import ALPHABET, COMMAS, START_PLACE, Composer, Pen, Rhyme, Vocabulary, _without_rhyme
from tok.meter import FORMS, Form, Line, Part, divided, meter, named, rhyme
from train import verse

POEMS = [stanza for _, stanza, _ in VERSES]
SMALL = Form("small", "", ((Part((5, 4), ("GL", "LLL")), Part((4,), opens_freely=False)),), together=3)


@cache
def vocabulary(name):
    """Bytes alone, byte pairs few and many, pairs that reach across words and lines, characters, aksharas, too few."""
    text = "".join(verse.corpus(300, 0))
    if name == "aksharas":
        return Vocabulary(CharTokenizer.train([*POEMS, *ALPHABET], unit="akshara", special_tokens=["<|endoftext|>"]))
    if name == "characters":
        return Vocabulary(CharTokenizer.train(ALPHABET + "x", special_tokens=["<|endoftext|>"]))
    if name == "few":
        return Vocabulary(CharTokenizer.train("कतमराेि न्ं।॥\n"))
    if name == "across":
        merges = BPETokenizer.train(POEMS, 700).merges
        pairs = random.Random(0).choices(list(merges.values()), k=600)
        return Vocabulary(BPETokenizer([*merges, *dict.fromkeys(zip(pairs[::2], pairs[1::2]))]))
    return Vocabulary((HindiTokenizer if name != "bytes" else BPETokenizer).train(
        text, {"bytes": 257, "small": 320, "large": 1500}[name]))


NAMES = ("bytes", "small", "large", "across", "characters", "aksharas", "few")


@cache
def composer(name, form, rules="S2", rhymes=True, lines=None):
    return Composer(vocabulary(name), form, rules, lines, rhymes)


def written(composer, rng, progress):
    """Any token that is allowed, again and again."""
    for _ in range(5000):
        if composer.complete(progress):
            return progress
        ids = np.flatnonzero(composer.allowed(progress))
        assert len(ids), f"a dead end after {progress.text.decode()!r}"
        progress = composer.after(progress, int(ids[int(rng.random() * len(ids))]))
        assert progress is not None
    raise AssertionError("no end")


def check(composer, progress, given=0):
    """All lines behind those that were given are lines of the form that rhyme and that begin with no jagan."""
    form, rules, lines = composer.form, composer.rules, progress.lines
    for i, line in enumerate(lines):
        if i < given:
            continue
        machine = Line(form, rules, i % len(form.lines))
        assert machine.read(line), line
        parts = divided(form, i, line, rules)
        for part, (text, _) in zip(machine.parts, parts):
            word = scansion.words(text)[0]
            assert part.opens_freely or scansion.pattern(word) != "LGL", line
        first = i - i % composer.together
        if composer.pen(lines[:i]).rhyme.patterns:
            assert i > first and composer.rhymes
            ends = [divided(form, k, lines[k], rules)[form.rhyme][0] for k in (first, i)]
            assert Line(form, rules, i % len(form.lines), rhyme=ends[0]).read(line), lines
            assert rhyme(*ends) == "full" or len(machine.parts) > 1 and form.rhyme == 0, ends


@given(st.sampled_from(NAMES), st.sampled_from([SMALL, *map(named, "chaupai doha barvai totak manaharan".split())]),
       st.sampled_from(["S0", "S1", "S2", "S3"]), st.randoms(use_true_random=False), st.booleans())
def test_whatever_is_written_scans_and_ends(name, form, rules, rng, rhymes):
    if name == "few":
        form = SMALL                                       # its lines need few letters
    writer = composer(name, form, rules, rhymes)
    check(writer, written(writer, rng, writer.begin()))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name + " 12" * bool(form.licence))
def test_every_form_can_be_written(form):
    writer = Composer(vocabulary("small"), form)
    check(writer, written(writer, random.Random(0), writer.begin()))


def test_a_rhyme_is_of_the_kind_for_which_the_kernels_are_compiled():
    assert Rhyme("मन मेरा नाम").moves.flags.c_contiguous and Rhyme().moves.flags.c_contiguous


def test_a_verse_is_without_a_fault_for_its_reader():
    """Among invented words a line may find none that rhymes, and goes without: the one fault there is, and rare."""
    without = []
    for seed, form in enumerate(["chaupai", "doha", "sortha", "rola", "harigitika", "totak", "manaharan"] * 3, 200):
        writer = composer("large", named(form))
        text = written(writer, random.Random(seed), writer.begin()).text.decode()
        found = meter(text)
        assert all(" do not rhyme: " in fault for fault in found.faults), text
        assert found.form == form or found.faults, text
        without += [text] * bool(found.faults)
    assert len(without) <= 2, without


def test_from_every_place_there_is_a_way():
    """All places that tokens lead to, one by one: of none the search has been too hopeful."""
    for rhyming in (Rhyme(), Rhyme("मन मेरा नाम", ("नाम",))):
        pen = Pen(vocabulary("few"), SMALL, "S2", "।\n", "", rhyming)
        assert pen.hopeful()
        found, stack = {START_PLACE}, [START_PLACE]
        while stack:
            place = stack.pop()
            ids = np.flatnonzero(pen.allowed(place))
            assert len(ids) or place[1] == 0, place
            after = {pen.follow(place, pen.vocabulary.tokens[i]) for i in ids} - found
            assert None not in after
            found |= after
            stack += after
        assert len(found) > 500 and any(place[1] == 0 for place in found)


syllables = st.sampled_from("क का कि के कै न नहिं रं अ आ ओ कर क्त क्य न्ह".split() + [" "] * 3)


@given(st.lists(syllables, max_size=9).map("".join), st.sampled_from(["S0", "S1", "S2", "S3"]))
def test_what_the_reader_hopes_for_is_allowed(text, rules):
    """Token by token Line says whether a line may go on so: the same tokens are allowed."""
    form = Form("", "", ((Part((5, 4), ("GL", "LLL")), Part((4,))),))
    machine, writer = Line(form, rules), composer("characters", form, rules)
    try:
        progress = writer.begin(text)
    except ValueError:
        closed = text.rstrip()[-2:-1] == scansion.HALANT   # Line may hope for a word in क्त्, which is not written
        assert closed or machine.feed(machine.start, " ".join(text.split())) is None
        return
    text = progress.text.decode()
    state, ok = machine.feed(machine.start, text), writer.allowed(progress)
    assert state
    for char, i in zip(writer.vocabulary.tokens, range(len(ok))):
        char = char and char.decode()
        if char in [*"कतनिाेैंअए"]:
            assert ok[i] == (machine.feed(state, char) is not None and _spelled(text + char)), (text, char)
    assert ok[writer.vocabulary.tokens.index("।".encode())] == (machine.fits(state) is not None)


def _spelled(text):
    """Has no akshara more than one mark?"""
    return all(len(akshara.marks) < 2 for akshara in scansion.scan(text))


@pytest.mark.parametrize("name, stanza", [(name, stanza) for name, stanza, _ in VERSES], ids=lambda v: v[:20])
def test_known_verses_can_be_begun_anywhere_and_ended(name, stanza):
    verdict = meter(stanza)
    form = verdict.nearest
    lines = [", ".join(pada.text.strip(" ,") for pada in verdict.padas if pada.line == i)
             for i in range(1 + max(pada.line for pada in verdict.padas))]
    for rhymes in (False, form.rhyme is not None):
        writer = composer("small", form, "S2", rhymes, len(lines))
        for cut in (0, 3, 7, len(lines[0])):
            begun = lines[0][:cut].rstrip(" " + COMMAS)
            progress = writer.begin(begun)
            assert progress.text.decode().replace(",", "") == begun.replace(",", "")
            check(writer, written(writer, random.Random(cut), progress))
        progress = writer.begin("।\n".join(lines[:-1]) + "।")
        check(writer, written(writer, random.Random(0), progress), given=len(lines) - 1)


def test_a_verse_is_laid_out_as_verse_is():
    for form, lines, shape in (("doha", 2, "{}।\n{}॥"), ("doha", 4, "{}।\n{}॥\n{}।\n{}॥"),
                               ("chaupai", 2, "{}। {}॥"), ("manaharan", None, "{}।\n{}॥\n{}।\n{}॥")):
        writer = composer("large", named(form), lines=lines)
        progress = written(writer, random.Random(1), writer.begin())
        text = progress.text.decode()
        assert text in (shape.format(*progress.lines), shape.replace("। ", "।\n").format(*progress.lines))


def test_a_line_that_is_given_is_answered():
    writer = composer("large", named("doha"))
    progress = writer.begin("रहिमन धागा प्रेम का, मत तोरो चटकाय।")
    assert progress.lines == ("रहिमन धागा प्रेम का, मत तोरो चटकाय",)
    for seed in range(5):
        text = written(writer, random.Random(seed), progress).text.decode()
        assert text.startswith("रहिमन धागा प्रेम का, मत तोरो चटकाय।\n") and rhyme("चटकाय", text.strip("॥")) == "full"


@pytest.mark.parametrize("text, why", [
    ("मंगल भवन।", "got 'मंगल भवन'; expected a line of chaupai under S2, 16 matras, or its beginning. Hint: it counts 7"),
    ("मंगल भवन अमंगल हारी है", "it counts 18 matras"), ("hello", "cannot scan 'h'"),
    ("ॐ नमः", "ॐ is no letter that the composer writes"), ("कोऽपि", "ऽ is no letter that the composer writes"),
    ("मंगल भवन अमंगल हारी। " * 3, "got 3 lines; expected at most the 2 of the verse"),
])
def test_what_is_no_beginning_is_refused(text, why):
    with pytest.raises(ValueError) as error:
        composer("large", named("chaupai"), lines=2).begin(text)
    assert why in str(error.value)


def test_commas_of_a_beginning_stay_where_a_pause_is():
    writer = composer("large", named("doha"))
    assert writer.begin("रहिमन, धागा प्रेम का,मत").text.decode() == "रहिमन धागा प्रेम का, मत"
    assert composer("large", named("chaupai")).begin("मंगल, भवन").text.decode() == "मंगल, भवन"


def test_what_cannot_be_written_is_refused():
    with pytest.raises(ValueError, match="Vocabulary: got a WordPieceTokenizer"):
        Vocabulary(WordPieceTokenizer.train(POEMS * 3, 300))
    with pytest.raises(ValueError, match="a vocabulary that cannot write line 1 of small"):
        Composer(Vocabulary(CharTokenizer.train("क।\n")), SMALL)
    with pytest.raises(ValueError, match="Composer: got 3 lines of kundaliya; expected 6, or a multiple"):
        composer("large", named("kundaliya"), lines=3)
    with pytest.raises(ValueError, match="no form named 'haiku'"):
        Composer(vocabulary("large"), "haiku")


def test_a_word_that_does_not_rhyme_is_better_than_none():
    """These letters have no second word that ends in ाम: the line is written without a rhyme."""
    letters = Vocabulary(CharTokenizer.train("नाम ।॥\n"))
    form = Form("", "", ((Part((3,), ("GL",)),),), together=3)
    writer, found = Composer(letters, form), set()
    for seed in range(30):
        lines = written(writer, random.Random(seed), writer.begin()).lines
        found.add(rhyme(lines[0], lines[1]))
        assert all(scansion.matras(line) == {3} for line in lines)
    assert "full" in found


def test_special_and_empty_tokens_are_never_allowed():
    tokenizer = BPETokenizer.train(POEMS, 400, special_tokens=["<|endoftext|>", "क"])
    writer = Composer(Vocabulary(tokenizer), "doha")
    assert not writer.allowed(writer.begin())[[*tokenizer.special.values()]].any()
    assert writer.allowed(writer.begin()).shape == (tokenizer.vocab_size,)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name + " 12" * bool(form.licence))
def test_a_state_says_where_the_line_is(form):
    """Only the one without hope says nothing. Nothing is told apart to which the same may follow: lavani has most."""
    for line in dict.fromkeys(form.lines):
        alone = Form("", "", (line,), form.unit, form.rhyme, rules=form.rules)               # as a Composer has it
        dead, *others = _without_rhyme(alone, "S2", "।\n", "")[3]
        assert not dead and all(others) and len(others) < 10_000
