"""Poems: their normal form and control tokens, which of them are variants, and a folder prepared from sources."""
import json
import math
import random
import re
from collections import Counter
from itertools import combinations, islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tok
from tok import HindiTokenizer
from tok.meter import FORMS
from tok.scansion import matras, scan_word
from train import near, poems, poetry, poetry_prepare, poetry_statistics, poetry_train, themes, verse
from train.checkpoint import best, steps
from train.data import END, SPLITS, Shard

FOUND = ["राम", "नदी", "वन", "मन", "जल", "फूल", "गगन", "सागर", "कमल", "दीप", "रात", "भोर", "पवन", "गीत"]
NOTICE = "सर्वाधिकार सुरक्षित, पुस्तक भंडार प्रकाशन"


@pytest.mark.parametrize("name, latin", [("वर्षा", "varsha"), ("कई", "kai"), ("गए", "gae"), ("रईस", "rais"),
                                         ("हरिऔध", "hariaudh"), ("मलिक मुहम्मद जायसी", "malik-muhammad-jayasi")])
def test_names_in_latin_letters(name, latin):
    assert poems.value(name) == latin


# ------------------------------------------------------------------------------------------------------ text and tokens

@pytest.mark.parametrize("text, want", [
    ("मंगल भवन अमंगल हारी ।  द्रवउ सुदसरथ॥१॥", "मंगल भवन अमंगल हारी। द्रवउ सुदसरथ॥"),
    ("“राम” (कहा) ‘सुनो’ :\n\n<form=doha>जय||", "राम कहा सुनो\nजय॥"),
    ("।। राम ।।॥॥\nsome English 12\n - वन ,", "राम॥\nवन,"),
    ("पढि\u093c\u200d ऽ ॐ", "पढ\u093cि ऽ ॐ"),
    ("123 ।", ""), ("", "")])
def test_the_normal_form_of_a_poem(text, want):
    assert poems.clean(text) == want


@given(st.text(st.sampled_from([*"कखरमअई ािी्ंँः़ऽॐ।॥|,;!?—–-\n<>=a1१\u200d\u200c\u00a0\"'"]), max_size=40))
def test_a_normal_form_is_its_own_and_can_spell_no_token(text):
    found = poems.clean(text)
    assert poems.clean(found) == found
    assert re.fullmatch(r"[\u0900-\u0965\u0970-\u097f,;!?— \n-]*", found) and "  " not in found and "\n\n" not in found


@pytest.mark.parametrize("text, want", [
    ("Malik Muhammad Jayasi", "malik-muhammad-jayasi"), ("वर्षा", "varsha"), ("भोर", "bhor"), ("कबीर", "kabir"),
    ("प्रकृति", "prakriti"), ("चौथा संवाद", "chautha-sanvad"), ("दुःख", "duhkh"), ("ऐ ऑ", "ai-o"), ("13+11", "13+11"),
    ("॥", "")])
def test_names_as_values_of_tokens(text, want):
    assert poems.value(text) == want


@pytest.mark.parametrize("name, want", [
    ("chaupai", "16"), ("doha", "13+11"), ("sortha", "11+13"), ("harigitika", "28"), ("tribhangi", "10+8+8+6"),
    ("kundaliya", "13+11,11+13"), ("mattagayand", "23"), ("manaharan", "16+15")])
def test_the_tag_of_a_meter(name, want):
    assert poems.meter_tag(name) == want


def test_every_meter_has_a_tag_that_a_token_can_have():
    assert all(poems.CONTROL.fullmatch(poems.token("meter", poems.value(poems.meter_tag(form)))) for form in FORMS)
    assert poems.meter_tag(next(form for form in FORMS if form.licence)) == "12+11"


CHAUPAI = "मंगल भवन अमंगल हारी। द्रवउ सुदसरथ अजिर बिहारी॥"


@pytest.mark.parametrize("text, given_form, want", [
    (CHAUPAI, "chaupai", ("chaupai", "16")), (CHAUPAI, "", ("chaupai", "16")), (CHAUPAI, "chhand", ("chaupai", "16")),
    (CHAUPAI, "pad", ("pad", "16")), ("राम॥", "chhand", ("chhand", "free")), ("राम॥", "", ("verse", "free")),
    ("\u093fराम", "doha", ("doha", "free"))])
def test_form_and_meter(text, given_form, want):
    assert poems.measured(text, given_form) == want


@pytest.fixture(scope="module")
def tokenizer():
    names = ["<form=doha>", "<form=pad>", "<meter=13+11>", "<author=kabir>"]
    return HindiTokenizer.train(" ".join(FOUND), 320, special_tokens=[END, *names])


def test_a_poem_begins_with_what_is_asked_for(tokenizer):
    ids = poems.begin(tokenizer, "राम", author="kabir", form="doha", meter=None, theme="")
    assert [tokenizer.decode([i]) for i in ids[:3]] == [END, "<form=doha>", "<author=kabir>"]
    assert ids[3:] == tokenizer.encode("राम") and poems.begin(tokenizer) == [tokenizer.special[END]]
    assert poems.controls(tokenizer) == {"form": ("doha", "pad"), "meter": ("13+11",), "author": ("kabir",),
                                         "theme": ()}
    for asked, says in (({"form": "dohaa"}, "one of doha, pad"), ({"theme": "bhakti"}, "this model knows no theme"),
                        ({"size": "big"}, "one of form, meter")):
        with pytest.raises(ValueError, match=says):
            poems.begin(tokenizer, **asked)


# --------------------------------------------------------------------------------------------------------------- counts

KAVITT = ("मोहिबो निछोहिबो सनेह में तो नयो नाहिं\nभले ही निठुर भये, काहे को लजाइये।\n"
          "तन मन रावरे सो मतों के मगन हेतु\nउचरि गये ते कहा तुम्हें खोरि लाइये॥")


@pytest.mark.parametrize("verse, want", [
    (CHAUPAI, "<lines=1><tuk=आरि><left=16>मंगल<left=12> भवन<left=9> अमंगल<left=4> हारी<left=0>।"
              "<tuk=आरि><left=16> द्रवउ<left=13> सुदसरथ<left=8> अजिर<left=5> बिहारी<left=0>॥"),
    ("रहिमन धागा प्रेम का, मत तोरो चटकाय।\nटूटे पे फिर ना जुरे, जुरे गाँठ परी जाय॥",
     "<lines=2><left=13>रहिमन<left=9> धागा<left=5> प्रेम<left=2> का<left=0>,"
     "<tuk=आय><left=11> मत<left=9> तोरो<left=5> चटकाय<left=0>।"
     "\n<lines=1><left=13>टूटे<left=9> पे<left=7> फिर<left=5> ना<left=3> जुरे<left=0>,"
     "<tuk=आय><left=11> जुरे<left=9> गाँठ<left=6> परी<left=3> जाय<left=0>॥"),
    ("राम॥", "<lines=1>राम॥"), ("\u093fराम\nराम", "<lines=2>\u093fराम\n<lines=1>राम"), ("", "<lines=1>")])
def test_counted_aloud(verse, want):
    assert poems.counted(verse) == want and poems.plain(want) == verse


def test_a_part_that_does_not_fit_has_no_counts_and_one_that_does_not_rhyme_no_tuk():
    lines = poems.counted(f"{CHAUPAI}\nमंगल भवन हारी। द्रवउ सुदसरथ अजिर बिहारी॥").split("\n")
    assert lines[1] == ("<lines=1>मंगल भवन हारी।"
                        "<tuk=आरि><left=16> द्रवउ<left=13> सुदसरथ<left=8> अजिर<left=5> बिहारी<left=0>॥")
    lines = poems.counted(CHAUPAI.replace("बिहारी", "बिहारा")).split("।")
    assert "tuk" not in "".join(lines) and all("<left=16>" in line for line in lines)


def test_a_refrain_is_not_what_a_part_rhymes_on():
    """Both end in है, and rhyme before it; ई and ि are one."""
    found = poems.counted("मंगल मंगल मन हारी है। द्रवउ सुदसरथ मन बिहारि है॥")
    assert found.count("<tuk=आरि>") == found.count("<tuk=") == 2


def test_what_aksharas_count_is_counted_in_aksharas():
    text = poems.counted(KAVITT)
    assert text.startswith("<lines=4><aksharas=16>मोहिबो<aksharas=13> निछोहिबो<aksharas=9> सनेह<aksharas=6>")
    assert "\n<lines=3><tuk=इये><aksharas=15>भले<aksharas=13> ही" in text and "left" not in text


@given(st.lists(st.lists(st.sampled_from([*FOUND, "तेहिं", "सोइ", "हनुमानहि", "ऽ", "भगवान्"]), min_size=1, max_size=6).map(
    " ".join), min_size=1, max_size=40).map("।\n".join), st.sampled_from([f" {CHAUPAI}", "", ", राम-नाम!"]))
def test_counts_are_those_of_some_reading(text, more):
    """They go in and out again; and what a word takes of them it can weigh under S2, or it is an akshara each."""
    verse = poems.clean(text + more)
    counted = poems.counted(verse)
    assert poems.plain(counted) == verse
    assert all(poems.counted(verse, known) == poems.plain(counted) for known in ((), {"राम"}))
    lines = [int(n) for n in re.findall("<lines=(.+?)>", counted)]
    assert lines == [n for n in range(verse.count("\n") + 1, 0, -1) if n <= poems.MOST]
    for key, before, word, after in re.findall(
            rf"(?=<(left|aksharas)=(\d+)>[^<]*?({poems.WORD.pattern})<(?:left|aksharas)=(\d+)>)", counted):
        weighed = {*matras(word, "savaiya")} if key == "left" else {len(scan_word(word)), len(scan_word(word)) - 1}
        assert int(before) - int(after) in weighed
    for line in counted.split("\n"):
        assert {*re.findall(r"<(?:left|aksharas)=(\d+)>(?=[।॥])", line)} <= {"0"}
    said = re.findall(r"<tuk=(.+?)><(?:left|aksharas)=\d+>", counted)
    assert len(said) == counted.count("<tuk=")              # a partner that does not fit has none


PROSE, KNOWN = "मैं 12 घर गया, English और उसने कहा कि राम-नाम बड़ा है।\n\nहाँ", {*poems.COUNTS, "<tuk=अया>"}


class Always:
    """A generator whose random() is what it was made with, and whose integers are the lowest of 8 to 32."""

    def __init__(self, drawn):
        self.random = lambda: drawn

    def integers(self, low, high):
        assert (low, high) == (8, poems.MOST + 1)            # there are tokens for all of them
        return low


@pytest.mark.parametrize("drawn, want", [
    (0, "<tuk=अया><left=7>मैं<left=5> घर<left=3> गया<left=0>,<left=7> और<left=4> उसने<left=0>"
        "<left=7> कहा<left=4> कि<left=3> राम<left=0>-<left=8>नाम<left=5> बड़ा<left=2> है<left=0>।\n<left=2>हाँ<left=0>"),
    (2 / 3, "<aksharas=3>मैं<aksharas=2> घर<aksharas=0><tuk=अया><aksharas=2> गया<aksharas=0>,<aksharas=2> और<aksharas=0>"
            "<aksharas=3> उसने<aksharas=0><aksharas=3> कहा<aksharas=1> कि<aksharas=0><aksharas=2> राम<aksharas=0>-"
            "<aksharas=4>नाम<aksharas=2> बड़ा<aksharas=0><aksharas=1> है<aksharas=0>।\n<aksharas=1>हाँ<aksharas=0>")])
def test_prose_to_practise_on(drawn, want):
    """In parts of at most 8 matras, or 4 aksharas; of rhymes only those that are known."""
    assert poems.exercise(PROSE, KNOWN, Always(drawn)) == want
    assert poems.plain(want) == poems.clean("मैं घर गया, और उसने कहा कि राम-नाम बड़ा है।\nहाँ")
    assert poems.exercise("\u093f\u093f", KNOWN, Always(drawn)) == ""


# --------------------------------------------------------------------------------------------------------------- themes

def test_a_theme_is_what_most_is_said_for():
    rest = ["एक दिन की बात", "राजा और उसका घर", "नदी के पार", "मित्र ने कहा"] * 5
    theme = themes.Deriver([*rest, "बिरह में पाती आई ऊधौ"])
    assert theme("बिरह की पाती ऊधौ लाए राजा") == "viraha"
    assert theme("बिरह की रात") == "viraha" and theme("एक दिन की बात") == ""
    assert theme("बिरह की पाती ऊधौ दसरथ") == "viraha" and theme("बिरह पाती दसरथ मुनि") == ""      # two of equal weight
    assert themes.of_title("गोपी विरह") == "viraha" and themes.of_title("सुदामा चरित") == ""


def test_bayes_by_hand():
    """P(a, क ख) = 2/3 (3/6) (2/6) and P(b, क ख) = 1/3 (1/4) (1/4), the words being क ख ग, and घ passed over."""
    told = themes.Bayes([("क क", "a"), ("ख", "a"), ("ग", "b")])
    assert told.totals == {"a": 3, "b": 1} and told.known == {"क", "ख", "ग"}
    assert told("क ख घ") == "a" and told("ग ग ग") == "b"
    assert math.exp(told.log_p("a", ["क", "ख"])) == pytest.approx(1 / 9)
    assert math.exp(told.log_p("b", ["क", "ख"])) == pytest.approx(1 / 48)
    assert told("घ") == "a"                                                     # the prior alone


# ------------------------------------------------------------------------------------------------------ nearly the same

@given(st.lists(st.text(st.sampled_from([*"कखगन ।\n"]), max_size=14), max_size=12), st.integers(1, 5),
       st.integers(1, 4))
def test_pairs_are_those_of_the_definition(texts, letters, common):
    def runs(text):
        text = near.folded(text)
        return {text[i:i + letters] for i in range(max(1, len(text) - letters + 1))}
    sets = [runs(text) for text in texts]
    sets = [{run for run in some if sum(run in other for other in sets) <= common} for some in sets]
    want = {(i, j): (len(a & b) / len(a | b), len(a & b) / min(len(a), len(b)))
            for (i, a), (j, b) in combinations(enumerate(sets), 2) if a & b}
    i, j, jaccard, contained = near.pairs(texts, letters, common)
    assert {pair: shares for *pair, shares in zip(i.tolist(), j.tolist(), zip(jaccard.tolist(), contained.tolist()))
            for pair in [tuple(pair)]} == want


def test_folding_makes_copyists_agree():
    assert near.folded("गुणी, शेष वाणी॥ पढ़ँ १") == near.folded("गुनी सेस बानी पढ") == "गुनीसेसबानीपढ"


def test_the_first_of_several_copies_stays():
    """1 is a copy of 0; 2 of 1 alone, which is gone, so it stays; 4 of 3."""
    assert near.kept(5, np.array([0, 1, 3]), np.array([1, 2, 4])).tolist() == [True, False, True, True, False]


@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.lists(
    st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=12))))
def test_clusters_are_what_pairs_connect(case):
    n, joined = case
    connected = [{k} for k in range(n)]
    for _ in range(n):
        for a, b in joined:
            connected[a] |= connected[b]
            connected[b] |= connected[a]
    assert near.clusters(n, joined) == [min(group) for group in connected]


# ------------------------------------------------------------------------------------------------------ a whole folder

def rows(n=260, seed=3):
    """Couplets as rows; every tenth has a variant that shares a line, others one that shares most words of both lines;
    every twentieth has a copy of another spelling, others one with a letter less, and one has many copies."""
    rng, found = random.Random(seed), []
    for k, couplet in enumerate(islice(verse.corpus(n, seed), n)):
        head, text = couplet.split("\n", 1)
        theme, _ = head.removeprefix("#").split()
        row = {"text": text, "form": "", "author": f"कवि {'क' if k % 3 else 'ख'}", "theme": theme, "source": "one",
               "id": f"{k}"}
        found.append(row)
        words = text.split(" ")
        if k % 10 == 0:                                                         # the second line is another poem's
            lines = [text.split("\n")[0], " ".join(rng.sample(FOUND, 5)) + "॥"]
            found.append({**row, "text": "\n".join(lines), "id": f"{k} variant"})
        if k % 10 == 5:                                                         # no line is the same
            first, second = text.strip().split("\n")
            less = f"{first.split(' ', 1)[1]}\n{second.split(' ', 1)[1]}"
            if 0.6 < near.pairs([text, less])[2] < 0.7:
                found.append({**row, "text": less, "id": f"{k} variant"})
        if k == 1:                                                              # more than tell anything apart
            found += [{**row, "id": f"{k} copy"}] * (near.COMMON + 20)
        if k % 20 == 3:
            found.append({**row, "text": text.strip()[:-2] + "॥", "id": f"{k} copy"})
        if k % 20 == 0:
            found.append({**row, "text": " ".join(words).replace("।", " ।।").replace("न", "ण"), "id": f"{k} copy"})
    return found


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    make_sources(folder)
    return folder


def make_sources(folder):
    for name in ("poetry", "prose"):
        (folder / name).mkdir()
    found = rows()
    (folder / "poetry" / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    rng = random.Random(1)
    prose = [" ".join(rng.choices(FOUND, k=60)) + "।\u2028\x85" for _ in range(1500)]         # signs of a line's end
    prose = [*[NOTICE] * (near.COMMON + 20), "In English", "and so on", "12", *prose, prose[0]]
    prose += [row["text"].replace("\n", " ") for row in found]
    (folder / "prose" / "book.txt").write_text("\n".join(prose), encoding="utf-8")


def prepare(out, *words):
    return poetry.main(["prepare", *map(str, words), "--out", str(out), "--vocab_size", "500"])


@pytest.fixture(scope="module")
def folder(sources, tmp_path_factory):
    out = tmp_path_factory.mktemp("poetry") / "out"
    assert prepare(out, sources) == 0
    return out


def texts(folder, name):
    return [row["text"] for _, row in poems.rows_of(Path(folder, name))]


def test_every_poem_but_copies_is_in_one_split(folder):
    found = {name: poems.read(folder, name) for name in SPLITS}
    ids = [p.id for some in found.values() for p in some]
    want = [row["id"] for row in rows() if "copy" not in row["id"]]
    assert sorted(ids) == sorted(want) and "copy" not in " ".join(ids)
    assert 0.7 < len(found["train"]) / len(ids) < 0.9 and min(map(len, found.values())) > 10
    for name, some in found.items():
        aloud = texts(folder, f"verse/{name}.jsonl")
        assert [p.verse for p in some] == [poems.plain(text) for text in aloud[:len(some)]]
        exercises = aloud[len(some):]
        assert bool(exercises) == (name == "train") and all(re.search("<left=|<aksharas=", text) for text in exercises)


def test_no_variant_crosses_the_split(folder):
    of = {p.verse: name for name in SPLITS for p in poems.read(folder, name)}
    clusters = {p.id: (p.cluster, name) for name in SPLITS for p in poems.read(folder, name)}
    i, j, jaccard, contained = near.pairs(list(of), common=10**6)
    places = list(of.values())
    crossing = [k for k in range(len(i)) if places[i[k]] != places[j[k]]]
    assert max(jaccard[k] for k in crossing) < 0.5 and max(contained[k] for k in crossing) < 0.8
    for row in rows():
        if "5 variant" in row["id"] or ("variant" in row["id"] and len(
                near.folded(row["text"].split("\n")[0])) >= poetry_prepare.LINE):
            assert clusters[row["id"]] == clusters[row["id"].split()[0]]


def test_control_tokens_are_tokens_in_the_shards(folder):
    tokenizer = tok.load(folder / "tokenizer.json")
    known = poems.controls(tokenizer)
    assert set(known["form"]) >= {"chaupai", "doha"} and set(known["meter"]) >= {"16", "13+11"}
    assert known["author"] == ("kavi-k", "kavi-kh") and "prakriti" in known["theme"]
    tuks = {name for name in tokenizer.special if name.startswith("<tuk=")}
    names = {*poems.COUNTS, *tuks}
    assert len(tuks) > 3 and {*poems.counts(tokenizer).values()} == names
    for name in SPLITS:
        for p in poems.read(folder, name):
            asked = {key: getattr(p, key) for key in poems.KEYS if getattr(p, key) in known[key]}
            assert p.text == poems.control(asked) + poems.counted(p.verse, names)
            assert p.theme_from == ("given" if p.theme else "")
    assert texts(folder, "control/val.jsonl") == [p.text for p in poems.read(folder, "val")]
    said = texts(folder, "control/train.jsonl")
    missing = [len(poems.CONTROL.findall(poems.plain(text))) for text in said]
    assert len(set(missing)) > 2 and 3.3 < np.mean(missing) < 3.9                # each of four, nine times in ten
    found = [Shard(path.parent, "val", tokenizer) for path in (folder / "shards").glob("*/val.bin")]
    want = [poems.begin(tokenizer, poems.counted(p.verse, names), **dict(poems.CONTROL.findall(poems.plain(p.text))))
            for p in poems.read(folder, "val")]
    ids = [*(i for row in want for i in row), tokenizer.special[END]]
    assert [shard.tokens.tolist() for shard in found].count(ids) == 1


def test_poems_of_rare_forms_come_more_often(folder):
    """As often as the root of how much rarer they are says, and at most eight times."""
    some = poems.read(folder, "train")
    of_form = Counter(p.form for p in some)
    bodies = Counter(re.sub("^(<(?:form|meter|author|theme)=[^>]+>)*", "", text)
                     for text in texts(folder, "control/train.jsonl"))
    assert len(of_form) > 1
    names = poems.counts(tok.load(folder / "tokenizer.json")).values()
    for p in some:
        want = min(8, round((max(of_form.values()) / of_form[p.form]) ** 0.5))
        assert bodies[poems.counted(p.verse, {*names})] == want


def test_what_is_repeated_on_purpose_is_read_as_often(folder):
    tokenizer = tok.load(folder / "tokenizer.json")
    kept = [(Shard(path.parent, "train", tokenizer).tokens == tokenizer.special[END]).sum() - 1
            for path in (folder / "shards").glob("*/train.bin")]
    assert len(texts(folder, "control/train.jsonl")) in kept
    assert len(set(texts(folder, "control/train.jsonl"))) < len(texts(folder, "control/train.jsonl"))


def test_every_word_is_counted_aloud_twice_beside_the_text(folder):
    aloud = [poems.plain(text) for text in texts(folder, "verse/train.jsonl")]
    verses, pages = [p.verse for p in poems.read(folder, "train")], texts(folder, "prose/train.jsonl")
    assert aloud[:len(verses)] == verses and aloud[len(verses):][:len(pages)] == [poems.clean(text) for text in pages]
    words = Counter(word for text in aloud[len(verses) + len(pages):] for word in poems.WORD.findall(text))
    assert set(words.values()) == {2}
    assert set(words) == {word for text in [*verses, *pages] for word in poems.WORD.findall(poems.clean(text))}


def test_prose_is_without_copies_and_without_the_poems_held_out(folder):
    removed = json.loads((folder / "prepare.json").read_text())["removed"]
    assert removed["paragraphs that were copies"] > 1 and removed["poems that were copies"] == 26 + 120
    assert removed["paragraphs without Devanagari"] == 3 and removed["poems without Devanagari"] == 0
    assert removed["pages of prose that quote verse held out"] > 0
    pages = " ".join(near.folded(text) for name in SPLITS for text in texts(folder, f"prose/{name}.jsonl"))
    assert pages.count(near.folded(NOTICE)) == 1
    held = [near.folded(line) for name in ("val", "test") for p in poems.read(folder, name)
            for line in p.verse.split("\n")]
    assert not [line for line in held if len(line) >= 24 and line in pages]
    assert any(near.folded(p.verse) in pages for p in poems.read(folder, "train"))


def test_the_same_question_has_the_same_answer_once(folder, sources, tmp_path, capsys):
    again, other = tmp_path / "again", tmp_path / "other"
    assert prepare(again, sources) == 0 and prepare(other, sources, "--seed", 1) == 0
    files = [path.relative_to(folder) for path in folder.rglob("*.json*") if "shards" not in path.parts]
    assert len(files) > 10
    for file in files:
        assert (folder / file).read_bytes() == (again / file).read_bytes()
    assert texts(folder, "poems/test.jsonl") != texts(other, "poems/test.jsonl")
    before = (folder / "prepare.json").stat().st_mtime_ns
    assert prepare(folder, sources) == 0 and "is prepared" in capsys.readouterr().out
    assert (folder / "prepare.json").stat().st_mtime_ns == before
    assert prepare(folder, sources, "--seed", 2) == 2 and "prepared from something else" in capsys.readouterr().err
    (again / "prepare.json").unlink()                                           # killed on the way: it begins again
    assert prepare(again, sources) == 0
    assert (again / "prepare.json").read_bytes() == (folder / "prepare.json").read_bytes()


def test_statistics_add_up(folder):
    numbers, tokens, *_ = json.loads((folder / "statistics.json").read_text(encoding="utf-8"))
    whole = numbers[-1]
    for column in ("n", "lines", "words", "aksharas"):
        assert whole[column] == sum(row[column] for row in numbers[-4:-1]) == sum(row[column] for row in numbers[:-4])
    assert whole["n"] == sum(len(poems.read(folder, name)) for name in SPLITS)
    assert (folder / "statistics.png").read_bytes()[:4] == b"\x89PNG"
    tokenizer = tok.load(folder / "tokenizer.json")
    assert tokens[1]["tokens"] == sum(len(tokenizer.encode(p.verse)) for p in poems.read(folder, "val"))
    assert f"{whole['aksharas']:,}" in (folder / "statistics.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("letters, tokens, cut", [("", 2 * 12 + 3, 6), ("रामकीलहै", 11 + 2 + 3, 5)])
def test_aksharas_that_a_tokenizer_cuts(letters, tokens, cut):
    """Of रा म की मा ला है, parts of letters cut all, and letters all but म."""
    whole = [(256 + (c.encode()[1] == 0xa5), c.encode()[2]) for c in letters]
    found = poetry_statistics.spelled(tok.BPETokenizer([(0xe0, 0xa4), (0xe0, 0xa5), *whole]), ["राम की माला है।"] * 2)
    assert found == {"tokens": 2 * tokens, "a word": tokens / 4, "aksharas": 12, "cut": cut / 6}


@pytest.mark.parametrize("files, says", [
    ({"a.jsonl": "{"}, "a.jsonl, line 1: got Expecting"), ({"a.jsonl": "3"}, "a.jsonl, line 1: got 3"),
    ({"a.jsonl": '{"txt": 1}'}, 'a str under "text"'),
    ({"a.jsonl": '{"text": "राम", "form": 3}'}, "under 'form'"), ({"a.txt": "राम"}, "no poem in 1 files"),
    ({"a.jsonl": "[" * 10**5}, "a.jsonl, line 1: got "),
    ({"a.jsonl": r'{"text": "राम \ud800"}'}, "a.jsonl, line 1: got the lone surrogate"),
    ({"a.jsonl": '{"text": "Ram", "form": "doha"}'}, "without Devanagari"), ({}, "without sources"),
    ({"a.jsonl": '{"text": "राम", "form": "doha"}'}, "none for"), ({"a.jsonl": b"\xff"}, "expected UTF-8")])
def test_sources_that_cannot_be_used(tmp_path, capsys, files, says):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert prepare(tmp_path / "out", folder) == 2 and says in capsys.readouterr().err


def test_poems_in_a_text_file_are_apart_by_empty_lines(tmp_path, capsys, monkeypatch):
    poem = [f"{' '.join(random.Random(k).choices(FOUND, k=5))}।\n{' '.join(random.Random(-k).choices(FOUND, k=5))}॥"
            for k in range(1, 80)]
    (tmp_path / "poems.txt").write_text("\n \t\n".join(poem), encoding="utf-8")          # as empty as they look
    assert prepare(tmp_path / "out", "--verse", tmp_path / "poems.txt") == 0
    found = [p for name in SPLITS for p in poems.read(tmp_path / "out", name)]
    assert {p.verse for p in found} <= set(poem) and len(found) > 60 and {p.source for p in found} == {"poems"}
    assert prepare(tmp_path / "out", tmp_path / "nowhere") == 2 and "does not exist" in capsys.readouterr().err
    few = ["prepare", "--out", str(tmp_path / "few"), "--vocab_size", "300"]           # said before anything is read
    assert poetry.main(few) == 2 and "at least 355" in capsys.readouterr().err and not (tmp_path / "few").exists()
    monkeypatch.delattr(poetry_prepare, "exercises")                     # and again once all tokens are known
    assert poetry.main([*few[:-1], "355", "--verse", str(tmp_path / "poems.txt")]) == 2
    assert "--vocab_size: got 355; expected at least" in capsys.readouterr().err


def test_prose_of_files_with_one_name_is_all_there(tmp_path):
    words = {"a/book.jsonl": "नदी", "a/book.txt": "वन", "b/book.txt": "मन"}
    for name, word in words.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"text": word}) if "json" in name else word, encoding="utf-8")
    (tmp_path / "poem.txt").write_text("राम", encoding="utf-8")
    asked = SimpleNamespace(sources=[tmp_path / "a", tmp_path / "b"], verse=[tmp_path / "poem.txt"], seed=0,
                            vocab_size=500, out=tmp_path / "out")
    assert poetry_prepare.gathered(asked)[2] == {"book": [*words.values()]}


def test_a_folder_that_holds_something_else_is_refused(tmp_path, capsys):
    """So no stage trains on prose of sources that a prepare which was killed had, nor on a source beside what is made
    of it."""
    source = tmp_path / "prose"
    source.mkdir()
    (source / "train.jsonl").write_text('{"text": "राम", "form": "doha"}', encoding="utf-8")
    assert prepare(tmp_path, source) == 2 and "a folder apart" in capsys.readouterr().err
    assert prepare(tmp_path) == 2 and "with prose, and sources without" in capsys.readouterr().err
    (tmp_path / "prepare.json").write_text("{}")
    assert prepare(tmp_path) == 2 and "prepared from something else" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ three stages

TINY = ("--n_layer 1 --n_head 1 --n_embd 16 --block_size 32 --tokens_per_step 256 --device_batch 8 --steps 6 "
        "--eval_every 2 --eval_tokens 300 --samples 0 --warmup 1 --dtype float32").split()


def train(folder, *words):
    return poetry.main(["train", "--out", str(folder), *words])


def test_stages_begin_with_the_best_weights_of_the_one_before(folder, capsys):
    assert train(folder, "--stage", "2", *TINY) == 2 and "a stage 1 that has not ended" in capsys.readouterr().err
    assert train(folder, *TINY) == 0
    said = capsys.readouterr().out
    for stage in (1, 2, 3):
        out = folder / f"stage{stage}"
        assert max(steps(out)) == 6 and f"stage {stage}: poetry-" in said
        settings = (out / "settings.yaml").read_text(encoding="utf-8")
        assert f"init: {best(folder / f'stage{stage - 1}')}\n" in settings if stage > 1 else "init: ''" in settings
    assert (folder / "model" / "model.safetensors").read_bytes() == (best(folder / "stage3") / "model.safetensors"
                                                                     ).read_bytes()
    model = poems.model_of(folder)
    assert model.model.config.n_embd == 16 and model.tokenizer.hash == tok.load(folder / "tokenizer.json").hash
    assert train(folder, "--stage", "1", *TINY) == 0 and "has made all its 6 steps" in capsys.readouterr().out
    assert (folder / "model" / "model.safetensors").read_bytes() == (best(folder / "stage3") / "model.safetensors"
                                                                     ).read_bytes()


def test_a_stage_that_was_stopped_goes_on(folder, monkeypatch, tmp_path, capsys):
    """And makes the weights that it would have made."""
    import shutil
    import signal

    from train import run, step
    for name in ("poems", "verse", "control", "shards"):
        shutil.copytree(folder / name, tmp_path / name)
    for name in ("prepare.json", "tokenizer.json"):
        shutil.copy(folder / name, tmp_path / name)

    def press(*args, real=step.train_step):
        if args[4] == 3:
            signal.raise_signal(signal.SIGTERM)
        return real(*args)
    with monkeypatch.context() as m:
        m.setattr(run, "train_step", press)
        assert train(tmp_path, *TINY) == 0
    assert max(steps(tmp_path / "stage2")) == 4 and not (tmp_path / "stage3").exists()
    assert not (tmp_path / "model").exists() and "no prose: stage 1 is left out" in capsys.readouterr().out
    assert train(tmp_path, *TINY) == 0
    run_json = tmp_path / "stage3/checkpoints/00000004/run.json"               # were an earlier one the best,
    state = json.loads(run_json.read_text())
    run_json.write_text(json.dumps({**state, "metrics": {**state["metrics"], "val_loss": 0.0}}))
    assert train(tmp_path, "--stage", "3", *TINY) == 0                          # it would be the model
    assert (tmp_path / "model/model.safetensors").read_bytes() == (run_json.parent / "model.safetensors").read_bytes()
    shutil.copytree(tmp_path / "stage2", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stage2")
    assert train(tmp_path, "--stage", "2", *TINY) == 0
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (tmp_path / "stage2/checkpoints/00000006" / name).read_bytes() == (
            tmp_path / "stopped/checkpoints/00000006" / name).read_bytes()


def test_the_large_size_changes_what_it_must(folder, tmp_path):
    from train.config import parse
    big = poetry_train.SIZES["gpt2-124m"].split()
    for stage in (1, 2):
        config = parse(poetry_train.flags_of(folder, stage, ["--out", str(tmp_path), *big]))
        assert (config.n_layer, config.n_embd, config.backend) == (12, 768, "cupy") and config.patience > 0


def test_what_cannot_be_trained_says_why(tmp_path, capsys):
    assert train(tmp_path) == 2
    said = capsys.readouterr()
    assert "no prepared folder" in said.err and "no prose" not in said.out
    (tmp_path / "prepare.json").write_text("{}")
    assert train(tmp_path, "--stage", "3") == 2 and "without control" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no prepared poems"):
        poems.read(tmp_path, "train")
    (tmp_path / "poems").mkdir()
    with pytest.raises(ValueError, match="poems without a model"):
        poems.model_of(tmp_path)
    with pytest.raises(SystemExit):
        poetry.main(["prepare", "--out", "x", "--steps", "3"])
    assert poetry_prepare.COPY > poetry_prepare.VARIANT
