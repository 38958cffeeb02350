"""python -m tok scan: is what is drawn under a line what was read?"""
import io
import json
import re
import sys
from html.parser import HTMLParser

import pytest

from tok import scan_view
from tok.__main__ import main
from tok.chhand import meter, scan

COUPLET = "मंगल भवन अमंगल हारी। द्रवउ सुदसरथ अजिर बिहारी॥"
SORTHA = "जो सुमिरत सिधि होइ गन नायक करिबर बदन।\nकरउ अनुग्रह सोइ बुद्धि रासि सुभ गुन सदन॥"
BROKEN = "मंगल भवन अमंगल हारी। द्रवउ सुदसरथ बिहारी॥"
DRAWN = """\
मं ग ल  भ व न  अ मं ग ल  हा री  16
ऽ । ।  । । ।  । ऽ । ।  ऽ  ऽ
द्र व उ  सु द स र थ  अ जि र  बि हा री  16
।  । ।  । । । । ।  । ।  ।  ।  ऽ  ऽ
chaupai (चौपाई), score 1.00
"""


def test_a_stanza_is_drawn():
    assert scan_view.in_text(COUPLET) + "\n" == DRAWN
    assert scan_view.in_text(SORTHA).splitlines()[0].endswith("ब द न  11 + 13")
    assert scan_view.in_text(BROKEN).splitlines()[4:] == [
        "pada 2 has 13 matras where 16 are wanted: LLL LLLLL LGG", "no form; nearest is chaupai (चौपाई), score 0.67"]
    assert scan_view.in_text("राम।\nराम घर॥").splitlines()[0] == "रा म  3"
    assert "12 matras before the pause" in scan_view.in_text(
        "राम नाम मनिदीप सो जीह देहरीं द्वार।\nतुलसी भीतर बाहर जौं चाहसि उजिआर॥")


@pytest.mark.parametrize("stanza", [COUPLET, SORTHA, BROKEN, "राम।\nराम घर॥", "विद्युत् सत्।\nकोऽपि॥"])
def test_on_a_terminal_every_mark_stands_under_its_akshara(stanza):
    """Aksharas and marks are placed by the same columns, and both rows hold what meter read."""
    rows = scan_view.in_text(stanza, terminal=True).splitlines()
    padas = [pada for pada in meter(stanza).padas]
    lines = sorted({pada.line for pada in padas})
    for line, top, bottom in zip(lines, rows[::2], rows[1::2]):
        above = [(column, text) for column, text in re.findall(r"\033\[(\d+)G([^\033]*)", top)][:-1]
        below = re.findall(r"\033\[(\d+)G(?:\033\[[\d;]+m)?([^\033]*)", bottom)
        text = " ".join(pada.text for pada in padas if pada.line == line)
        reading = "".join(pada.reading for pada in padas if pada.line == line)
        aksharas = [entry for entry in above if entry[1].strip() not in ("", "|")]
        assert [entry[1] for entry in aksharas] == [akshara.text for akshara in scan(text)]
        assert [entry[0] for entry in aksharas] == [column for column, _ in below][:len(aksharas)]
        assert "".join(mark for _, mark in below) == "".join(scan_view.MARKS[mark] for mark in reading)


def test_what_a_licence_bends_is_coloured():
    assert scan_view.BENT in scan_view.in_text("होइहि सोइ जो राम रचि राखा। को करि तर्क बढ़ावै साखा॥", terminal=True)
    assert scan_view.BENT not in scan_view.in_text(COUPLET, terminal=True)
    assert "\033" not in scan_view.in_text(BROKEN)


class Ruby(HTMLParser):
    """(akshara, mark, title) of every ruby, and every tag that is open at the end."""

    def __init__(self, page):
        super().__init__()
        self.found, self.open = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag != "meta":
            self.open.append(tag)
        if tag == "ruby":
            self.found.append(["", "", dict(attrs)["title"]])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "ruby" in self.open:
            self.found[-1]["rt" in self.open] += data


def test_the_page_tells_the_rule_of_every_akshara():
    page = Ruby(scan_view.in_html([COUPLET, BROKEN]))
    assert not page.open and len(page.found) == len(scan(COUPLET)) + len(scan(BROKEN))
    assert page.found[0] == ["मं", "ऽ", "anusvara"] and page.found[1] == ["ग", "।", "short vowel"]
    bent = Ruby(scan_view.in_html(["जो सुमिरत सिधि होइ गन नायक करिबर बदन।\nजासु कृपाँ सो दयाल द्रवउ सकल कलिमल दहन॥"])).found
    assert ["सो", "।", "long vowel; a licence bends it"] in bent


def test_the_command(tmp_path, capsys, monkeypatch):
    (tmp_path / "a.txt").write_text(f"{COUPLET}\n\n  \n{SORTHA}\n", encoding="utf-8")
    assert main(["scan", str(tmp_path / "a.txt"), "--html", str(tmp_path / "a.html")]) == 0
    out = capsys.readouterr().out
    assert out.startswith(DRAWN) and out.count("score") == 2 and "sortha" in out and "\033" not in out
    assert len(Ruby((tmp_path / "a.html").read_text(encoding="utf-8")).found) == len(scan(COUPLET)) + len(scan(SORTHA))
    rows = [{"text": COUPLET + "\n\n" + COUPLET}, {"text": SORTHA}]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert main(["scan", str(tmp_path / "b.jsonl"), "--color", "always"]) == 0
    out = capsys.readouterr().out
    assert out.count("score") == 2 and "\033[1G" in out                        # each text of such a file is one stanza
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"राम the\n\n{COUPLET}".encode()), encoding="utf-8"))
    assert main(["scan", "-", "--rules", "S0"]) == 0
    out = capsys.readouterr().out
    assert "cannot scan 't'" in out and "chaupai (चौपाई), score 1.00" in out
    assert main(["scan", str(tmp_path / "none.txt")]) == 2 and "none.txt" in capsys.readouterr().err
