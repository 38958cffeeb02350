"""What a prepared folder holds, in numbers and pictures: statistics.txt, .json and .png."""
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tok import scansion
from tok.base import Tokenizer, write_json, write_text
from tok.hindi import AKSHARA
from train.data import SPLITS
from train.drawing import drawing
from train.poems import FREE, Poem
from train.report import table


def describe(out: Path, split: dict[str, list[Poem]], documents: dict[str, list[str]], tokenizer: Tokenizer,
             removed: dict[str, int]) -> None:
    """Write all three."""
    poems = [p for some in split.values() for p in some]
    rows = [{"poems of": f"{source}, {form}", **numbers([p for p in poems if (p.source, p.form) == (source, form)])}
            for source, form in dict.fromkeys((p.source, p.form) for p in poems)]
    rows += [{"poems of": f"all, for {name}", **numbers(split[name])} for name in SPLITS]
    rows.append({"poems of": "all", **numbers(poems)})
    prose = [{"prose": name, "pages": len(texts), "characters": sum(map(len, texts)),
              "words": sum(len(text.split()) for text in texts)} for name, texts in documents.items()]
    verse = {name: [p.verse for p in some] for name, some in split.items()}
    tokens = [{"tokens of": f"{what}, {name}", **spelled(tokenizer, texts)}
              for what, some in (("verse", verse), ("prose", documents)) for name, texts in some.items() if texts]
    themes = Counter((p.theme or "none", p.theme_from) for p in poems)
    by_theme = [{"theme": theme, "given": themes[theme, "given"], "derived": themes[theme, "derived"]}
                for theme in dict.fromkeys(theme for theme, _ in themes if theme != "none")]
    by_theme.append({"theme": "none", "given": 0, "derived": themes["none", ""]})
    gone = [{"left out": what, "n": n} for what, n in removed.items()]
    tables = [rows, tokens, by_theme, gone, *([prose] if any(documents.values()) else [])]
    write_text(out / "statistics.txt", "\n\n".join(table([shown(row) for row in rows]) for rows in tables) + "\n")
    write_json(out / "statistics.json", tables)
    plot(out / "statistics.png", poems, tokenizer)


def numbers(poems: list[Poem]) -> dict[str, float]:
    """Of some poems: how much there is, and how much of it tok.meter names."""
    verses = [p.verse for p in poems]
    return {"n": len(poems), "lines": sum(verse.count("\n") + 1 for verse in verses),
            "words": sum(len(verse.split()) for verse in verses),
            "aksharas": sum(len(AKSHARA.findall(word)) for verse in verses for word in scansion.WORD.findall(verse)),
            "in a meter": sum(p.meter != FREE for p in poems) / max(1, len(poems)),
            "theme given": sum(p.theme_from == "given" for p in poems),
            "derived": sum(p.theme_from == "derived" for p in poems)}


def spelled(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, float]:
    """Of some texts: tokens, and the share of aksharas that a border between two tokens cuts."""
    tokens = words = aksharas = cut = 0
    for text in texts:
        ids = tokenizer.encode(text)
        tokens, words = tokens + len(ids), words + len(text.split())
        borders, end = set(), 0
        for i in ids:
            end += len(tokenizer.vocab[i])
            borders.add(end)
        end = 0
        for akshara in AKSHARA.findall(tokenizer.decode(ids)):
            start, end = end, end + len(akshara.encode())
            if scansion.WORD.match(akshara):
                aksharas += 1
                cut += any(border in borders for border in range(start + 1, end))
    return {"tokens": tokens, "a word": tokens / words, "aksharas": aksharas, "cut": cut / max(1, aksharas)}


def shown(row: dict) -> dict[str, str]:
    """{column: text}."""
    return {title: f"{x:.1%}" if title in ("in a meter", "cut") else f"{x:.2f}" if isinstance(x, float)
            else f"{x:,}" if isinstance(x, int) else x for title, x in row.items()}


def plot(file: Path, poems: list[Poem], tokenizer: Tokenizer) -> None:
    """Poems by form and by author, the matras of their lines, and their length in tokens."""
    with drawing(file, 2, 2, figsize=(11, 7.5)) as (_, axes):
        for ax, key in zip(axes[0], ("form", "author")):
            counts = Counter(getattr(p, key) or "none" for p in poems).most_common(12)[::-1]
            ax.barh([name for name, _ in counts], [n for _, n in counts])
            ax.set(title=f"poems by {key}", xscale="log")
        for form, _ in Counter(p.form for p in poems).most_common(3):
            lengths = [n for p in poems if p.form == form for n in lengths_of(p.verse)]
            axes[1, 0].hist(lengths, range(8, 50), density=True, histtype="step", label=form)
        axes[1, 0].set(title="matras between dandas or line ends (S1)")
        axes[1, 0].legend()
        axes[1, 1].hist([len(ids) for ids in tokenizer.encode_batch([p.verse for p in poems])], 60, log=True)
        axes[1, 1].set(title="tokens of a poem")


def lengths_of(verse: str) -> list[int]:
    """What the parts of a poem between dandas count under S1; none if it cannot be scanned."""
    try:
        return [min(scansion.matras(part, "S1")) for part in verse.replace("॥", "।").replace("\n", "।").split("।")
                if scansion.WORD.search(part)]
    except ValueError:
        return []
