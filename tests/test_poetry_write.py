"""Verse on demand: what is asked is kept, candidates are ranked, the seed decides, lines are answered."""
import io
import re
from functools import cache

import numpy as np
import pytest

from gpt import GPT, GPTConfig
from tok import HindiTokenizer
from tok.hindi import aksharas
from tok.meter import Line, divided, line_of, meter, named, rhyme
from tok.scansion import words
from train import poems, poetry, verse
from train.data import END
from train.poetry_write import Asked, Poet, answered
from train.text import GPT2

CONTROLS = ["<form=chaupai>", "<form=doha>", "<form=pad>", "<meter=16>", "<meter=13+11>", "<author=kabir>",
            "<theme=guru>"]
TUKS = [poems.token("tuk", on) for on in ("आरि", "आय", "आन", "ओर", "ईत", "इत", "अन", "आम", "एह", "अल")]


@cache
def gpt2(counts=False):
    """A model that has learned nothing, and so writes every text another way."""
    special = [END, *CONTROLS, *(poems.COUNTS + TUKS) * counts]
    tokenizer = HindiTokenizer.train(verse.corpus(300, 0), 700, special_tokens=special)
    model, rng = GPT(GPTConfig(tokenizer.vocab_size, 48, 2, 2, 16), seed=0), np.random.default_rng(0)
    for p in model.parameters():
        p.data = p.data + rng.standard_normal(p.shape).astype(np.float32) * np.float32(0.2)
    return GPT2(model.eval(), tokenizer)


@pytest.fixture(scope="module", params=[False, True], ids=["", "counting"])
def poet(request):
    return Poet(gpt2(request.param))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("poet")
    gpt2().model.save(folder)
    gpt2().tokenizer.save(folder / "tokenizer.json")
    return folder


def command(*words):
    return poetry.main(["write", *map(str, words)])


@pytest.mark.parametrize("asked", [
    Asked(), Asked("chaupai", lines=4, temperature=1.5), Asked("doha", "guru", "kabir", "श्रीगुरु चरन"),
    Asked("doha", prompt="रहिमन धागा प्रेम का, मत तोरो चटकाय।"), Asked("doha", rules="S0", rhyme=False, lines=4),
    Asked("chaupai", top_k=3, top_p=0.5, temperature=0.7), Asked("chaupai", temperature=0),
])
def test_what_is_asked_is_kept(poet, asked):
    """More tokens than the model can see at once, and still every line scans, and rhymes with the one it should."""
    for written in poet.write(asked, 3):
        found = meter(written.text, asked.rules)
        form = named(asked.form)
        lines = [pada.text for pada in found.padas] if len(form.lines[0]) == 1 else [
            line for line in written.text.replace("।", "").replace("॥", "").split("\n")]
        assert len(lines) == (asked.lines or 2)
        assert all(Line(form, asked.rules).read(line) for line in lines)
        assert written.text.startswith(asked.prompt)
        ends = [divided(form, i, line, asked.rules)[-1][0] for i, line in enumerate(lines)]
        if asked.rhyme:
            assert all(rhyme(a, b) == "full" for a, b in zip(ends[::2], ends[1::2]))
            assert found.form == asked.form and not [f for f in found.faults if "jagan" not in f]


def test_candidates_are_ranked_and_the_seed_decides(poet):
    asked = Asked("doha", seed=5)
    verses = poet.write(asked, 4)
    scores = [written.score for written in verses]
    assert scores == sorted(scores, reverse=True) and len({written.text for written in verses}) > 1
    assert verses == poet.write(asked, 4)
    alone = [poet.write(asked._replace(seed=5 + k))[0] for k in range(4)]        # row k is what seed 5 + k writes
    assert sorted(w.text for w in alone) == sorted(w.text for w in verses)
    assert all(np.isclose(written.score, written.logprob / len(aksharas(written.text))) for written in verses)


def test_log_probability_is_the_models_own(poet):
    """The sum over the new tokens, its end included and counts not, as the model gives it without any constraint."""
    asked = Asked("chaupai", prompt="मंगल भवन")
    (written,), (*_, begun) = poet.write(asked), poet.begin(asked)
    ids = poet.begin(asked)[2]
    *_, ((_, new, total),) = poet.stream(asked)
    assert total == written.logprob and new[-1] == poet.end and written.text == begun + poet.text(new)
    z = poet.decoder.read([ids])[0]
    expected = 0.0
    for i in new[:47 - len(ids)]:                            # as far as the model sees all
        z = z.astype(np.float64)
        expected += (z[i] - z.max() - np.log(np.exp(z - z.max()).sum())) * (i not in poet.counts)
        z = poet.decoder.step(np.array([i]))[0]
    so_far = [total for (_, _, total), in poet.stream(asked)][len(new[:47 - len(ids)]) - 1]
    assert abs(so_far - expected) < 1e-3 * abs(expected)


@pytest.mark.parametrize("asked", [Asked(), Asked("chaupai", lines=4, prompt="मंगल भवन अमंगल हारी। द्रवउ सुद"), Asked(
    "doha", prompt="रहिमन धागा प्रेम का,"), Asked("doha", prompt="रहिमन धागा प्रेम का, मत तोरो चटकाय।\n", lines=4)])
def test_a_model_that_counts_is_told_the_counts(asked):
    """Prompt and verse together are the verse counted aloud, by the readings that the model took."""
    poet = Poet(gpt2(True))
    verse, prompt = poet.begin(asked)[-1], poet.begin(asked)[2]
    names = [name for i, name in poet.counts.items()]
    for row in range(3):
        *_, ((_, new, _),) = poet.stream(asked._replace(seed=row))
        ids = [i for i in [*prompt, *new] if i not in {poet.end, *(poet.tokenizer.special[name] for name in CONTROLS)}]
        told, text = poet.tokenizer.decode(ids), verse + poet.text(new)
        assert poems.plain(told) == text
        bare, want = (re.sub(r"\d+|<tuk=.+?>", "", words) for words in (told, poems.counted(text, names)))
        assert bare.replace("<left=><left=>", "<left=>") == want.replace("<left=><left=>", "<left=>")
        assert re.findall(r"<lines=\d+>", told) == re.findall(r"<lines=\d+>", poems.counted(text, names))
        for line in told.split("\n"):
            counts = [int(n) for n in re.findall(r"<left=(\d+)>", line)]
            wholes = [n for n, before in zip(counts, [0, *counts]) if n > before]
            assert counts[-1] == 0 and wholes == {"doha": [13, 11], "chaupai": [16, 16]}[asked.form]
        form, parts = named(asked.form), re.split("[।॥]\n?", told)
        lines = [plain for plain in map(poems.plain, parts) if plain.strip()]
        for i, line in enumerate(lines):                     # the others of a group are told what the first ends on
            first = i - i % form.together
            on = poems.ending(words(divided(form, first, lines[first], "S2")[form.rhyme][0]))
            said = re.findall("<tuk=(.+?)>", parts[i])
            assert len(said) <= 1 and (i == first or said == [on] * (f"<tuk={on}>" in names))
            assert first < i or line not in verse or said == [on] * (f"<tuk={on}>" in names)


@pytest.mark.parametrize("form", ["doha", "chaupai", "sortha", "harigitika", "manaharan", "mattagayand"])
def test_a_line_is_read_token_by_token_as_it_is_at_once(form):
    """Where a place says a word may end, the line's machine says so of all of the line."""
    poet, rng, compared = Poet(gpt2(True)), np.random.default_rng(0), 0
    writer = poet.composer(form, "S2", None, True)
    for prompt in ("", {"doha": "रहिमन धा", "chaupai": "मंगल भवन अमंगल हारी। द्रव"}.get(form, "")):
        place = writer.begin(prompt)
        while not writer.composer.complete(place.progress):
            text, lines = place.progress.text[place.progress.line:].decode(errors="replace"), place.progress.lines
            machine = line_of(named(form), "S2", len(lines) % len(named(form).lines))
            assert place.last == text[-1:]
            ends, want = {*()}, {*()}
            if re.search(r"[,;!?\u0900-\u0963]$", text):
                ends, want = writer.composer.ends(place.progress), machine.counts(machine.feed(machine.start, text))
            left, whole = ({machine.parts[part].counts[0] - n if n else 0 for part, n in some} for some in (ends, want))
            allowed = writer.allowed(place)
            assert left <= whole and (left == whole or not (allowed & (writer.spaces | writer.closes)).any()), text
            compared += bool(left)
            if left and not place.said and text[-1] not in ",;!?":                       # may such a token follow?
                given = writer.composer.allowed(place.progress)
                for n in left:
                    may = (given & (writer.spaces if n else writer.closes)).any()
                    assert allowed[writer.ids[poems.left(n, named(form).unit)]] == may, text
            places = [writer.tried(place, token) for token in range(len(allowed))]       # the same said one by one
            assert [place is not None for place in places] == allowed.tolist(), text
            token = int(rng.choice(np.flatnonzero(allowed)))
            place = writer.after(place, token)
            assert place == places[token]
    assert compared > 20


def test_free_verse_is_free(poet):
    """No meter is kept, no control token is written, and forms may be asked that have no meter."""
    for form in ("doha", "pad"):
        texts = [written.text for written in poet.write(Asked(form, free=True, temperature=1.0), 6)]
        assert not any(name in text for text in texts for name in CONTROLS)
        assert not any(line_of(named("doha"), "S2", 0).read(line) for text in texts for line in text.split("।"))


@pytest.mark.parametrize("prompt, lines, told", [
    ("", None, ""), ("रहिमन धागा प्रेम का, मत तोरो चटकाय", 2, "<lines=2><left=13>रहिमन<left=9> धागा<left=5> प्रेम<left=2>"
     " का<left=0>,<left=11> मत<left=9> तोरो<left=5> चटकाय"),
    ("रहिमन धागा प्रेम का, मत तोरो चटकाय।\n", None, "<left=13>रहिमन<left=9> धागा<left=5> प्रेम<left=2> का<left=0>,"
     "<left=11> मत<left=9> तोरो<left=5> चटकाय<left=0>।\n"), ("राम hello", None, "राम hello")])
def test_free_verse_too_is_told_the_counts_of_its_prompt(prompt, lines, told):
    poet = Poet(gpt2(True))
    *_, ids, verse = poet.begin(Asked(prompt=prompt, lines=lines, free=True))
    begun = ids.index(poet.tokenizer.special["<meter=13+11>"]) + 1
    assert verse == prompt and poet.tokenizer.decode(ids[begun:]) == told
    joined = prompt.replace("ा", "ा\u200d")                  # in which no akshara ends
    assert poet.begin(Asked(prompt=joined, lines=lines, free=True))[2:] == (ids, verse)
    *_, ids, verse = Poet(gpt2()).begin(Asked(prompt=prompt, free=True))
    assert gpt2().tokenizer.decode(ids).endswith(prompt)


def test_what_a_model_does_not_know_is_refused(poet):
    for asked, why in ((Asked("sortha"), "--form: got 'sortha'; expected one of chaupai, doha, pad"),
                       (Asked(theme="love"), "--theme: got 'love'; expected one of guru"),
                       (Asked("pad"), "no form named 'pad'"), (Asked(prompt="hello"), "Composer: got 'hello'"),
                       (Asked(temperature=-1), "temperature")):
        with pytest.raises(ValueError) as error:
            poet.write(asked)
        assert why in str(error.value)
    with pytest.raises(ValueError, match="--candidates: got 0"):
        poet.write(Asked(), 0)
    with pytest.raises(ValueError, match="a tokenizer without <.endoftext.>"):
        Poet(GPT2(gpt2().model, HindiTokenizer.train(verse.corpus(30, 0), 300, special_tokens=[])))


def test_a_line_is_answered_in_its_own_form():
    poet = Poet(gpt2())
    assert poet.form_of("मंगल भवन अमंगल हारी") == "chaupai" and poet.form_of("राम") is None and poet.form_of("।") is None
    assert poet.form_of("रहिमन धागा प्रेम का, मत तोरो चटकाय।") == "doha"
    asked = answered(Asked("chaupai", prompt="मंगल भवन अमंगल हारी। द्रवउ सुदसरथ अजिर बिहारी॥"))
    assert asked.lines == 4 and asked.prompt.count("।\n") == 2
    assert poet.write(asked)[0].text.startswith("मंगल भवन अमंगल हारी। द्रवउ सुदसरथ अजिर बिहारी॥\n")


def test_the_command(folder, capsys):
    words = ("--form", "doha", "--author", "kabir", "--prompt", "श्रीगुरु", "--seed", 3)
    assert command(folder, *words, "--candidates", 8, "--show", 2) == 0
    out = capsys.readouterr().out
    assert out.count("श्रीगुरु") == 2 and out.count("doha (दोहा), score 1.00") == 2 and out.count("13 + 11") == 4
    assert out.count("ln p = ") == 2
    assert command(folder, *words, "--candidates", 8, "--show", 2) == 0
    assert capsys.readouterr().out == out
    assert command(folder, "--form", "pad", "--free", "--candidates", 1) == 0
    assert "ln p" in capsys.readouterr().out


def test_the_command_answers(folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("\nमंगल भवन अमंगल हारी\nhello\n \nरहिमन धागा प्रेम का, मत तोरो चटकाय।\n"))
    assert command(folder, "--interactive", "--candidates", 1) == 0
    out, errors = capsys.readouterr()
    assert "मंगल भवन अमंगल हारी। " in out and "रहिमन धागा प्रेम का, मत तोरो चटकाय।\n" in out
    assert "chaupai (चौपाई)" in out and "doha (दोहा)" in out and errors.count("error: ") == 1


def test_a_folder_without_weights_is_refused(tmp_path, capsys):
    (tmp_path / "poems").mkdir()
    assert command(tmp_path) == 2 and "poems without a model" in capsys.readouterr().err
