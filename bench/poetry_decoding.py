"""What does it cost to keep to a meter token by token, and what does it give? For python -m bench poetry --decoding.

For each form that the model knows and tok.meter has, so many verses are written with the count kept and so many freely,
in turns and from the same seeds, by one decoder:

    ms a token     all of a verse's time over its tokens, the median over verses. `ask` is that part of it in which the
                   composer says which tokens may come, measured again over the same verses with nothing remembered
    lines          that the form's machine reads under the rules, of as many as were asked for; free ones that are
                   missing do not scan
    rhymes         pairs of lines that should rhyme and do, fully
    dead ends      verses that could not go on
    perplexity     exp(-mean ln p) of all new tokens, the end's included, under the model as it is. How much the count
                   costs the model's own likelihood is seen beside the free verses'
"""
import math
import statistics
import time
from itertools import count

from tok.composer import Composer
from tok.meter import END, FORMS, divided, named, rhyme
from train import poems
from train.aloud import Aloud
from train.poetry_write import Asked, Poet

SHARE, COST, ASK = 0.995, 1.3, 1.0                         # lines that scan, times free, ms


def show_decoding(folder, verses, rows, temperature):
    """Print the table; its rows for --json."""
    poet, found = Poet(poems.model_of(folder)), []
    print(f"{poet.vocabulary.strings:,} tokens in the vocabulary, {rows} at a time, temperature {temperature}\n\n"
          f"{'form':20}{'':8}{'verses':>8}{'ms/token':>10}{'ask':>8}{'lines %':>10}{'rhymes %':>10}{'dead':>6}"
          f"{'perplexity':>12}")
    for form in dict.fromkeys(form.name for form in FORMS if form.name.replace(" ", "-") in poet.controls["form"]):
        asked = Asked(form.replace(" ", "-"), temperature=temperature)
        start = time.perf_counter()
        writer = poet.composer(form, asked.rules, asked.lines, asked.rhyme).composer
        tables = time.perf_counter() - start
        kept, free = measured(poet, asked, verses, rows)
        kept |= {"ask": asking(poet, form, kept.pop("ids")), "tables": tables}
        free |= {"ask": 0.0, "tables": 0.0, "dead": 0}
        free.pop("ids")
        for name, row in (("kept", kept), ("free", free)):
            row |= {"form": form, "how": name, **judged(row.pop("texts"), writer)}
            print(f"{form:20}{name:8}{row['verses']:8,}{row['ms']:10.3f}{row['ask']:8.3f}{100 * row['lines']:10.2f}"
                  f"{100 * row['rhymes']:10.2f}{row['dead']:6}{row['perplexity']:12.2f}", flush=True)
        kept["times"] = kept["ms"] / free["ms"]
        kept["good"] = (kept["times"] <= COST and kept["lines"] >= SHARE and not kept["dead"] and kept["ask"] <= ASK)
        print(f"{'':20}{kept['times']:.2f} times the time of free writing (<= {COST}); tables made in {tables:.2f} s"
              + ("" if kept["good"] else "    not as wanted"), flush=True)
        found += [kept, free]
    if not found:
        print("the model knows no form that tok.meter has")
        found.append({"good": False})
    return found


def measured(poet, asked, verses, rows):
    """(kept, free): what both ways of writing gave, in turns."""
    ways = [dict(free=free, seconds=[], texts=[], ids=[], logprob=0.0, tokens=0, dead=0) for free in (False, True)]
    poet.write(asked, rows), poet.write(asked._replace(free=True), rows)       # compiles, and makes the tables
    for seed in count(0, rows):
        if seed >= verses:
            break
        for way in ways:
            this, last = asked._replace(free=way["free"], seed=seed), {}
            start = time.perf_counter()
            try:
                for step in poet.stream(this, rows):
                    last.update((row, (list(new), total)) for row, new, total in step)
            except ValueError as error:
                if "no token allowed" not in str(error):
                    raise
                way["dead"] += 1
            n = sum(len(new) for new, _ in last.values())
            way["seconds"].append((time.perf_counter() - start) / n)
            way["tokens"] += n
            way["logprob"] += sum(total for _, total in last.values())
            way["ids"] += [new for new, _ in last.values()]
            way["texts"] += [poet.text(new) for new, _ in last.values()]
    for way in ways:
        way |= {"verses": len(way["texts"]), "ms": 1e3 * statistics.median(way.pop("seconds")),
                "perplexity": math.exp(-way.pop("logprob") / way["tokens"])}
    return ways


def asking(poet, form, verses):
    """Milliseconds a token in which a composer that remembers nothing says what may come, over these verses."""
    writer, seconds, tokens = Aloud(Composer(poet.vocabulary, form), poet.tokenizer), 0.0, 0
    for ids in verses:
        place = writer.begin()
        for i in ids:
            start = time.perf_counter()
            if not writer.composer.complete(place.progress):
                writer.allowed(place)
                place = writer.after(place, i)
            seconds += time.perf_counter() - start
            tokens += 1
    return 1e3 * seconds / tokens


def judged(texts, writer):
    """The shares of lines that scan and of pairs that rhyme."""
    form, lines, scan, pairs, rhymed = named(writer.form.name), 0, 0, 0, 0
    for text in texts:
        parts = [_divided(form, i, line, writer.rules)
                 for i, line in enumerate(line for line in END.split(text) if line.strip())][:writer.lines]
        parts += [None] * (writer.lines - len(parts))
        lines += len(parts)
        scan += sum(map(bool, parts))
        if form.rhyme is not None:
            for i in range(len(parts)):
                first = i - i % form.together
                if i > first:
                    pairs += 1
                    rhymed += bool(parts[first] and parts[i] and rhyme(
                        parts[first][form.rhyme][0], parts[i][form.rhyme][0]) == "full")
    return {"lines": scan / lines, "rhymes": rhymed / max(pairs, 1)}


def _divided(form, i, line, rules):
    try:
        return divided(form, i, line, rules)
    except ValueError:                                     # what cannot be scanned
        return None
