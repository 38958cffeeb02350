"""Tokenizers: text to token ids and back. Needs regex, numpy, numba and tqdm, and nothing else of this project."""
from tok.base import load
from tok.bpe import BPETokenizer
from tok.char import CharTokenizer
from tok.gpt1 import GPT1Tokenizer
from tok.hindi import HindiTokenizer
from tok.wordpiece import WordPieceTokenizer

__all__ = ["BPETokenizer", "CharTokenizer", "GPT1Tokenizer", "HindiTokenizer", "WordPieceTokenizer", "load"]
