"""Where compiled kernels are kept from one process to the next."""
import os
import tempfile
from pathlib import Path


def folder(variable, name):
    """The folder called name, made if it is not there: under what the environment's variable says if it is set, else in
    the user's cache folder, else among temporary files."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    for base in (os.environ.get(variable), Path(cache, "minigrad"), Path(tempfile.gettempdir(), "minigrad")):
        if base:
            path = Path(base, name)
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError:
                continue                           # a home that cannot be written
            if os.access(path, os.W_OK):
                return path
    raise OSError(f"no folder for compiled kernels can be written. Hint: set {variable} to one that can")
