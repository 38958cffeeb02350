"""GPT-1 and GPT-2."""
from gpt.generate import generate
from gpt.model import GPT, GPTConfig

__all__ = ["GPT", "GPTConfig", "generate"]
