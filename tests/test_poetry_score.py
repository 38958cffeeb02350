"""What a score says: known answers on texts made for them, the poets measured as others are, sheets and pages."""
import csv
import json
import math
import re

import numpy as np
import pytest
from test_poems import CHAUPAI, TINY, make_sources, prepare, train

from gpt import GPT, GPTConfig
from tok.meter import Form, Part
from train import kneser_ney, ngrams, poems, poetry, poetry_score, rating
from train.poems import Poem
from train.poetry_score import Layouts, Rows
from train.step import evaluate

DOHA = "श्रीगुरु चरन सरोज रज, निज मनु मुकुरु सुधारि।\nबरनउँ रघुबर बिमल जसु, जो दायकु फल चारि॥"


def poem(verse, form="chaupai", meter="16", author="", theme="", k=0, text="ended"):
    return Poem(f"{k}", "here", author, form, meter, theme, "", "", verse, text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Prepared and trained a little."""
    sources, out = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("scored") / "out"
    make_sources(sources)
    assert prepare(out, sources) == 0 and train(out, *TINY) == 0
    return out


@pytest.fixture(scope="module")
def scored(folder):
    test = poems.read(folder, "test")
    same = folder / "same.jsonl"
    same.write_text("".join(json.dumps(p._replace(text="")._asdict()) + "\n" for p in test), encoding="utf-8")
    assert poetry.main(["score", str(folder), "--also", str(same)]) == 0
    return json.loads((folder / "score" / "score.json").read_text(encoding="utf-8"))


# ----------------------------------------------------------------------------------------------------------- likelihood

@pytest.mark.parametrize("length, first", [(5, 1), (9, 3), (10, 1), (40, 7)])
def test_every_id_is_scored_once_with_half_a_block_before_it(length, first):
    ids, rows = list(range(100, 100 + length)), Rows([(list(range(100, 100 + length)), first)], 8)
    scored = []
    for x, y in rows.batches():
        for row, targets in zip(x.tolist(), y.tolist()):
            for k, target in enumerate(targets):
                if target >= 0:
                    assert row[:k + 1] == list(range(target - k - 1, target)) and k + 1 >= min(target - 100, 4)
                    scored.append(target)
    assert scored == ids[first:] and rows.tokens == len(scored)


def test_the_likelihood_of_rows_is_that_of_the_model():
    model = GPT(GPTConfig(11, 8, 1, 1, 8), seed=1).eval()
    rows = [([1, 2, 3, 4], 1), ([5, 6, 7], 2)]
    nats = 0.0
    for ids, first in rows:
        z = model(np.array([ids[:-1]])).data[0].astype(float)
        logs = z - np.log(np.exp(z).sum(-1, keepdims=True))
        nats -= sum(logs[i - 1, ids[i]] for i in range(first, len(ids)))
    scored, given = Rows(rows, 8), Rows(rows, 8, {3, 7})
    assert evaluate(model, scored)[0] * scored.tokens == pytest.approx(nats, rel=1e-5)
    for ids, k in ([1, 2, 3, 4], 2), ([5, 6, 7], 2):                            # 3 and 7 are read, and cost nothing
        z = model(np.array([ids[:k]])).data[0, -1].astype(float)
        nats += z[ids[k]] - np.log(np.exp(z).sum())
    assert evaluate(model, given)[0] * given.tokens == pytest.approx(nats, rel=1e-5) and given.tokens == 2


def test_bits_of_the_model_and_of_the_peer_are_of_the_same_aksharas(folder, scored):
    found, test = scored["likelihood"], poems.read(folder, "test")
    assert found["aksharas"] == sum(len(re.findall("[क-ह]़?(?:्[क-ह]़?)*्?|[अ-औ]", p.verse)) for p in test)
    peer = kneser_ney.KneserNey([p.verse for p in poems.read(folder, "train")])
    assert found["Kneser-Ney"]["bits"] == pytest.approx(peer.bits([p.verse for p in test]) / found["aksharas"])
    assert found["told its counts too"]["bits"] < found["told what it is"]["bits"]           # there they have a price
    for told in ("told nothing", "told what it is", "told its counts too"):
        row, tokenizer = found[told], poems.model_of(folder).tokenizer
        assert row["tokens"] == sum(len(tokenizer.encode(p.verse)) + 1 for p in test)    # and the end, no controls
        assert row["bits"] * found["aksharas"] == pytest.approx(row["tokens"] * math.log2(row["perplexity"]))


# ------------------------------------------------------------------------------------------------------------- measures

def test_lines_that_count_right():
    short = CHAUPAI.replace("मंगल", "मग", 1)
    found = poetry_score.meters([poem(CHAUPAI), poem(short), poem(DOHA, "doha"), poem("राम", "pad")])
    assert found["chaupai 16"] == {"lines": 4, "S0": 0.75, "S1": 0.75, "S2": 0.75, "S3": 0.75}
    assert found["doha 13+11"]["S1"] == found["doha 12+11"]["S1"] == 1 and set(found) == {
        "chaupai 16", "doha 13+11", "doha 12+11"}
    crossed = DOHA.replace("निज मनु मुकुरु", "निजमनुमुकुरु").replace("सरोज रज, ", "सरोजरज")     # no word ends at 13
    assert poetry_score.meters([poem(crossed, "doha")])["doha 13+11"]["S1"] == 0.5
    two = Form("", "", ((Part((6,)),), (Part((22,)),)))                                     # of which the lines differ
    assert poetry_score.counted(["राम चले", "सीता राम लखन हनुमान चले आए"] * 2, two, "S0") == 4
    like = {"chaupai 16": {"lines": 1}, "doha 13+11": {"lines": 3}, "doha 12+11": {"lines": 9}, "rola": {"lines": 5}}
    assert poetry_score.over_all(found, like)["S1"] == pytest.approx((0.75 * 1 + 1 * 3) / 9)  # of rola nothing is right


def test_named_and_rhyming():
    good, broken = poem(CHAUPAI), poem(CHAUPAI.replace("बिहारी", "बनवासिन"))
    assert poetry_score.named([good, broken, poem(CHAUPAI, "pad", "16")]) == 0.5              # a pad is no meter
    again = CHAUPAI.replace("अमंगल हारी", "अजिरन बिहारी")                     # the same word is no rhyme
    assert poems.measured(again)[0] == "chaupai" and poetry_score.named([poem(again)]) == 0
    assert poetry_score.rhyming(poetry_score.couplets([good, broken, poem(DOHA, "sortha")])) == 0.5
    assert poetry_score.rhyming([("\u093eराम", "राम")]) == 0


def test_copies_with_a_word_changed_are_near_and_blank_poems_are_not_new():
    training = [poem(CHAUPAI), poem(DOHA, "doha")]
    changed = CHAUPAI.replace("अजिर", "सदन").replace("हारी।", "भारी।")
    found = poetry_score.measures([poem(changed), poem(DOHA), poem("राम चले बन को तजि धामा॥")], training, training, 0)
    assert found["copied"] == 2 / 5 and found["nearly copied"] == 4 / 5
    blank = poetry_score.measures([poem(""), poem("")], training, training, 0)
    assert (blank["poems"], blank["blank"], blank["copied"], blank["nearly copied"]) == (2, 2, None, None)
    assert ngrams.Copies([]).near(CHAUPAI) == 0


def test_layout():
    training = [poem(CHAUPAI)] * 200 + [poem(f"{CHAUPAI}\n{CHAUPAI}")] * 3 + [poem("राम॥")] + [poem(DOHA, "doha")] * 2
    layouts = Layouts(training)
    assert layouts.obeyed(CHAUPAI, "chaupai") and layouts.obeyed(f"{CHAUPAI}\n{CHAUPAI}", "chaupai")
    assert not layouts.obeyed("राम॥", "chaupai") and not layouts.obeyed(DOHA, "chaupai")
    assert layouts.obeyed(DOHA, "doha") and not layouts.obeyed(DOHA, "pad")
    assert poetry_score.measures([poem(CHAUPAI), poem(CHAUPAI, text="cut")], training, training, 0)["layout"] == 0.5


def test_references_are_others_of_the_same_form_and_theme():
    held = [poem(f"राम {k}", theme=theme, k=k) for k, theme in enumerate(["guru", "guru", "prem", ""])]
    held += [poem("जय", "doha", k=9)]
    found = [{" ".join(ref) for ref in refs} for refs in poetry_score.references(held, held, 0)]
    assert found[0] == {"राम 1"} and found[1] == {"राम 0"} and found[2] == {"राम 0", "राम 1", "राम 3"}
    assert found[4] == set()


def test_poets_measured_as_others_are_the_poets(folder, scored):
    """The same poems, handed in as somebody else's."""
    same, poets, chance = scored["groups"]["same"], scored["groups"]["poets"], scored["chance"]
    assert same == poets and scored["poems"] == poets["poems"]
    assert poets["copied"] < 0.02 and poets["theme"] > 2 * chance["theme"] and poets["layout"] > 0.9
    assert chance["all meters"]["S1"] < 0.3 < 0.6 < poets["all meters"]["S1"] and chance["rhyme"] < 0.3 < poets["rhyme"]
    assert set(scored["groups"]["model"]) == set(poets) and 0 <= scored["groups"]["model"]["named"] <= 1


def test_samples_are_what_was_asked_for_and_come_again(folder, scored, capsys):
    samples = poetry_score.others(folder / "score" / "samples.jsonl")
    test = {p.id: p for p in poems.read(folder, "test")}
    assert len(samples) == len(test)
    for p in samples:
        want = test[p.id]
        assert (p.form, p.meter, p.author, p.theme) == (want.form, want.meter, want.author, want.theme)
        assert p.text in ("ended", "cut") and poems.clean(p.verse) == p.verse
    before = (folder / "score" / "samples.jsonl").read_bytes()
    assert poetry.main(["score", str(folder)]) == 0
    assert (folder / "score" / "samples.jsonl").read_bytes() == before
    said = capsys.readouterr().out
    assert "Kneser-Ney" in said and "chaupai 16" in said and "reference" in said
    assert re.search(rf"\npoems +{len(test)} +{len(test)}\b", said) and "\nblank ones" in said
    assert "\nnearly copied" in said
    assert poetry.main(["score", str(folder), "--n", "4", "--seed", "1"]) == 0
    assert len((folder / "score" / "samples.jsonl").read_text(encoding="utf-8").splitlines()) == 4


def test_the_page_is_of_its_own(scored):
    text = poetry_score.page(scored, [poem(CHAUPAI), poem("\u093eराम॥")])
    assert "cannot scan" in text and text.startswith("<!DOCTYPE html>") and "<ruby" in text and "&lt;form=" in text
    assert not re.search(r"(src|href)=|url\(|@import", text)


def test_what_cannot_be_scored_says_why(folder, tmp_path, capsys):
    (tmp_path / "bad.jsonl").write_text('{"verse": 3}')
    for words, says in ((["--also", tmp_path / "bad.jsonl"], "bad.jsonl, line 1"), (["--n", "-1"], "0 or more")):
        assert poetry.main(["score", str(folder), *map(str, words)]) == 2 and says in capsys.readouterr().err
    assert poetry.main(["score", str(tmp_path)]) == 2 and "error" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------------- rating

def test_alpha_of_krippendorffs_own_example():
    """Computing Krippendorff's Alpha-Reliability (2011), part C: four raters, twelve units; 0.849 for intervals."""
    data = ["1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 ."]
    ratings = [{k: int(x) for k, x in enumerate(row.split()) if x != "."} for row in data]
    assert rating.alpha(ratings) == pytest.approx(0.849, abs=5e-4)
    assert rating.alpha([{1: 3, 2: 9}, {1: 3, 2: 9}]) == 1 and rating.alpha([{1: 3}, {2: 4}]) is None
    assert rating.alpha([{1: 1, 2: 10}, {1: 10, 2: 1}]) < 0


def test_sheets_do_not_say_who_wrote_what(tmp_path, capsys):
    folder = tmp_path / "score"
    folder.mkdir()
    kinds = {"model": [f"क {k}" for k in range(9)], "poets": ["राम, \"सीता\"\nजय"] * 9}
    rating.write(folder, kinds, 3)
    key = json.loads((folder / "rating-key.json").read_text())
    sheets, orders = sorted(folder.glob("*.csv")), []
    for rater, sheet in enumerate(sheets):
        text = sheet.read_text(encoding="utf-8-sig")
        assert "model" not in text and "poets" not in text
        rows = list(csv.DictReader(text.splitlines(keepends=True)))
        orders.append([row["number"] for row in rows])
        for row in rows:
            assert row["poem"] in kinds[key[row["number"]]]
            row["coherence 1-10"] = {"model": 3 + (rater == 2), "poets": 8}[key[row["number"]]]
        with open(sheet, "w", encoding="utf-8", newline="") as f:
            out = csv.DictWriter(f, rating.FIELDS)
            out.writeheader()
            out.writerows(rows)
    assert len(sheets) == 3 and len(set(map(tuple, orders))) == 3 and {len(set(order)) for order in orders} == {18}
    filled = sheets[0].read_bytes()
    rating.write(folder, kinds, 4)
    assert sheets[0].read_bytes() == filled                                             # never written over
    assert poetry.main(["agree", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "model: mean 3.33 of 27 ratings" in said and "poets: mean 8.00 of 27" in said and "alpha: 0.9" in said
    sheets[1].write_text("number,poem,coherence 1-10\n1,क,11\n", encoding="utf-8")
    assert poetry.main(["agree", str(tmp_path)]) == 2 and "from 1 to 10" in capsys.readouterr().err
    assert poetry.main(["agree", str(folder)]) == 2 and "no rating-*.csv" in capsys.readouterr().err
