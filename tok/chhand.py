"""The meter of Hindi verse, under one name."""
from tok.scansion import RULES, Akshara, matras, pattern, readings, rhymes, scan, tuk

__all__ = ["RULES", "Akshara", "matras", "pattern", "readings", "rhymes", "scan", "tuk"]
