"""Where compiled kernels are kept from one process to the next."""
import os
import tempfile
from pathlib import Path


def folder(variable, name):
    """The folder called name, made if it is not there: under what the environment's variable says if it is set, else in
    the user's cache folder, else among temporary files."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "minigrad")
    for base in (lambda: Path(os.environ.get(variable) or home), lambda: home, temporary):
        try:
            path = base() / name
            path.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue                               # a home that cannot be written
        if os.access(path, os.W_OK):
            return path
    raise OSError(f"no folder for compiled kernels can be written. Hint: set {variable} to one that can")


def temporary():
    """A folder of this user among temporary files. Everybody may write there, so one that another user has made, or can
    write to, is refused: he could have left code in it."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    path = Path(tempfile.gettempdir(), f"minigrad-{user}")
    path.mkdir(mode=0o700, exist_ok=True)
    about = path.stat()
    if user != "user" and (about.st_uid != user or about.st_mode & 0o022):
        raise PermissionError(f"{path} belongs to others too")
    return path
