"""Text, one token at a time: what is done with a model's logits until they are a token.

    logits    repetition_penalty > 1 makes what was there before less likely (Keskar et al. 2019, arXiv:1909.05858,
              who divide by it always; below 0 that would be more likely, so, as in transformers, it multiplies there):
              z becomes z / r if z > 0, else z r                                         [SA1]
    allowed   a function forbids tokens. Where the rest have probability P together, each of them gets p / P; and so it
              does if a token is drawn from all of them first, and from the rest only if that one is forbidden, which
              may be quicker to know of one than of all:  p + (1 - P) p / P = p / P            [SA3]
    temperature t    p_i = exp(z_i / t) / sum_j exp(z_j / t); 0 takes the likeliest token   [SA2]
    top_k     only the k likeliest (Fan et al. 2018, arXiv:1805.04833)
    top_p     only the fewest that have this probability together (Holtzman et al. 2020, arXiv:1904.09751)
    min_p     only those with this share of the likeliest one's probability (Nguyen et al. 2024, arXiv:2407.01082)

They act in this order, each on what the one before has left. Of equals the lowest id counts as the likeliest. Some ids
may be `sure`: where one of them is the answer, as a digit of a sum is, one is right and nothing is to vary. If one of
these is drawn, the likeliest of them is taken for it.

A model knows block_size positions. When a row has filled them, the last half of them is read again as a new beginning,
and so on: the model always sees between half and all of block_size tokens, and a token costs the same on average.

Row b of a batch draws from the stream of seed + b. So it is what its prompt gives alone with that seed.

On a GPU tokens are chosen there (generate_gpu.py), and the host hears of them one step late: the device has begun with
the next by then. Only a row that begins anew waits for it, and `allowed`, which is asked on the host.
"""
import operator
from typing import NamedTuple

import numpy as np

from gpt.decode import Decoder
from minigrad import backend, kernels
from minigrad.check import expect
from minigrad.cuda import has_instance


class Token(NamedTuple):
    """What stream() yields."""
    row: int
    id: int
    logprob: float          # ln of its probability under the model as it is: before [SA1] and all that follows


def generate(model, ids, max_new_tokens, **how):
    """Continue every row of ids by max_new_tokens tokens, or until it ends with one of `stop`; how: as in stream().

    ids is an integer array (B, T), and so is what comes back, (B, T + max_new_tokens) at most and int64; rows that have
    ended before the longest repeat their last token. Or ids is a list of lists, of any lengths, and so is the result.
    """
    rows = prompts_of(ids)
    texts = [list(row) for row in rows]
    for tokens in stream(model, ids, max_new_tokens, **how):
        for token in tokens:
            texts[token.row].append(token.id)
    if isinstance(ids, list):
        return texts
    longest = max(map(len, texts))
    return np.array([row + row[-1:] * (longest - len(row)) for row in texts], np.int64)


def stream(model, ids, max_new_tokens, *, temperature=0.8, top_k=None, top_p=None, min_p=None, repetition_penalty=1.0,
           stop=(), allowed=None, allows=None, sure=(), seed=0, decoder=None):
    """Yield, step by step, a list of Tokens: one of each row that has not ended.

    ids: an integer array (B, T), or a list of lists of ids. stop: ids that end a row. allowed(b, ids) says which tokens
    may come next in row b, a list of ids: booleans (V,); allows(b, ids, token), if there is one too, says it of one
    token, and is asked first [SA3], but not with top_k, top_p, min_p or `sure`, which are ids. decoder: a
    gpt.decode.Decoder of the model to use instead of a new one; it serves one stream at a time. The other settings: see
    above. The same seed gives the same text. The model's train or eval mode is left as found.
    """
    rows = prompts_of(ids)
    expect(hasattr(max_new_tokens, "__index__") and max_new_tokens >= 0, "generate",
           f"max_new_tokens {max_new_tokens}", "0 or more")
    expect(temperature >= 0, "generate", f"temperature {temperature}", "0 (greedy) or more")
    expect(top_k is None or hasattr(top_k, "__index__") and top_k > 0, "generate", f"top_k {top_k}",
           "None, or 1 or more")
    for name, value in (("top_p", top_p), ("min_p", min_p)):
        expect(value is None or 0 < value <= 1, "generate", f"{name} {value}", "None, or a number in (0, 1]")
    expect(repetition_penalty > 0, "generate", f"repetition_penalty {repetition_penalty}", "a number above 0")
    stop, sure, V = ids_of("generate", "stop", stop), ids_of("generate", "sure", sure), model.config.vocab_size
    expect(all(0 <= i < V for i in sure), "generate", f"sure {sorted(sure)}", f"ids from 0 to {V - 1}")
    expect(not (sure and allows), "generate", "sure and allows", "one of them", "allowed alone forbids the same")
    expect(allowed or not allows, "generate", "allows without allowed", "both", "allowed says it of all tokens")
    how = dict(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    expect(decoder is None or decoder.model is model, "generate", "a decoder of another model", "one of this model",
           "Decoder(model)")
    decoder, streams = decoder or Decoder(model), [backend.stream("generate", seed + b) for b in range(len(rows))]
    like = model.wte.weight.data
    on_device = kernels.compiled("gpt.generate", "gpu", "Chooser") if kernels.device_for([like], "generate") == "gpu" \
        and has_instance(like) and allowed is None and not sure else None
    if on_device:
        choose_all = on_device(rows, V, streams, like, repetition_penalty, **how)
    else:
        choose_all = Chooser(rows, streams, allowed, allows, sure, repetition_penalty, how)
    return _stream(decoder, rows, max_new_tokens, stop, choose_all)


def _stream(decoder, rows, max_new_tokens, stop, choose_all):
    size, going = decoder.model.config.block_size, list(range(len(rows)))
    begins = [max(0, len(row) - size) for row in rows]       # what the model sees of each

    def next_logits():
        new = [i for i, b in enumerate(going) if len(rows[b]) - begins[b] > size]
        if new:
            for b in (going[i] for i in new):
                begins[b] = len(rows[b]) - max(1, size // 2)
            decoder.again(new, [rows[going[i]][begins[going[i]]:] for i in new])
        return decoder.step(np.array([rows[b][-1] for b in going]))

    if not max_new_tokens:
        return
    chosen = choose_all(decoder.read([row[begin:] for row, begin in zip(rows, begins, strict=True)]), going)
    for left in reversed(range(max_new_tokens)):             # how many come after these
        following = None
        if choose_all.ahead and left and all(len(rows[b]) - begins[b] < size for b in going):
            following = choose_all(decoder.step(chosen.tokens), going)       # in vain for rows that end here
        ids, logprobs = chosen.told()
        ids = ids.tolist()
        yield [Token(b, t, p) for b, t, p in zip(going, ids, logprobs.tolist(), strict=True)]
        for b, t in zip(going, ids, strict=True):
            rows[b].append(t)
        kept = [i for i, t in enumerate(ids) if t not in stop]
        if not kept or not left:
            return
        if len(kept) < len(going):
            decoder.keep(kept)
            going, following = [going[i] for i in kept], following and following.of(kept)
        chosen = following or choose_all(next_logits(), going)


class Chosen(NamedTuple):
    """The tokens of a step."""
    tokens: object          # (B,), as Decoder.step() takes them: the host may not have heard of them
    told: object            # a function: their ids and the logprobs, (B,) each, on the host, which waits for them

    def of(self, rows):
        """Those of some rows."""
        return Chosen(self.tokens[rows], lambda: [a[rows] for a in self.told()])


class Chooser:
    """The tokens of rows, from their logits (B, V) and the rows' numbers.

    ahead: can it be asked for the next tokens before the host has heard of the last? Not this one: it looks at texts.
    """

    ahead = False

    def __init__(self, rows, streams, allowed, allows, sure, repetition_penalty, how):
        self.rows, self.streams, self.allowed, self.repetition_penalty, self.how = (
            rows, streams, allowed, repetition_penalty, how)
        self.sure = np.sort(np.array([*sure], np.int64))
        cut = any(how[name] is not None for name in ("top_k", "top_p", "min_p"))         # which [SA3] does not know of
        self.allows = None if cut else allows

    def __call__(self, logits, going):
        z = logits = on_host(logits)
        if self.repetition_penalty != 1:
            z = penalised(z, [self.rows[b] for b in going], self.repetition_penalty)
        ids = np.array([self._one(row, b) for row, b in zip(z, going, strict=True)])
        logprobs = np.array([logprob(row, i) for row, i in zip(logits, ids, strict=True)])
        return Chosen(ids, lambda: (ids, logprobs))

    def _one(self, z, b):
        """The next token of row b."""
        if self.allowed is not None:
            if self.allows and self.allows(b, self.rows[b], drawn := choose(z, self.streams[b], **self.how)):
                return drawn                                                              # [SA3]
            may = np.asarray(self.allowed(b, self.rows[b]))
            expect(may.dtype == bool and may.shape == z.shape, "generate", f"allowed {may.dtype} {may.shape}",
                   f"booleans ({len(z)},), one for every token")
            z = np.where(may, z, -np.inf)
            expect((z > -np.inf).any(), "generate", "no token allowed", "at least one in every row")
        drawn = choose(z, self.streams[b], **self.how)
        return int(self.sure[z[self.sure].argmax()]) if drawn in self.sure else drawn


def prompts_of(ids):
    """Prompts as lists of int; ids as generate() takes them."""
    want = "integers (B, T) with T at least 1, or lists of such", "begin an empty prompt with the end-of-text token"
    if isinstance(ids, list):
        ragged = [np.asarray(row) for row in ids]
        expect(ragged and all(row.ndim == 1 and row.size and row.dtype.kind in "iu" for row in ragged), "generate",
               f"ids {[row.shape for row in ragged]}", *want)
        return [row.tolist() for row in ragged]
    ids = np.asarray(ids)
    expect(ids.ndim == 2 and ids.size > 0 and ids.dtype.kind in "iu", "generate", f"ids {ids.dtype} {ids.shape}", *want)
    return ids.tolist()


def ids_of(who, name, ids):
    """A set of ids."""
    try:
        return {*map(operator.index, ids)}
    except TypeError:
        expect(False, who, f"{name} {ids!r}", "ids, such as [50256]")


def on_host(logits):
    """Logits as a NumPy array; an error where the model has none to give."""
    logits = backend.asnumpy(logits)
    expect((logits < np.inf).all(), "generate", "logits that are NaN or infinite", "numbers",
           "the weights hold NaN or infinity: look at the loss that the model was trained to")
    return logits


def penalised(logits, rows, r):
    """[SA1] for the ids in each row."""
    z = logits.copy()
    for row, ids in zip(z, rows):
        seen = np.unique(ids)
        row[seen] = np.where(row[seen] > 0, row[seen] / r, row[seen] * r)
    return z


def logprob(z, i):
    """ln of the probability of token i under logits z (V,)."""
    m = z.max()
    return float(z[i] - m - np.log(np.exp(z - m).sum()))


def choose(z, rng, temperature, top_k=None, top_p=None, min_p=None):
    """A token, from logits z (V,)."""
    if temperature == 0:
        return int(z.argmax())
    ids = np.flatnonzero(z > -np.inf)
    z = z[ids].astype(np.float64)
    if top_k is not None and top_k < len(ids):
        least = np.partition(z, -top_k)[-top_k]
        kept = np.concatenate([np.flatnonzero(z > least), np.flatnonzero(z == least)])[:top_k]   # of equals the first
        ids, z = ids[kept], z[kept]
    p = np.exp((z - z.max()) / temperature)                                              # [SA2]
    p /= p.sum()
    if top_p is not None:
        order = np.lexsort((ids, -p))
        fewest = order[np.cumsum(p[order]) - p[order] < top_p]   # a token stays if those before it do not make up top_p
        ids, p = ids[fewest], p[fewest]
    if min_p is not None:
        ids, p = ids[p >= min_p * p.max()], p[p >= min_p * p.max()]
    total = np.cumsum(p)
    return int(ids[min(np.searchsorted(total, rng.random() * total[-1], "right"), len(ids) - 1)])


def beam_search(model, ids, max_new_tokens, beams=4, length_penalty=1.0, stop=()):
    """The likeliest continuations of one prompt that are found with so many alternatives kept at a time.

    ids: a list. Returns [(ids, score)], the best first, at most `beams` of them; a score is the sum of ln p of the new
    tokens over their number ** length_penalty (Wu et al. 2016, arXiv:1609.08144, with the plain length). A continuation
    ends with one of stop, or has max_new_tokens.
    """
    (row,), size = prompts_of([ids]), model.config.block_size
    expect(all(hasattr(n, "__index__") and n > 0 for n in (beams, max_new_tokens)), "beam_search",
           f"beams {beams}, max_new_tokens {max_new_tokens}", "whole numbers above 0")
    stop = ids_of("beam_search", "stop", stop)
    expect(len(row) + max_new_tokens - 1 <= size, "beam_search", f"{len(row)} tokens and {max_new_tokens} new ones",
           f"room for them in block_size = {size}")
    decoder, ended = Decoder(model), []
    logits, alive, sums = on_host(decoder.read([row])), [[]], np.zeros(1)
    for n in range(1, max_new_tokens + 1):
        z = logits.astype(np.float64) - logits.max(-1, keepdims=True)
        totals = sums[:, None] + z - np.log(np.exp(z).sum(-1, keepdims=True))            # (B, V)
        best = np.argsort(-totals, axis=None, kind="stable")[:beams + beams * len(stop)]  # so that enough do not end
        found = [(alive[i // z.shape[1]] + [i % z.shape[1]], i // z.shape[1], totals.flat[i]) for i in best.tolist()]
        ended += [(new, total / n ** length_penalty) for new, _, total in found[:beams]
                  if new[-1] in stop or n == max_new_tokens]
        going = [f for f in found if f[0][-1] not in stop][:beams]
        ended = sorted(ended, key=lambda pair: -pair[1])[:beams]
        if n == max_new_tokens or not going:
            break
        alive, sums = [new for new, _, _ in going], np.array([total for _, _, total in going])
        decoder.keep([parent for _, parent, _ in going])
        logits = on_host(decoder.step(np.array([new[-1] for new in alive])))
    return [(row + new, float(score)) for new, score in ended]
