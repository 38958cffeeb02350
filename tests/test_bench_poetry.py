"""python -m bench poetry: a target that is missed is marked and fails, and chance is computed as it says."""
import json
import re

import pytest
from test_poetry_write import gpt2

from bench import poetry, poetry_decoding
from tok.chhand import matras


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "poetry").mkdir()
    (tmp_path / "prose").mkdir()
    rows = [{"source": "ramcharitmanas", "form": "chaupai", "text": "मंगल भवन अमंगल हारी। द्रवउ सुदसरथ अजिर बिहारी॥"},
            {"source": "rahim", "form": "doha",
             "text": "रहिमन धागा प्रेम का, मत तोरो चटकाय।\nटूटे से फिर ना जुरे, जुरे गाँठ परि जाय॥"}]
    (tmp_path / "poetry" / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "prose" / "a.txt").write_text(
        "वह आज फिर घर गया। उसने the देखा कि कोई नहीं है।\nमंगल भवन अमंगल हारी। द्रवउ सुदसरथ अजिर बिहारी।\n" * 5,
        encoding="utf-8")
    return tmp_path


def test_the_whole_command(folder, capsys):
    """On so little verse most rows are empty: they have no share that could reach a target, and so the whole fails."""
    assert poetry.main(["--scansion", str(folder), "--stanzas", "30", "--json", str(folder / "log.jsonl")]) == 1
    out = capsys.readouterr().out
    assert re.search(r"Manas, chaupai: padas of 16 +2 +100.0 +100.0 \(>= 81\) +100.0 \(>= 97\)", out)
    assert re.search(r"Rahim, doha: 13 \+ 11 at the comma +2 +100.0", out)
    assert re.search(r"Manas, doha: 13 \+ 11 +0 .*0.0 \(not >= 78.5\)", out)
    assert re.search(r"rahim, doha +1 +100.0", out) and re.search(r"any form +\d+ +\d+", out)
    assert re.search(r"quoted: paragraphs +10 +5\n +chaupai +मंगल", out) and "not reached: " in out
    log = json.loads((folder / "log.jsonl").read_text(encoding="utf-8"))
    assert set(log) >= {"date", "machine", "command", "counts", "names", "prose", "quoted", "speed"}


def test_targets_decide_the_exit_status(folder, capsys, monkeypatch):
    for name in ("show_names", "show_prose", "show_quoted", "show_speed"):
        monkeypatch.setattr(poetry, name, lambda *args: [{"good": True}])
    lines = ["राम", "राम", "राम", "घर"]
    for target, status in (((">=", 0.75), 0), ((">=", 0.76), 1), (("<=", 0.75), 0), (("<=", 0.74), 1)):
        row = ("three", lines, poetry.has(3), {"S2": target})
        monkeypatch.setattr(poetry, "counted", lambda verse, row=row: [row])
        assert poetry.main(["--scansion", str(folder)]) == status
        assert ("(not " in capsys.readouterr().out) == bool(status)


def test_what_keeping_the_meter_gives(tmp_path, capsys, monkeypatch):
    """Every line scans although the model knows nothing, and every form that it knows has two rows."""
    monkeypatch.setattr(poetry_decoding, "COST", 1e9)      # what a token costs is no matter of tests
    monkeypatch.setattr(poetry_decoding, "ASK", 1e9)
    gpt2().model.save(tmp_path)
    gpt2().tokenizer.save(tmp_path / "tokenizer.json")
    words = ["--decoding", str(tmp_path), "--verses", "3", "--rows", "2", "--json", str(tmp_path / "log.jsonl")]
    assert poetry.main(words) == 0
    out, log = capsys.readouterr().out, json.loads((tmp_path / "log.jsonl").read_text(encoding="utf-8"))
    assert re.search(r"chaupai +kept +4 .* 100.00 +100.00 +0 ", out)
    assert re.search(r"doha +free +4 .* 0.00 +0.00 +0 ", out)
    kept = [row for row in log["decoding"] if row["how"] == "kept"]
    assert len(kept) == 2 and all(row["lines"] == row["rhymes"] == 1 and row["perplexity"] > 1 for row in kept)
    monkeypatch.setattr(poetry_decoding, "COST", 0)
    assert poetry.main(words) == 1 and "not as wanted" in capsys.readouterr().out


def test_words_fill_windows_in_their_order():
    assert poetry.windows("abcdefg", [2, 3, 3]) == ["a b", "c d e"]
    assert [sum(matras(word, "S0")) for word in poetry.windows(["राम", "घर"], [1, 1])] == [3, 2]


def test_excess_is_a_tail_of_coin_tosses():
    assert poetry.excess(0, 0) == 1 and poetry.excess(0, 9) == 1 and poetry.excess(1, 0) == 0.5
    assert poetry.excess(3, 1) == 5 / 16 and poetry.excess(10, 0) == 2 ** -10


def test_a_folder_without_verse_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no stanzas in .*expected one as JSON on each line"):
        poetry.main(["--scansion", str(tmp_path)])
