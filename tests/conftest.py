"""How hard hypothesis searches: HYPOTHESIS_PROFILE=thorough for a long look; always the same cases in CI."""
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")        # PyTorch's threads, where it is compared with, would fight ours

from hypothesis import settings  # noqa: E402

settings.register_profile("fast", max_examples=60, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=3000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "fast"))
