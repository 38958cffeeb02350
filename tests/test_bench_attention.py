"""Ways to compute attention agree, and what bench says of their cost is counted right."""
import re
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from bench import attention as cost
from bench import claims, turns
from minigrad.fused.attention import attention


@pytest.mark.parametrize("T", [1, 7, 40])
def test_all_ways_give_the_same(monkeypatch, T):
    """Chunks of 16 queries: less than one, and some that end within one."""
    monkeypatch.setattr(cost, "CHUNK", 16)
    rng = np.random.default_rng(T)
    qkv, dy = rng.standard_normal((2, T, 24)), rng.standard_normal((2, T, 8))
    want, saved = attention.reference(qkv, n_head=2)
    gradient, = attention.reference_backward(dy, *saved, into=[None])
    y, kept = cost.pair("chunked", 2)[0](qkv)
    np.testing.assert_allclose(y, want, atol=1e-12)
    np.testing.assert_allclose(cost.pair("chunked", 2)[1](dy, *kept), gradient, atol=1e-12)
    for way in ("naive", "flash"):
        forward, backward = cost.pair(way, 2)
        y, kept = forward(qkv.astype(np.float32))
        np.testing.assert_allclose(y, want, atol=1e-5)
        np.testing.assert_allclose(backward(dy.astype(np.float32), *kept)[0], gradient, atol=1e-5)


@pytest.mark.parametrize("way", ["naive", "chunked", "flash", *["PyTorch"] * turns.HAVE_TORCH])
def test_a_point_is_measured(way):
    steps = cost.point(way, 64, 16)
    first, second = next(steps), next(steps)
    assert len(first) == 3 and min(first[:2]) > 0 and first[2] == second[2] < 1 << 30


def test_scores_that_are_kept_show_in_the_memory():
    """Two heads of 768 x 768 in float32 are 4.5 MiB; the results are 1.5."""
    with get_context("spawn").Pool(1, maxtasksperchild=1) as fresh:          # processes in which nothing freed is kept
        naive, flash = fresh.map(peak, ("naive", "flash"), chunksize=1)
    assert naive > flash + 2 * 4 * 2 * 768 ** 2


def peak(way):
    return next(cost.point(way, 768, 64))[2]


def test_predictions_by_hand():
    assert cost.operations("naive", 128, 64) == 14 * 128 * 128 * 64 * 2 == 2 * cost.operations("flash", 128, 64)
    assert cost.predicted("flash", 128, 64) == 4 * (4 * 128 * 128 + 6 * 128 * 64)
    assert cost.predicted("naive", 128, 64) == 4 * (4 * 128 * 128 + 4 * 2 * 128 * 128)
    assert cost.predicted("PyTorch", 128, 64) is None


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux counts the most anew")
def test_memory_is_what_is_predicted():
    """Of the naive way at 1024, where what does not grow is small."""
    found, = cost.measure([("naive", 1024, 64)], 1).values()
    assert found[2] == pytest.approx(cost.predicted("naive", 1024, 64), rel=0.15)


def test_two_points_say_nothing_of_how_far_points_lie_from_their_line():
    slope, spread = cost.exponent([1, 2], [3, 12])
    assert slope == pytest.approx(2) and np.isnan(spread)
    points = [(512, 64), (1024, 64), (1024, 128)]
    lines = cost.exponents({("flash", n, d): (n * n * d, 0.0, n * d) for n, d in points})
    assert "2.00 ± -" in lines[1] and "nan" not in lines[1]
    assert re.findall(claims.power("flash", 2), lines[1], re.M) == ["1.00"]


def test_exponents_are_those_of_powers():
    slope, spread = cost.exponent([1, 2, 4, 8], [3, 12, 48, 192])
    assert slope == pytest.approx(2) and spread == pytest.approx(0, abs=1e-7)
    slope, spread = cost.exponent([1, 2, 4], [1, 2.2, 4])
    assert slope == pytest.approx(1) and 0.05 < spread < 0.2
    points = [(n, 64) for n in (128, 512, 1024, 2048)] + [(1024, d) for d in (32, 128)]
    lines = cost.exponents({("flash", n, d): (n * n * d, 0.0, n * d if n > 128 else 1) for n, d in points})
    assert lines[1].replace(" ± ", "±").split() == ["flash", "2.00±0.00", "1.00±0.00", "1.00±0.00", "1.00±0.00"]


def test_a_process_for_every_point():
    found = cost.measure([("flash", 128, 16), ("naive", 64, 16)], 2)
    assert list(found) == [("flash", 128, 16), ("naive", 64, 16)] and all(len(values) == 3 for values in found.values())


def test_the_command(monkeypatch, tmp_path, capsys):
    """On a machine that does as the formulas say, at 100 GFLOP/s."""
    class Ceilings:
        dead, values = False, [0.9e11, 1e11]

        def __init__(self, *_):
            self.work = self.close = lambda *_: None

    def measure(todo, calls):
        return {key: (2 * cost.operations(*key) / 7e11, 5 * cost.operations(*key) / 7e11, cost.predicted(*key))
                for key in todo}

    monkeypatch.setattr(turns, "HAVE_TORCH", False)
    monkeypatch.setattr(cost, "Side", Ceilings)
    monkeypatch.setattr(cost, "measure", measure)
    assert cost.main(["--short", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert (tmp_path / "attention.txt").read_text().strip() == shown[shown.index("python -m bench"):].strip()
    rows = [line.split() for line in shown.splitlines() if line.startswith(("naive", "chunked", "flash"))]
    assert [row[:3] for row in rows if len(row) == 9] == [
        [way, str(n), str(d)] for points in ([(n, 64) for n in cost.SHORT[0]], [(1024, 32), (1024, 128)])
        for way in ("naive", "chunked", "flash") for n, d in points]
    assert all(row[5] == row[6] and row[7] == row[8] for row in rows if len(row) == 9)
    assert f"flash{'2.00 ± -':>21}{'1.00 ± -':>16}{'1.00 ± 0.00':>16}{'1.00 ± 0.00':>16}" in shown
    assert (tmp_path / "attention.png").stat().st_size > 10_000 and "pip install torch" in shown
