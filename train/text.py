"""Text in, text out: a model, and the tokenizer that it was trained with.

    poet = GPT2.from_pretrained("runs/verse")
    print(poet.generate("#वर्षा", max_length=100, temperature=0.8))
"""
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from gpt import GPT, generate, stream
from minigrad.check import expect
from tok.base import Tokenizer, refusal
from train import checkpoint
from train.data import END, front
from train.parallel import ALONE, Group

SEPARATOR = "\n" + "-" * 40 + "\n"       # between texts


class GPT2:
    """A GPT that reads and writes text. settings, wherever they are taken, are those of gpt.stream, but for `stop`: a
    text ends where its tokenizer says."""

    def __init__(self, model: GPT, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer, end = model, tokenizer, tokenizer.special.get(END)
        self.stop = set() if end is None else {end}
        self.front = front(tokenizer)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> "GPT2":
        """From a run folder, a folder in Hugging Face's layout, or a name on huggingface.co."""
        model, tokenizer = checkpoint.load(source)
        if tokenizer is None:
            raise refusal(str(source), "no tokenizer in it", "a folder with one beside the weights",
                          "tokenizer.save(FOLDER + '/tokenizer.json')")
        return cls(model, tokenizer)

    def save(self, folder: str | Path) -> None:
        """Write a folder that transformers reads: weights, and a tokenizer.json of its kind."""
        self.tokenizer.to_hf(folder)                         # it may refuse, and then nothing was written
        self.model.save(folder, *self.stop)

    def generate(self, prompt: str | Sequence[int] = "", max_length: int = 100, temperature: float = 0.8,
                 **settings: Any) -> str | list[int]:
        """prompt, continued until the model ends it, or until there are max_length tokens with the one that stands in
        front of a document. Of a list of ids the ids."""
        ids = self.begin(prompt) if isinstance(prompt, str) else prompt
        expect(len(ids) < max_length, "generate", f"a prompt of {len(ids)} tokens", f"fewer than {max_length}",
               "a larger max_length")
        row, = generate(self.model, [ids], max_length - len(ids), temperature=temperature, stop=self.stop, **settings)
        return self.text(row) if isinstance(prompt, str) else row

    def write(self, n: int = 1, tokens: int = 200, prompt: str = "", seed: int = 0, group: Group = ALONE,
              **settings: Any) -> list[str]:
        """n texts that begin with prompt, or as a document does, of so many new tokens, or less where they end. Text k
        is what seed + k gives alone; each rank of a group writes some."""
        begin = self.begin(prompt)
        rows = group.share(lambda some: generate(self.model, [begin] * len(some), tokens, stop=self.stop,
                                                 seed=seed + some[0], **settings), range(n))
        return [self.text(row).strip("\n") for row in rows]

    def stream(self, tokens: int = 200, prompt: str = "", **settings: Any) -> Iterator[str]:
        """One such text in pieces, as it is written."""
        ids = self.begin(prompt)
        new = (token.id for token, in stream(self.model, [ids], tokens, stop=self.stop, **settings))
        yield from self.tokenizer.decode_stream(chain(ids[len(self.front):], (i for i in new if i not in self.stop)))

    def begin(self, prompt: str) -> list[int]:
        """The ids of a prompt, behind what stands in front of a document."""
        ids = [*self.front, *self.tokenizer.encode(prompt)]
        expect(ids, "generate", "an empty prompt", "some text", f"the tokenizer has no {END} to begin with")
        return ids

    def text(self, row: list[int]) -> str:
        """What begin(), continued, says."""
        return self.tokenizer.decode(row[len(self.front):-1 if row[-1] in self.stop else None])
