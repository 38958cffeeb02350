"""Settings of the test run: the marker gpu, and how hard hypothesis searches (HYPOTHESIS_PROFILE=thorough)."""
import os

from hypothesis import settings

settings.register_profile("fast", max_examples=60, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "fast"))


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs a CUDA device")
