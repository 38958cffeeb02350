"""usage: python -m bench COMMAND [options]: measurements and proofs, each with its own --help."""
import importlib
import sys

from minigrad.check import exit_status

COMMANDS = {
    "all": "every number of README and bench/results/README.md, measured again: which no longer hold?",
    "ops": "every fused op beside its floor and PyTorch's; --gradcheck: every gradient by finite differences",
    "cuda": "registers, spills and shared memory of every CUDA kernel; needs no GPU",
    "gpu": "on an NVIDIA GPU: kernels, training and generation, right or wrong, beside floors and PyTorch",
    "gpu-trace": "on an NVIDIA GPU: where the time of a training step goes, kernel by kernel; ours or PyTorch's",
    "step": "a training step beside PyTorch's and beside what this machine could do at best",
    "memory": "where the bytes of a training step are, beside a prediction, and what recompute saves",
    "scaling": "the cost of a token against context, width and depth, beside its formula",
    "scaling-laws": "the loss against parameters and tokens, down to a floor that is known: laws with intervals",
    "attention": "time and memory of attention against the context, by arrays, by chunks and by the compiled kernel",
    "ranks": "a step on many ranks beside one without messages, and what that says of many GPUs",
    "generate": "new tokens per second beside transformers' and beside the memory's limit",
    "start": "from the start of a process to its first training step",
    "tok": "training and encoding beside tiktoken and Hugging Face's tokenizers",
    "verse": "how many of a run's couplets keep the meter, the rhyme and every rule of their grammar",
    "poetry": "how well verse is scanned, beside what luck gives; needs a folder of verse and prose",
    "survive": "kill -9, SIGTERM, a full disk, damaged files: is anything ever lost?",
    "curve": "the losses of a run's first steps beside PyTorch's, from the same weights and batches",
    "overhead": "what checkpoints, logging, validation and looking for NaN cost, beside a step",
    "ladder": "one GPT on names by scalars, by arrays and by kernels: the same losses",
    "planted": "breaks the code in random places and counts how often the tests notice; --cuda: the CUDA kernels",
}


def main(argv):
    if argv and argv[0] in COMMANDS:
        return exit_status(lambda: importlib.import_module("bench." + argv[0].replace("-", "_")).main(argv[1:]))
    asked = not argv or argv[0] in ("-h", "--help")
    if not asked:
        print(f"bench: got {argv[0]!r}; expected one of {', '.join(COMMANDS)}\n", file=sys.stderr)
    print(__doc__ + "\n\n" + "\n".join(f"    {name:12} {what}" for name, what in COMMANDS.items()),
          file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
