"""Tokenizers: text to token ids and back. Needs regex, numpy and numba, and nothing else of this project."""
from tok.base import load
from tok.bpe import BPETokenizer
from tok.char import CharTokenizer
from tok.wordpiece import WordPieceTokenizer

__all__ = ["BPETokenizer", "CharTokenizer", "WordPieceTokenizer", "load"]
