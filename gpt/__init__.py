"""GPT-1 and GPT-2."""
from gpt.generate import beam_search, generate, stream
from gpt.model import GPT, GPTConfig

__all__ = ["GPT", "GPTConfig", "beam_search", "generate", "stream"]
