"""Hindi text: every rule does what its example says and no more, and an akshara is never cut."""
import hashlib
import json
import unicodedata
from collections import Counter

import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st
from reference_data import path

from tok import BPETokenizer, CharTokenizer, HindiTokenizer, chhand, load
from tok.hindi import (
    AKSHARA,
    AT_THE_END,
    BEFORE_A_LETTER,
    RULES,
    SUSPECT,
    VOWEL_LETTERS,
    VOWEL_SIGNS,
    aksharas,
    normalize,
)
from tok.split import SPLITS

VOWELS = "\u093e\u093f\u0940\u0941\u0943\u0945\u0946\u0947\u0948\u0949\u094b\u094c"
NUKTA, HALANT, MARKS = "\u093c", "\u094d", "\u0900\u0901\u0902\u0903"
SIGNS = VOWELS + NUKTA + HALANT + MARKS
PIECES = [*"कखडढनरळहअआइउएऽॐ\u0958\u0929", *SIGNS, *2 * (NUKTA + HALANT + MARKS), *"\u0951\u0952\u1cd0\u1ce9", "र्इ",
          *"\u200c\u200d\u00ad\u200b\ufeff\u00a0\u25cc", *"।॥||:: 1१aZé\n\r\t\"-", "दु", "अत", "प्रात", "॥ १ ", "e\u0301",
          "\u0308", "কি্", "\u09be", "க", "می\u200cخ", "\u0600", "👩\u200d💻", "🏻", "❤\ufe0f"]
HARD = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)
ANY = HARD | st.text()                                                # st.text() has no surrogates
OTHERS = st.text(st.characters(exclude_categories=["Cs"]).filter(lambda c: not regex.match(r"\p{Deva}", c))) | st.lists(
    st.sampled_from([piece for piece in PIECES if not regex.search(r"\p{Deva}", piece)])).map("".join)


def nfc(text):
    return unicodedata.normalize("NFC", text)


# normalize: the rules


@pytest.mark.parametrize("rule", RULES, ids=[rule.name for rule in RULES])
def test_every_rule_does_what_its_example_says(rule):
    assert rule.before != rule.after and nfc(rule.before) == rule.before
    assert rule.pattern.sub(rule.replacement, rule.before) == rule.after
    assert normalize(rule.before) == normalize(rule.after) == rule.after


@pytest.mark.parametrize("before, after", [
    ("\u0958 ड\u093c न\u093c र\u093c ळ\u093c", "क\u093c ड\u093c \u0929 \u0931 \u0934"),     # NFC
    ("क\u094d\u093c", "क\u093c\u094d"),
    ("पढ\u093f\u093cये गा\u0902\u093c", "पढ\u093c\u093fये ग\u093c\u093e\u0902"),                 # the nukta
    ("छोड\u093c\u0942\u093c\u0901गा", "छोड\u093c\u0942\u0901गा"), ("मिरज\u093c\u093cा", "मिरज\u093cा"),
    ("उन्ह\u093e\u0902\u0947\u0902ने", "उन्होंने"), ("वृत्त\u0902\u093eत", "वृत्तांत"),                 # the order of signs
    ("क\u0903\u0902\u0941\u093f", "क\u0941\u093f\u0903\u0902"), ("अ\u0902\u093e", "आं"),
    ("अ\u093e\u0945", "ऑ"), ("ग\u0948\u093eरव ल\u0947\u093eग", "गौरव लोग"), ("कोर\u094dइ", "कोई"),
    ("त\u094dए\u0947", "त\u094dऐ"),
    ("पहि\u094d\u200dये", "पहिये"),
    ("\ufeffक\u00ad\u200bख\ufeff", "कख"), ("क\u200c\u200dख", "कख"),                       # what cannot be seen
    ("क्\u200d\u200d\u200cष", "क्\u200dष"), ("\u200dकि 👩\u200d💻\u200c१", "कि 👩\u200d💻१"),
    (" \u093e\u0902कa\u0902\n\u093c", " कa\n"), ("१\u0903३० a\u0903 \u0902\u0903", "१:३० a: :"),   # signs alone
    ("राम || १ || मन ।।२।। ||", "राम ॥ १ ॥ मन ॥२॥ ||"), ("।। श्री ।।", "॥ श्री ॥"),                # dandas
    ("है|\r\nथा |", "है।\r\nथा ।"), ("“है|” है | २०", "“है।” है । २०"),
    ("अन्त:करण, प्रात:काल नि:शुल्क", "अन्त\u0903करण, प्रात\u0903काल नि\u0903शुल्क"),                # colons
    ("प्रात: पुन: शनै:-शनै:", "प्रात\u0903 पुन\u0903 शनै\u0903-शनै\u0903"), ("दु\u200b:ख", "दु\u0903ख"),
])
def test_what_changes(before, after):
    assert normalize(before) == after


@pytest.mark.parametrize("text", [
    "१९४७ और 1947", "हिंदी हिन्दी क\u093cलम कलम गये गए मुँह मुंह",
    "नी\u0947चे", "दा\u093cी", "दृ\u093c", "दरवा\u093cजा", "को\u093cी", "पे\u094dरमी", "अ\u0947क", "कौअ\u0947", "अ\u093cल",
    "नैर्ऋत्य", "सद्इच्छा", "समस्त्\u093e", "क\u094dर\u094dइ", "स\u0902\u094dकट", "\ua8fe\u0902",
    "क्\u200dष र्\u200dय श्\u200cर राम्\u200c", "\u25cc\u0902 \u00a0\u093f \u00a0\u094d\u200dय",
    "अग्नि\u0951मी\u0952ळे", "पु\u1cd0रो\u1cd5", "विद्वाल्\u0901 लिखति", "ॐ। कोऽपि॥ १॥",
    "।। || । |", "राम ||| ।।।", "হয় ।। ১ ।।", "क|ख [[राम|श्याम]] नाम | Name", "नाम || Name", "| नाम | आयु |",
    "हुए | - | p", "a:b राम:हाँ नाम: राम 10:30 दोष: है:", "बिंदु: हानि: दुश्मन: तुरंत: अंत: वह", "छ: राम",
    "می\u200cخواهم", "👨\u200d👩\u200d👧 ❤\ufe0f", "क\u0301\u093e ê", "", "\n\n",
])
def test_what_stays(text):
    assert normalize(text) == nfc(text) == text


def test_the_tables_are_those_of_the_unicode_standard():
    """A vowel sign has the name of its letter, so the names know what अ makes with it, and nearly all else."""
    def name(c):
        return unicodedata.name(c).removeprefix("DEVANAGARI ").removeprefix("LETTER ").removeprefix("VOWEL SIGN ")

    made = {(name(pair[0]), name(pair[-1])): name(letter) for pair, letter in VOWEL_LETTERS.items()}
    of_a = {sign: letter for (base, sign), letter in made.items() if base == "A"}
    assert of_a.pop("SHORT E") == "SHORT A" and of_a.pop("CANDRA E") == "CANDRA A"
    assert len(of_a) == 10 and all(sign == letter for sign, letter in of_a.items())
    assert {key: made[key] for key in made if key[0] != "A"} == {
        ("AA", "CANDRA E"): "CANDRA O", ("AA", "SHORT E"): "SHORT O", ("AA", "E"): "O", ("AA", "AI"): "AU",
        ("AA", "OE"): "OOE", ("E", "CANDRA E"): "CANDRA E", ("E", "SHORT E"): "SHORT E", ("E", "E"): "AI",
        ("U", "U"): "UU", ("RA", "I"): "II"}
    for pair, sign in VOWEL_SIGNS.items():
        assert made["AA", name(pair.strip("\u093e"))] == name(sign) and VOWEL_SIGNS[pair[::-1]] == sign
    for sequence, letter in VOWEL_LETTERS.items():
        assert normalize(f"क{sequence} {sequence}\u0902") == f"क{letter} {letter}\u0902" and nfc(sequence) == sequence


@pytest.mark.parametrize("word", sorted({*BEFORE_A_LETTER.split(), *AT_THE_END.split()}))
def test_the_words_with_a_visarga(word):
    assert (normalize(f"{word}:कर") == f"{word}\u0903कर") == (word in BEFORE_A_LETTER.split())
    assert (normalize(f"“{word}: वह") == f"“{word}\u0903 वह") == (word in AT_THE_END.split())
    assert normalize(f"क{word}:कर क{word}: {word} : कर") == f"क{word}:कर क{word}: {word} : कर"
    assert normalize(word) == word


# normalize: what holds of every text


@given(ANY)
@example("दु\u200b\u0903ख")
@example("न\u200d\u093c")
@example("क\u094d\u093c\u200dष")
def test_once_is_enough(text):
    assert normalize(normalize(text)) == normalize(text) == normalize(nfc(text)) == nfc(normalize(text))


@given(HARD)
def test_lines_are_apart(text):
    assert normalize(text) == "\n".join(map(normalize, text.split("\n")))


@given(OTHERS)
def test_text_without_devanagari_comes_out_in_nfc(text):
    assert normalize(text) == nfc(text)


@given(ANY | st.lists(st.sampled_from(PIECES), max_size=3).map("".join))
@example("न\u093c")
def test_where_nothing_is_suspect_nothing_is_to_be_done(text):
    for line in text.split("\n"):
        if not SUSPECT.search(line):
            assert nfc(line) == line
            for rule in RULES:
                assert rule.pattern.sub(rule.replacement, line) == line, rule.name


@given(HARD.filter(lambda text: "र" not in text))                     # र् + इ loses one
def test_letters_digits_accents_and_other_scripts_survive(text):
    def kept(text):
        touched = regex.compile(r"[\p{Deva}\u200b-\u200d\ufeff\u00ad|।॥:--[कखडढनळह१ऽॐ]]", regex.V1)
        rest = touched.sub("", unicodedata.normalize("NFD", text))
        return [sorted(cluster) for cluster in regex.findall(r"\P{Mn}\p{Mn}*|\p{Mn}+", rest)]     # NFC sorts accents

    assert kept(normalize(text)) == kept(text)


@given(HARD)
def test_nothing_is_left_that_a_reader_does_not_see(text):
    """The policy once more, as one walk over the characters."""
    text = normalize(text)
    base, sits = regex.compile(r"[[\p{Deva}&&\p{L}]\u00a0\u25cc]", regex.V1), False
    for i, c in enumerate(text):
        before, after = text[:i][-1:], text[i + 1:][:1]
        beside = regex.search(r"\p{Deva}", before + after)
        if c in SIGNS:
            assert sits and c != before, i
            assert not (c in VOWELS and before in MARKS), i
            assert before + c not in VOWEL_SIGNS and (before + c not in VOWEL_LETTERS or c == "इ"), i
            assert c != HALANT or before not in VOWELS or after == "र", i
        assert c not in "\u200b\ufeff\u00ad" or not beside, i
        assert c not in "\u200c\u200d" or before == HALANT or not beside, i
        sits = base.match(c) or sits and regex.match(r"[\p{M}\u200c\u200d]", c)


def test_in_the_poems_three_words_change():
    changed = Counter()
    for file in path("poetry").glob("*.jsonl"):
        for line in file.read_text("utf-8").splitlines():
            text = json.loads(line)["text"]
            changed.update(pair for pair in zip(text.split(), normalize(text).split()) if pair[0] != pair[1])
    assert changed == {("पढ\u093f\u093c", "पढ\u093c\u093f"): 1, ("चौड\u0947\u093c", "चौड\u093c\u0947"): 1,
                       ("मृ\u094dग", "मृग"): 1}


# aksharas


@pytest.mark.parametrize("text, pieces", [
    ("क्षत्रिय", "क्ष त्रि य"), ("भगवान् राष्ट्र", "भ ग वा न् _ रा ष्ट्र"), ("हिन्दी में है।", "हि न्दी _ में _ है ।"),
    ("अंत ईँ ॐ कोऽपि", "अं त _ ईँ _ ॐ _ को ऽ पि"), ("लड\u093cका \u0958\u094dय", "ल ड\u093c का _ \u0958\u094dय"),
    ("क्\u200dष श्\u200cर न्\u200d", "क्\u200dष _ श्\u200cर _ न्\u200d"), ("नैर्ऋत", "नै र् ऋ त"),
    ("अग्नि\u0951मी\u0952ळे", "अ ग्नि\u0951 मी\u0952 ळे"), ("समस्त्\u093eस", "स म स्त्\u093e स"),
    ("म\u0902\u0941ह दा\u093c", "म\u0902\u0941 ह _ दा\u093c"), ("\u093eक \u25cc\u0902", "\u093e क _ \u25cc\u0902"),
    ("👩\u200d💻e\u0301é🇮🇳", "👩\u200d💻 e\u0301 é 🇮🇳"), ("a\r\nb\n१२", "a \r\n b \n १ २"), ("தமிழ்", "த மி ழ்"),
])
def test_where_aksharas_end(text, pieces):
    assert aksharas(text) == [piece.replace("_", " ") for piece in pieces.split(" ")] and aksharas("") == []


@given(ANY)
def test_the_aksharas_joined_are_the_text(text):
    assert "".join(aksharas(text)) == text


@given(ANY)
def test_only_behind_a_halant_unicode_may_cut_elsewhere(text):
    def edges(pieces):
        return {sum(map(len, pieces[:i])) for i in range(len(pieces))}

    for edge in edges(aksharas(text)) ^ edges(regex.findall(r"\X", text)):
        assert regex.search(r"\u094d[\p{GCB=Extend}\p{GCB=ZWJ}]*$", text[:edge]), edge


@given(st.lists(st.sampled_from([*"कहअइऽ\u0958\u0929\u0978१\u200c\u200d", *SIGNS, *10 * HALANT])).map("".join))
def test_devanagari_is_cut_without_the_help_of_unicodes_version(text):
    assert regex.findall(AKSHARA.pattern.replace(r"|\X", ""), "अ" + text) == aksharas("अ" + text)


@pytest.mark.parametrize("line", [
    "मंगल भवन अमंगल हारी", "श्रीगुरु चरन सरोज रज", "अक्षर विद्या दुःख हँस", "कन्हैया भगवान् कोऽपि लड\u093cका"])
def test_of_well_formed_words_chhand_counts_the_same_aksharas(line):
    assert [a.text for a in chhand.scan(line)] == [a for a in aksharas(line) if a != " "]


# one token per akshara


@given(ANY.filter(bool), ANY.filter(bool))
def test_aksharas_come_back(text, other):
    t = CharTokenizer.train([text, other, "\n"], unit="akshara")
    assert t.decode(t.encode(text)) == text and t.decode(t.encode(text) + t.encode(other)) == text + other
    assert t.encode(text) == [sorted({*aksharas(text), *aksharas(other), "\n"}).index(a) for a in aksharas(text)]


@given(ANY)
def test_lines_can_be_encoded_one_by_one(text):                       # as Tokenizer.lines_apart promises
    assert aksharas("क\n" + text) == ["क", "\n", *aksharas(text)]


def test_a_vocabulary_of_aksharas(tmp_path):
    t = CharTokenizer.train("क्षत्रिय की", "<unk>", ["<end>"], unit="akshara")
    assert t.vocab == [" ", "की", "क्ष", "त्रि", "य", "<unk>", "<end>"]
    assert t.encode("कक्ष<end>", "all") == [5, 2, 6] and t.decode([5, 2, 6]) == "<unk>क्ष<end>"
    assert t.encode("क") + t.encode("\u0940") == [5, 5] and t.encode("की") == [1]
    assert CharTokenizer("कीकक्ष", unit="akshara").vocab == ["की", "क", "क्ष"]
    t.save(tmp_path / "t.json")
    again = load(tmp_path / "t.json")
    assert (again.unit, again.vocab, again.special, again.hash) == (t.unit, t.vocab, t.special, t.hash)
    assert again.encode("की क") == t.encode("की क") == [1, 0, 5]


def test_code_points_and_aksharas_of_the_ramcharitmanas():
    """The numbers that tok/char.py names."""
    rows = path("poetry", "ramcharitmanas.jsonl").read_text("utf-8").splitlines()
    texts = ["\n".join(json.loads(row)["text"] for row in rows)]
    assert [CharTokenizer.train(texts, unit=unit).vocab_size for unit in ("code point", "akshara")] == [63, 1007]


@pytest.mark.parametrize("f, says", [
    (lambda t: t.encode("कीक्षक"), r"got 'क्ष' \(U\+0915 U\+094D U\+0937\) at offset 2; expected one of the 2 aksharas"),
    (lambda t: t.encode("की!!क्ष", "all"), r"U\+0937\) at offset 4"),
    (lambda t: CharTokenizer(["क", "कि", "क्"], unit="akshara").encode("क्कि"), "at offset 0"),
    (lambda t: CharTokenizer(["क", "कख"], unit="akshara"), "got token 'कख'; expected exactly one akshara"),
    (lambda t: CharTokenizer(["", "क"], unit="akshara"), "got token ''; expected exactly one akshara"),
    (lambda t: CharTokenizer(["क", "की"]), "got token 'की'; expected exactly one code point"),
    (lambda t: CharTokenizer("abca"), "got token 'a' twice; expected different tokens"),
    (lambda t: CharTokenizer(["a", 7]), "CharTokenizer, token 1: got int; expected str"),
    (lambda t: CharTokenizer(["\ud800"]), r"token 0: got the lone surrogate U\+D800"),
    (lambda t: CharTokenizer("ab", unit="word"), r"got unit 'word'; expected one of \['code point', 'akshara'\]"),
    (lambda t: CharTokenizer.train("ab", unit=["akshara"]), r"train: got unit \['akshara'\]; expected one of"),
    (lambda t: CharTokenizer.train("", unit="akshara"), "got no text"),
])
def test_errors_say_what_was_got_and_what_was_expected(f, says):
    with pytest.raises(ValueError, match=says):
        f(CharTokenizer(["की", "क"], None, ["!!"], "akshara"))


@pytest.mark.parametrize("wrong, says", [
    ({"tokens": "ab"}, "got 'tokens' that is str; expected a list"), ({"tokens": {"a": 0}}, "'tokens' that is dict"),
    ({"tokens": ["a", None]}, "got NoneType; expected str"), ({"tokens": ["a", "a"]}, "'a' twice"),
    ({"tokens": ["a", ""]}, "exactly one"), ({"tokens": ["की"]}, "exactly one code point"), ({"unit": 3}, "got unit 3"),
    ({"unit": None}, "got unit None"), ({"special": "<end>"}, "'special' that is str"), ({"special": [3]}, "token 3"),
    ({"unknown": 3}, "special token 3"), ({"unknown": "<end>"}, "special token '<end>'"),
])
def test_a_file_with_wrong_content_is_refused(tmp_path, wrong, says):
    content = {"kind": "char", "tokens": ["a", "b"], "unit": "code point", "unknown": None, "special": ["<end>"]}
    content |= wrong
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    content["hash"] = hashlib.sha256(canonical.encode()).hexdigest()
    (tmp_path / "t.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(ValueError, match=says):
        load(tmp_path / "t.json")


# -------------------------------------------------------------------------------------------------------- the tokenizer

def test_the_tokenizer_normalizes(tmp_path):
    t = HindiTokenizer.train(["दु:ख और सुख | दु\u0903ख"] * 3, 300)
    assert t.decode(t.encode("दु:ख |")) == normalize("दु:ख |") == "दु\u0903ख ।"
    assert t.encode("दु:ख") == t.encode("दु\u0903ख") and "दु\u0903ख".encode() in t.vocab
    t.save(tmp_path / "t.json")
    again = load(tmp_path / "t.json")
    assert type(again) is HindiTokenizer and again.hash == t.hash
    t.to_hf(tmp_path / "hf")
    assert HindiTokenizer.from_hf(tmp_path / "hf").hash == t.hash
    with pytest.raises(ValueError, match="got the normalizer .*NFC"):
        BPETokenizer.from_hf(tmp_path / "hf")
    HindiTokenizer(t.merges, SPLITS["gpt4"]).to_hf(tmp_path / "hf")      # as Qwen's is: there a stray sign has an id
    with pytest.raises(ValueError, match="got the normalizer NFC with a pattern of its own; .* Indic"):
        load(tmp_path / "hf")
