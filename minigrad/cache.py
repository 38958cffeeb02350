"""Where compiled kernels are kept from one process to the next, and how processes keep out of each other's way."""
import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:                                          # Windows: two runs should not begin at one time there
    fcntl = None  # type: ignore[assignment]                 # where it is a module, mypy takes it for always one


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


@contextlib.contextmanager
def one_at_a_time(folder: str | Path, wait: bool = True) -> Iterator[None]:
    """Other processes that want the same wait here, or get a BlockingIOError. The system ends it if this one is killed.
    Where there are no locks, on Windows and on some file systems of networks, nobody is kept out."""
    if not fcntl:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:                                      # NFS, for one, locks no folders
            pass
        yield
    finally:
        os.close(handle)
