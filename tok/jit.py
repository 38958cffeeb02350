"""How the compiled part of this package is compiled: @jit for what Python calls, @plain for what that calls.

Compiled code is kept for later processes. Numba looks at a function's own file to see whether its code is still good,
but not at those of the functions inside, so the folder's name is made from the contents of all of them.
"""
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numba
from numba import njit

plain = njit(nogil=True)


def jit(f: Callable) -> Callable:
    """Compile f at its first call; it runs without the interpreter's lock."""
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, folder()
    try:
        return njit(nogil=True, cache=True)(f)
    finally:
        numba.config.CACHE_DIR = before             # other people's functions are cached where they asked for it


def announce() -> None:
    """Say what the first calls will be busy with, if nothing of this package has been compiled yet."""
    if not any(Path(folder()).rglob("*.nbi")):
        print("compiling the tokenizers, once: later runs find them in a cache ...", file=sys.stderr, flush=True)


def folder() -> str:
    """Where compiled code is kept: under NUMBA_CACHE_DIR if that is set, else in the user's cache folder."""
    files = sorted(Path(__file__).parent.glob("*_cpu.py"))
    key = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    base = Path(os.environ.get("NUMBA_CACHE_DIR") or Path(home, "minigrad"))
    for where in (lambda: base, temporary):
        try:
            path = where() / f"tok-{key}"
            path.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue                                # a home that cannot be written
        if os.access(path, os.W_OK):
            return str(path)
    raise OSError("no folder for compiled code can be written. Hint: set NUMBA_CACHE_DIR to one that can")


def temporary() -> Path:
    """A folder of this user among temporary files, into which nobody else can have put code."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    path = Path(tempfile.gettempdir(), f"minigrad-{user}")
    path.mkdir(mode=0o700, exist_ok=True)
    about = path.stat()
    if user != "user" and (about.st_uid != user or about.st_mode & 0o022):
        raise PermissionError(f"{path} belongs to others too")
    return path
