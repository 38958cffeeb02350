"""The results of python -m bench gpu as lines and as Markdown."""

from bench import floors, gpu_kernels, gpu_train
from bench.curve import table as two_curves

H100 = 3.0e12, 800e12           # bytes and operations a second, for predictions: a large copy, a large product
DONE = {"ok": "", "left out": "no time was left for it", "time": "the time was over", "memory": "too little memory"}


def line(entry):
    """An entry, while the run goes on."""
    head, sides = f"{entry['name']}: ", entry.get("sides", {})
    found = {"ceilings": ceilings_line, "cases": cases_line, "check": check_line,
             "curves": curves_line}.get(entry.get("what"))
    if found:
        return head + found(entry)
    told = [f"{title} {brief(entry, side)}" for title, side in sides.items()]
    told += [f"{title}: {error['kind']}, {error['text']}" for title, error in entry.get("failed", {}).items()]
    return head + ("; ".join(told) or DONE.get(entry["status"], entry["status"]))


def brief(entry, side):
    if entry["what"] == "time":
        return " and ".join(us(q[1]) for q in side) + " us"
    if entry["what"] == "train":
        return f"{ms(side['seconds'][1])} ms, {side['tokens_per_s']:,.0f} tokens/s"
    if entry["what"] == "write":
        return f"{side['tokens_per_s']:,.0f} tokens/s"
    return f"{ms(side[1])} ms"


def ceilings_line(entry):
    return ", ".join(f"{name} {rate / (1e9 if name.endswith('copy') else 1e12):,.0f} "
                     f"{'GB/s' if name.endswith('copy') else 'TFLOP/s'}" for name, rate in entry["rates"].items())


def cases_line(entry):
    told = ", ".join(f"{dtype} {error:.1e}" for dtype, (_, error, _) in entry["found"].items())
    count = sum(n for n, _, _ in entry["found"].values())
    return f"{count} cases, largest errors: {told}" + wrong(entry)


def check_line(entry):
    return "largest errors " + ", ".join(f"{e:.1e}" for e in entry["errors"]) + wrong(entry)


def curves_line(entry):
    """How far from the first one the others are, at most."""
    return ", ".join(f"{title} {apart:.2%} apart" for title, apart in entry["apart"].items()) + "".join(
        f"; {title}: {error['kind']}, {error['text']}" for title, error in entry.get("failed", {}).items())


def wrong(entry):
    return "  WRONG" if entry["status"] == "wrong" else ""


def us(seconds):
    return f"{seconds * 1e6:,.0f}" if seconds > 1e-4 else f"{seconds * 1e6:.1f}"


def ms(seconds):
    return f"{seconds * 1e3:.4g}"


def rows_of(header, rows):
    """A Markdown table."""
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join(map(str, row)) + " |"
    yield ""


def markdown(data):
    lines = [f"# {data['card']}", ""]
    for name, part in data["parts"].items():
        entries = {}
        for entry in part["entries"]:
            entries.setdefault(entry.get("what", ""), []).append(entry)
        lines += [f"## {name}, {part['began']}", "", f"`{part['command']}`, commit {part['commit']}", "",
                  about(part["about"]), ""]
        if "--rehearse" in part["command"]:
            lines += ["A rehearsal without a GPU: no time below means anything.", ""]
        for what, write in SECTIONS.items():
            lines += write(entries[what]) if what in entries else []
        lines += troubles(part["entries"])
    return "\n".join(lines).rstrip()


def about(card):
    """Card and versions in a line."""
    told = {**card, "memory": f"{card['memory'] / 2 ** 30:.1f} GiB", "free": f"{card['free'] / 2 ** 30:.1f} GiB"}
    return ", ".join(f"{what.replace('_', ' ')} {value}" for what, value in told.items())


def ceilings(entries):
    yield f"Ceilings, medians: {ceilings_line(entries[-1])} (a copy counts what it reads and what it writes)."
    yield ""


def checks(entries):
    yield "Errors against float64, relative to the largest entry of each result; new random numbers in each run"
    yield ""
    rows = []
    for e in entries:
        if e["what"] == "cases":
            rows += [(e["op"], f"{n} cases, seed {e['seed']}", dtype, f"{error:.1e}", gpu_kernels.TOLERANCE[dtype],
                      "yes" if error <= gpu_kernels.TOLERANCE[dtype] else f"NO: {case}")
                     for dtype, (n, error, case) in e["found"].items()]
        else:
            rows.append((e["row"], f"full width, seed {e['seed']}", e["dtype"],
                         " ".join(f"{error:.1e}" for error in e["errors"]), e["limit"],
                         "yes" if e["status"] == "ok" else "NO"))
    yield from rows_of(("op", "what", "dtype", "largest error", "limit", "right"), rows)


def times(entries):
    titles = list(dict.fromkeys(title for e in entries for title in e["sides"]))
    yield "Medians in microseconds, the cache emptied before each call; floor: the larger of bytes and operations at"
    yield "the ceilings; expected: floor divided by the share that bench/gpu_kernels.py expects of it; of a copy: the"
    yield "time of one that moves as many bytes, which a small one does more slowly than the large one of the floor"
    yield ""
    rows, never = [], (None, None)                           # which results from before it was measured have
    for e in entries:
        for i, phase in enumerate(e["phases"]):
            if e["floor"][i]:
                medians = {title: side[i][1] for title, side in e["sides"].items()}
                mine = medians.get("ours")
                rate = (f"{e['flops'][i] / mine / 1e12:,.0f} TFLOP/s" if e["flops"][i] else
                        f"{e['moved'][i] / mine / 1e9:,.0f} GB/s") if mine else ""
                rows.append((e["row"], phase, e["dtype"], e["shapes"], f"{e['moved'][i] / 1e6:,.1f}",
                             f"{e['flops'][i] / 1e9:,.1f}", us(e["floor"][i]), us(e["floor"][i] / e["expected"][i]),
                             rate, f"{e['floor'][i] / mine:.0%}" if mine else "",
                             f"{e['copied'][i] / mine:.0%}" if mine and e.get("copied", never)[i] else "-",
                             *(us(medians[title]) if title in medians else "-" for title in titles)))
    yield from rows_of(("op", "phase", "dtype", "arrays", "MB", "GFLOP", "floor", "expected", "ours is", "of floor",
                        "of a copy", *titles), rows)
    yield "linear_cross_entropy may compute its gradients in forward: compare sums of both phases."
    yield ""


def train(entries):
    yield "Training steps (forward, backward, clip, AdamW), medians of turns. MFU: operations by Chowdhery et al. 2022,"
    yield "appendix B, at the speed that the card's maker promises; of product: the products that a step takes at the"
    yield "speed of a large product, in its time. held: memory taken from the card. ratio: time / ours"
    yield ""
    rows = []
    for e in entries:
        mine = e["sides"].get("ours")
        for title, side in e["sides"].items():
            low, median, high = side["seconds"]
            rows.append((e["preset"], e["dtype"], f"{e['batch']} x {e['block_size']}", title,
                         f"{ms(median)} ({ms(low)} to {ms(high)})", f"{side['tokens_per_s']:,.0f}",
                         f"{side['mfu']:.1%}" if side["mfu"] else "-", f"{side['of_product']:.1%}",
                         f"{side['held'] / 2 ** 30:.2f}", f"{median / mine['seconds'][1]:.2f}" if mine else "-"))
    yield from rows_of(("model", "dtype", "rows", "side", "ms (quartiles)", "tokens/s", "MFU", "of product", "held GiB",
                        "ratio"), rows)
    for e in entries:
        mine = e["sides"].get("ours")
        for title, side in e["sides"].items():
            if mine and title.startswith("PyTorch"):
                n = min(len(mine["losses"]), len(side["losses"]))
                yield f"Losses of {e['preset']} in {e['dtype']}, {e['batch']} rows, beside {title}:"
                yield ""
                yield f"```\n{two_curves(mine['losses'][:n], side['losses'][:n])}\n```"
                yield ""


def curves(entries):
    for e in entries:
        yield f"Losses of one model on the same batches of {e['batch']} rows, and the largest relative difference from"
        yield "the first column over all steps"
        yield ""
        n = min(map(len, e["losses"].values()), default=0)
        shown = sorted({1, *range(10, n + 1, 10), n} - {0})
        yield from rows_of(("step", *e["losses"]), [
            *((step, *(f"{losses[step - 1]:.4f}" for losses in e["losses"].values())) for step in shown),
            ("apart", *(f"{e['apart'][title]:.2%}" if title in e["apart"] else "-" for title in e["losses"]))])


def write(entries):
    yield "New tokens after a prompt of 16, greedy, every token read by the host. floor: all weights, keys and values"
    yield "from memory once; host ms: of a step, when the host did not wait for the card; as ours: share of the text up"
    yield "to the first token that differs"
    yield ""
    yield from rows_of(("dtype", "rows", "new", "side", "tokens/s", "ms a step", "floor ms", "of floor", "host ms",
                        "first ms", "as ours"),
                       [(e["dtype"], e["batch"], e["new"], title, f"{side['tokens_per_s']:,.0f}", ms(side["rest"][1]),
                         ms(e["floor"]), f"{e['floor'] / side['rest'][1]:.0%}", ms(side["host"][1]),
                         ms(side["first"][1]), "-" if side["as_ours"] is None else f"{side['as_ours']:.0%}")
                        for e in entries for title, side in e["sides"].items()])


def read(entries):
    yield "Milliseconds until the logits of whole prompts are there, by the host's clock; floor: its operations at the"
    yield "speed of a large product"
    yield ""
    yield from rows_of(("dtype", "rows", "length", "side", "ms", "tokens/s", "floor ms"),
                       [(e["dtype"], e["batch"], e["length"], title, ms(q[1]),
                         f"{e['batch'] * e['length'] / q[1]:,.0f}", ms(e["floor"]))
                        for e in entries for title, q in e["sides"].items()])


SECTIONS = {"ceilings": ceilings, "cases": checks, "check": checks, "time": times, "train": train,
            "curves": curves, "write": write, "read": read}


def troubles(entries):
    """What was wrong, failed, or left out."""
    bad = [e for e in entries if e["status"] != "ok"]
    if not bad:
        return ["Nothing failed, and nothing was left out.", ""]
    rows = []
    for e in bad:
        why = "; ".join(f"{title}: {error['text']}" for title, error in e.get("failed", {}).items())
        rows.append((e["name"], e["status"], (why or DONE.get(e["status"], "")).replace("|", "/")))
    return ["What did not come out:", "", *rows_of(("entry", "status", "why"), rows)]


def predictions(copy=H100[0], product=H100[1], batch=64, dtype="bfloat16"):
    """The tables of bench/gpu_log.md: every kernel of GPT-2 124M at 64 rows of 1024 tokens, and whole steps."""
    sizes = gpu_train.sizes_of("gpt2")
    yield from rows_of(
        ("op", "phase", "MB", "GFLOP", "floor us", "expected us", "why"),
        [(name, phase, f"{moved / 1e6:,.1f}", f"{flops / 1e9:,.1f}", us(least), us(expected), why)
         for name, phase, moved, flops, least, expected, why
         in gpu_kernels.predictions(sizes, batch, dtype, copy, product)])
    rows = []
    for preset, batch in (("gpt2", 64), ("gpt2", 4), ("gpt2-medium", 16), ("char", 64)):
        sizes = gpu_train.sizes_of(preset)
        operations, moved = floors.flops(sizes, batch), gpu_train.traffic(sizes, batch, dtype)
        least, all = operations / product, operations / product + moved / copy
        rows.append((preset, f"{batch} x {sizes['block_size']}", f"{operations / 1e12:.2f}", f"{moved / 1e9:.1f}",
                     ms(least), ms(all), ms(all / gpu_train.EXPECTED[preset])))
    yield from rows_of(("step of", "rows", "TFLOP of products", "GB beside them", "products alone, ms", "one after the "
                        "other, ms", "expected ms"), rows)
