"""Measurements and proofs that are too slow for the tests, or that need PyTorch. Nothing imports bench but tests."""
