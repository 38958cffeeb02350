"""Tokenizers: text to token ids and back. Needs regex and numpy, and nothing else of this project."""
from tok.base import load
from tok.bpe import BPETokenizer
from tok.char import CharTokenizer

__all__ = ["BPETokenizer", "CharTokenizer", "load"]
