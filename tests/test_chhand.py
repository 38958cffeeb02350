"""Does the counter count as a reader of Hindi verse does? Every rule has a word that obeys it and one that does not."""
import json
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_data import path

from tok.chhand import matras, pattern, rhymes, scan, tuk

BY_HAND = [                                               # counted by hand, not by the program
    ("मंगल भवन अमंगल हारी", "GLL LLL LGLL GG", 16),
    ("बंदउ गुरु पद पदुम परागा", "GLL LL LL LLL LGG", 16),
    ("श्रीगुरु चरन सरोज रज", "GLL LLL LGL LL", 13),
    ("निज मनु मुकुरु सुधारि", "LL LL LLL LGL", 11),
    ("जो सुमिरत सिधि होइ", "G LLLL LL GL", 11),
    ("गन नायक करिबर बदन", "LL GLL LLLL LLL", 13),
    ("सत्य", "GL", 3), ("अक्षर", "GLL", 4), ("विद्या", "GG", 4), ("दुःख", "GL", 3), ("हंस", "GL", 3), ("हँस", "LL", 2),
    ("क्रम", "LL", 2), ("कृपा", "LG", 3), ("ज्ञान", "GL", 3), ("कन्हैया", "LGG", 5), ("तुम्हार", "LGL", 4),
    ("भगवान्", "LLG", 4),
]


@pytest.mark.parametrize("line, feet, count", BY_HAND)
def test_hand_checked(line, feet, count):
    assert pattern(line) == feet
    assert matras(line) == matras(line, rules="S0") == {count}


@pytest.mark.parametrize("rule, obeys, feet, counter, its_feet", [
    ("short vowels last one", "अइउऋ", "LLLL", "आईऊॠ", "GGGG"),
    ("long vowels last two", "एऐओऔ", "GGGG", "अ", "L"),
    ("short signs last one", "कि कु कृ", "L L L", "की कू कॄ", "G G G"),
    ("long signs last two", "का के कै को कौ", "G G G G G", "क", "L"),
    ("vowels of loan words are long", "डॉक्टर ऑफिस", "GLL GLL", "डर", "LL"),
    ("anusvara makes heavy", "संत", "GL", "सत", "LL"),
    ("visarga makes heavy", "दुःख", "GL", "दुख", "LL"),
    ("chandrabindu adds nothing", "हँसना मुँह", "LLG LL", "हंसना", "GLG"),
    ("chandrabindu leaves a long vowel long", "चाँद", "GL", "चंद", "GL"),
    ("a short vowel before a conjunct is heavy", "कर्म मित्र", "GL GL", "करम", "LLL"),
    ("a long vowel before a conjunct is no heavier", "आत्मा", "GG", "आग", "GL"),
    ("of three consonants too", "चन्द्र", "GL", "चदर", "LLL"),
    ("a doubled consonant is a conjunct", "बच्चा", "GG", "बचा", "LG"),
    ("not before न्ह म्ह ल्ह ण्ह र्ह", "उन्हें तुम्हारा दूल्हा कुल्हड़ कण्ह कर्हि", "LG LGG GG LLL LL LL", "उन्मन तुम्बी", "GLL GG"),
    ("but before a longer conjunct that has them in it", "कन्ह्य", "GL", "कन्ह", "LL"),
    ("a conjunct that begins a word leaves the word before it", "मन क्रम", "LL LL", "मनक्रम", "LGLL"),
    ("a conjunct that begins a word is one akshara", "प्रेम", "GL", "परेम", "LGL"),
    ("a final vowelless consonant closes", "विद्युत् सत्", "GG G", "विद्युत सत", "GLL LL"),
    ("and adds nothing to a long vowel", "भगवान्", "LLG", "भगवान", "LLGL"),
    ("the inherent a counts at the end of a word", "कमल", "LLL", "कम", "LL"),
    ("avagraha has no time", "कोऽपि", "GL", "कोपि", "GL"),
    ("a nukta makes no new consonant", "क़लम लड़का", "LLL LLG", "कलम", "LLL"),
    ("om is long", "ॐ", "G", "ओ", "G"),
])
def test_rules(rule, obeys, feet, counter, its_feet):
    assert (pattern(obeys), pattern(counter)) == (feet, its_feet), rule


@pytest.mark.parametrize("mark", [" ", "।", "॥", ", ", "-", "—", "!", "?", "\n", "१", "7", "."])
def test_words_end_at_whatever_is_no_letter(mark):
    assert pattern(f"मन{mark}क्रम") == "LL LL"


def test_scan_names_akshara_weight_and_rule():
    assert [(a.text, a.weight, a.rule) for a in scan("सत्य दुःख हंस कन्हैया भगवान्")] == [
        ("स", 2, "before the conjunct त्य"), ("त्य", 1, "short vowel"),
        ("दुः", 2, "visarga"), ("ख", 1, "short vowel"),
        ("हं", 2, "anusvara"), ("स", 1, "short vowel"),
        ("क", 1, "short vowel (no conjunct: न्ह)"), ("न्है", 2, "long vowel"), ("या", 2, "long vowel"),
        ("भ", 1, "short vowel"), ("ग", 1, "short vowel"), ("वा", 2, "long vowel"), ("न्", 0, "vowelless consonant"),
    ]
    assert [a.rule for a in scan("सत्ऽ")] == ["closed by त्", "vowelless consonant", "avagraha"]
    assert [(a.vowel, a.marks, a.word) for a in scan("गाँव त्")] == [("आ", "ँ", 0), ("अ", "", 0), ("", "", 1)]


def test_no_line_has_no_matras():
    assert scan("") == [] and matras("। ॥") == {0} and pattern("") == ""


def test_decomposed_letters_and_joiners_are_read_as_the_eye_reads_them():
    assert "क़" == "\u0915\u093c" and matras("\u0958लम") == matras("क़लम") == {3}
    assert pattern("क्\u200dष") == pattern("क्\u200cष") == pattern("क्ष") == "L"
    assert pattern("अक्\u200dषर") == "GLL"


@pytest.mark.parametrize("line, culprit", [
    ("मन mann", "'m' (LATIN SMALL LETTER M) at position 3"), ("é", "LATIN SMALL LETTER E WITH ACUTE"),
    ("ाम", "DEVANAGARI VOWEL SIGN AA) at position 0"), ("कााम", "at position 2"), ("राम ्", "VIRAMA"), ("अक்", "TAMIL"),
])
def test_what_cannot_be_scanned_is_named(line, culprit):
    with pytest.raises(ValueError) as error:
        matras(line)
    assert culprit in str(error.value) and "expected Devanagari" in str(error.value)


def test_unknown_rules_name_those_that_exist():
    with pytest.raises(ValueError, match="'S9': expected one of S0"):
        matras("राम", rules="S9")


letters = st.text(st.sampled_from("अआइकनमहरत" + "ािीुूे" + "्ंःँ़ऽ" + " ,।-"), max_size=30)


@given(letters)
def test_aksharas_partition_the_letters(line):
    try:
        aksharas = scan(line)
    except ValueError:
        return
    line = unicodedata.normalize("NFC", line)
    assert "".join(a.text for a in aksharas) == re.sub("[ ,।-]", "", line)
    assert matras(line) == {sum(a.weight for a in aksharas)}
    assert {sum(matras(word).pop() for word in re.split("[ ,।-]", line))} == matras(line)     # words are independent


@pytest.mark.parametrize("a, b", [
    ("हारी", "भारी"), ("गाती", "सुनाती"), ("बादल", "काजल"), ("नीर", "समीर"), ("चलता", "मचलता"), ("चमकती", "महकती"),
    ("महान", "भगवान्"), ("गाता है", "आता है"), ("वह मीठा गीत", "मन का मीत।"), ("आनंद", "सानंद"), ("है", "मैं भी है"[-2:]),
    ("अनंता", "संता"), ("धर्मा", "सतकर्मा"),
])
def test_rhymes(a, b):
    assert rhymes(a, b) and rhymes(b, a)


@pytest.mark.parametrize("a, b", [
    ("हारी", "भारा"), ("हारी", "तीरी"), ("गाती", "बोती"), ("बहती", "करती"), ("नीर", "नीम"), ("हँसता", "बसता"),
    ("आया", "आयी"), ("पतंगा", "लगा"),
])
def test_does_not_rhyme(a, b):
    assert not rhymes(a, b)


def test_tuk_is_the_end_from_the_last_vowel_but_one():
    assert [tuk(w) for w in ("हारी", "बादल", "नीर", "बहती", "रहा", "न", "", "कोऽपि", "तू न थी")] == \
        ["आरी", "अल", "ईर", "अहती", "अहा", "अ", "", "ओपि", "अथी"]


def padas(name, form, split):
    for row in map(json.loads, path("poetry", name).read_text(encoding="utf-8").splitlines()):
        if row["form"] == form:
            yield from (split(line) for line in row["text"].split("\n"))


def test_chaupais_of_the_manas():
    lines = padas("ramcharitmanas.jsonl", "chaupai", lambda line: re.split("[।॥?!]", line))
    found = [matras(pada) == {16} for line in lines for pada in line if pada.strip()]
    assert len(found) == 16738 and round(100 * sum(found) / len(found), 1) == 72.9


def test_dohas_of_rahim():
    def halves(line):
        return line.replace("मृ्ग", "मृग").rstrip("।॥?!").split(",")        # the e-text has a typing error

    lines = padas("rahim.jsonl", "doha", halves)
    found = [[matras(half) for half in line] == [{13}, {11}] for line in lines if len(line) == 2]
    assert len(found) == 738 and round(100 * sum(found) / len(found), 1) == 79.1
