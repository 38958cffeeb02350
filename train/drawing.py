"""Pictures, drawn beside what they will replace."""
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def drawing(file: str | Path, rows: int = 1, columns: int = 1, **how: Any) -> Iterator[tuple]:
    """(a figure, its panels [row, column]), which are in the file afterwards: PNG, or what its suffix says."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    file = Path(file)
    temporary = file.with_name(f".{file.name}.tmp")          # who looks meanwhile sees the old one
    figure, panels = plt.subplots(rows, columns, dpi=120, layout="constrained", squeeze=False, **how)
    try:
        yield figure, panels
        for axes in panels.flat:
            axes.spines[["top", "right"]].set_visible(False)
        with warnings.catch_warnings():                      # a run may be called कविता, and the font lack the letters
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            figure.savefig(temporary, format=file.suffix[1:] or "png")
        os.replace(temporary, file)
    finally:
        plt.close(figure)
        temporary.unlink(missing_ok=True)
