"""bench/power_law.py finds the laws that losses were made from, and bench/scaling_laws.py makes every run once."""
import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import power_law, scaling_laws
from bench.power_law import Law, best_parameters, fit
from bench.scaling_laws import FULL, SHORT, Job, folder, jobs, laws, longest, main, result, train_all
from gpt import GPT

N = np.array([1.25e4, 4.4e4, 1.37e5, 3.9e5, 8.7e5, 2.3e6, 4.9e6, 1.09e7])
D = 2.0 ** np.arange(18, 23)
GRID = tuple(a.ravel() for a in np.meshgrid(N, D))
exponent = st.floats(0.1, 0.8)
floors = st.floats(0.05, 3)


def scaled(floor, alpha, x, share):
    """(share * floor + 0.05, at the smallest x) as a scale: terms that can be seen."""
    return float(x[0] * (share * floor + 0.05) ** (1 / alpha))


@settings(max_examples=40, deadline=None)
@given(floors, exponent, st.floats(0.2, 2))
def test_a_law_of_parameters_is_found(floor, alpha, share):
    law = Law(floor, (scaled(floor, alpha, N, share),), (alpha,))
    found = fit(law(N), N, draws=0)
    np.testing.assert_allclose([found.law.floor, found.law.exponents[0]], [floor, alpha], rtol=1e-3)
    np.testing.assert_allclose(np.log(found.law.scales), np.log(law.scales), rtol=1e-3, atol=1e-2)
    assert found.error < 1e-3


@pytest.mark.parametrize("coupled, beta", [(False, exponent), (True, st.floats(0.4, 1.5))])
@settings(max_examples=40, deadline=None)
@given(floors, exponent, st.data(), st.floats(0.2, 2), st.floats(0.2, 2))
def test_a_law_of_parameters_and_tokens_is_found(coupled, beta, floor, alpha, data, share, other):
    beta = data.draw(beta)
    law = Law(floor, (scaled(floor, alpha, N, share), scaled(floor, beta, D, other)), (alpha, beta), coupled)
    found = fit(law(*GRID), *GRID, coupled=coupled, draws=0).law
    np.testing.assert_allclose([found.floor, *found.exponents], [floor, alpha, beta], rtol=1e-2)
    np.testing.assert_allclose(found(*GRID), law(*GRID), rtol=1e-4)


@settings(max_examples=10, deadline=None)
@given(st.floats(0.5, 2), st.floats(0.2, 0.7), st.integers(0, 10**6))
def test_intervals_hold_what_they_should_hold(floor, alpha, seed):
    """Losses of three seeds each, 0.3 % apart. One in twenty intervals misses, but none by more than its own width."""
    law, n, rng = Law(floor, (scaled(floor, alpha, N, 1),), (alpha,)), np.repeat(N, 3), np.random.default_rng(seed)
    found = fit(law(n) * np.exp(rng.normal(0, 0.003, n.size)), n, draws=200)
    for number in (lambda law: law.floor, lambda law: law.exponents[0], lambda law: np.log(law.scales[0])):
        low, high = found.interval(number)
        assert low < high < low + max(1, abs(number(law)))
        assert 2 * low - high <= number(law) <= 2 * high - low


def test_intervals_are_as_often_right_as_they_say():
    """In 30 experiments with known answers: 95 % of them, if there were many runs; here no fewer than 24."""
    law, n, right = Law(1.0, (3e4,), (0.3,)), np.repeat(N, 3), np.zeros(3)
    for seed in range(30):
        losses = law(n) * np.exp(np.random.default_rng(seed).normal(0, 0.005, n.size))
        found = fit(losses, n, draws=200)
        for i, number in enumerate((lambda law: law.floor, lambda law: law.exponents[0], lambda law: law.scales[0])):
            low, high = found.interval(number)
            right[i] += low <= number(law) <= high
    assert right.min() >= 24, right


def test_a_floor_that_is_known_stays():
    law = Law(1.0, (3e4,), (0.3,))
    found = fit(law(N) * np.exp(np.random.default_rng(0).normal(0, 0.003, N.size)), N, floor=1.0, draws=20)
    assert all(abs(one.floor - 1) < 1e-12 for one in [found.law, *found.draws])
    assert abs(found.law.exponents[0] - 0.3) < 0.02
    none = fit((3e4 / N) ** 0.076, N, floor=0.0, draws=0).law
    assert none.floor == 0 and abs(none.exponents[0] - 0.076) < 1e-6 and abs(none.scales[0] / 3e4 - 1) < 1e-3


def test_a_run_that_failed_does_not_bend_the_law():
    law = Law(1.0, (3e4, 1e5), (0.3, 0.5))
    losses = law(*GRID) * np.exp(np.random.default_rng(1).normal(0, 0.002, GRID[0].size))
    losses[7] *= 1.5
    found = fit(losses, *GRID, draws=0).law
    assert abs(found.floor - 1) < 0.05 and abs(found.exponents[0] - 0.3) < 0.03


@pytest.mark.parametrize("coupled", [False, True])
def test_slopes_are_those_of_differences(coupled):
    rng = np.random.default_rng(0)
    theta, logs, target = rng.normal(size=(3, 5)), rng.normal(size=(2, 7)), rng.normal(size=7)
    theta[:, 3:] = rng.uniform(0.2, 1.5, (3, 2))
    r, slope = power_law.residuals(theta, logs, target, coupled)
    law = power_law.as_law(theta[1], np.zeros(2), coupled)
    np.testing.assert_allclose(r[1], np.log(law(*np.exp(logs))) - target)
    for i in range(5):
        step = 1e-6 * np.eye(5)[i]
        ahead, behind = (power_law.residuals(theta + s, logs, target, coupled)[0] for s in (step, -step))
        np.testing.assert_allclose(slope[:, :, i], (ahead - behind) / 2e-6, atol=1e-8)


def test_huber_is_smooth_where_it_bends():
    d = power_law.BEND
    r = np.array([0.5 * d, d - 1e-9, d + 1e-9, 10 * d])
    np.testing.assert_allclose(power_law.huber(r), [d * d / 8, d * d / 2, d * d / 2, 9.5 * d * d], rtol=1e-6)
    np.testing.assert_array_equal(power_law.huber(-r), power_law.huber(r))


def test_coupled_prices_hide_each_other():
    """Kaplan's eq. 1.5, worked by hand, and both its ends; prices that are added up are never less."""
    law = Law(0.5, (2e4, 3e5), (0.3, 0.6), True)
    assert law(1e5, 1e6) == pytest.approx(0.5 + ((2e4 / 1e5) ** (0.3 / 0.6) + 3e5 / 1e6) ** 0.6)
    assert law(1e5, 1e30) == pytest.approx(0.5 + (2e4 / 1e5) ** 0.3)
    assert law(1e60, 1e6) == pytest.approx(0.5 + (3e5 / 1e6) ** 0.6)
    assert (law(*GRID) < law._replace(coupled=False)(*GRID)).all()


def test_lack_of_fit_is_that_of_medians():
    """[PL7], worked by hand: medians 2, -2 and 1/2 of 2, 1 and 2 runs, so 4 / (1/2) + 4 / 1 + (1/4) / (1/2) over two
    numbers to spare; variances 2 and 1/2. Of noise alone one case in twenty is above the limit."""
    chi2 = 0.4549                                            # its median, with one degree of freedom
    f, limit = power_law.lack_of_fit(np.array([1.0, 3.0, -2.0, 0.0, 1.0]), np.array([0, 0, 1, 2, 2]), 1)
    assert f == pytest.approx((12.5 / 2) / (1.25 / chi2), rel=0.05) and 7 < limit < 10
    assert np.isnan(power_law.lack_of_fit(np.ones(3), np.arange(3), 1)).all()
    assert np.isnan(power_law.lack_of_fit(np.ones(6), np.repeat([0, 1, 2], 2), 1)).all()
    rng, point, above = np.random.default_rng(0), np.repeat(np.arange(20), [3] * 12 + [1] * 8), 0
    for _ in range(100):
        f, limit = power_law.lack_of_fit(rng.normal(size=point.size), point, 0)
        above += f > limit
    assert 1 <= above <= 11


def test_the_share_between_values_is_that_of_medians():
    """[PL8], worked by hand: points of medians 3, 1, -1, -3, of which N tells the first two from the others and D says
    nothing; about their mean, 0, squares 20 in all, 2 * 2^2 + 2 * 2^2 between the N."""
    points, slope = np.array([[1.0, 1, 2, 2], [1, 2, 2, 1]]), np.ones((5, 1))
    (n, top), (d, _) = power_law.bends(np.array([2.0, 4, 1, -1, -3]), slope, points, np.array([0, 0, 1, 2, 3]))
    assert n == pytest.approx(16 / 20) and d == pytest.approx(0) and 0.8 < top < 1
    assert power_law.bends(np.ones(3), slope[:3], points[:1, 1:], np.arange(3)) == []


def test_a_law_that_holds_is_seldom_said_to_bend():
    """Families made from a law with the noise of the couplets' seeds, and fitted: one in twenty, N and D together."""
    x, bent, rng = [np.r_[np.repeat(a[:24], 3), a[24:]] for a in GRID], 0, np.random.default_rng(5)
    for _ in range(15):
        losses = Law(0.7, (1.2e4, 4e5), (0.7, 1.5), True)(*x) * np.exp(rng.normal(0, 0.013, x[0].size))
        bent += any(share > limit for share, limit in fit(losses, *x, coupled=True, draws=0).bends)
    assert bent <= 3


def test_intervals_know_that_a_floor_is_open():
    """Losses that are as well described without a floor: whatever the law of all runs says, its interval tells so."""
    x, rng = [np.repeat(a, 2) for a in GRID], np.random.default_rng(0)
    losses = Law(1e-9, (6e3, 1e11), (0.3, 0.1))(*x) * np.exp(rng.normal(0, 0.02, x[0].size))
    low, high = fit(losses, *x, draws=60).interval(lambda law: law.floor)
    assert low < 0.01 and high > 0.3


@pytest.mark.parametrize("held_back", [1, 1.3])
def test_a_law_that_lacks_something_is_told_from_one_that_does_not(held_back):
    """Noise of three seeds on each of two laws, and the fit of the other; one run that fails decides nothing."""
    x, rng = [np.repeat(a, 3) for a in GRID], np.random.default_rng(3)
    for coupled in (False, True):
        losses = Law(0.7, (3e4, 4e5), (0.6, 0.9), coupled)(*x) * np.exp(rng.normal(0, 0.003, x[0].size))
        losses[40] *= held_back
        right, wrong = (fit(losses, *x, coupled=c, draws=0) for c in (coupled, not coupled))
        assert right.lack < right.limit and wrong.lack > 2 * wrong.limit


@pytest.mark.parametrize("coupled", [False, True])
def test_the_best_use_of_operations_is_the_best(coupled):
    law = Law(0.7, (3e4, 1e5), (0.3, 0.5), coupled)
    for c in (1e12, 1e15):
        n = best_parameters(law, c)
        for factor in (0.9, 1.1):
            assert law(n, c / 6 / n) < law(n * factor, c / 6 / n / factor)
    grown = np.log(best_parameters(law, 1e15) / best_parameters(law, 1e12)) / np.log(1e3)
    assert abs(grown - power_law.share_of_parameters(law)) < 1e-9


@pytest.mark.parametrize("losses, xs, said", [
    ([1.0, 2.0, 3.0], [[1.0, 2.0, 3.0]], "3 different points for 3 numbers"),
    ([1.0, -2.0, 3.0, 4.0], [[1.0, 2.0, 3.0, 4.0]], "positive numbers"),
    ([1.0, np.nan, 3.0, 4.0], [[1.0, 2.0, 3.0, 4.0]], "positive numbers"),
    ([1.0, 2.0, 3.0], [[1.0, 2.0, 3.0, 4.0]], "positive numbers"),
    ([5.0, 4.0, 3.0, 2.0, 1.5, 1.0], [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [7.0] * 6], "1 values of an x"),
])
def test_what_cannot_be_fitted_is_refused(losses, xs, said):
    with pytest.raises(ValueError, match=said):
        fit(losses, *xs, draws=0)


# the family

def test_the_family_is_as_large_as_it_says():
    full, short = jobs(FULL), jobs(SHORT)
    counts = sorted({job.parameters for job in full})
    assert 10_000 < counts[0] < 15_000 and 10e6 < counts[-1] < 12e6 and len(counts) == FULL["sizes"]
    assert [job.operations for job in full] == sorted(job.operations for job in full)
    assert full[-1].operations <= FULL["operations"] and len(set(full)) == len(full)
    assert sum(job.operations for job in short) < sum(job.operations for job in full) / 40
    assert len({job.parameters for job in full if job.tokens == longest([j._asdict() | {"parameters": j.parameters}
                                                                        for j in full])}) == FULL["sizes"]
    model = GPT(full[0].config)
    assert full[0].parameters == sum(p.size for p in model.parameters())
    assert full[0].inner == full[0].parameters - model.wte.weight.size - model.wpe.weight.size
    assert all(job.tokens % scaling_laws.TOKENS_PER_STEP == 0 for job in full)


def test_other_settings_are_another_folder(tmp_path):
    job, file = Job(16, 1, 1, 2048, 0), tmp_path / "text.txt"
    file.write_text("a" * 10)
    names = {folder("out", job, "verse"), folder("out", job._replace(seed=1), "verse"), folder("out", job, str(file))}
    file.write_text("a" * 11)
    names |= {folder("out", job, str(file))}
    (tmp_path / "other").mkdir()
    for text in ("b" * 11, "c" * 11):                        # as long as before, and a folder of texts
        time.sleep(0.02)                                     # files have dates as old as a tick of the clock
        (tmp_path / "other" / "text.txt").write_text(text)
        names |= {folder("out", job, str(tmp_path / "other"))}
    assert len(names) == 6
    file.rename(tmp_path / "other" / "text.txt")             # what is read is the same, by whatever path
    assert folder("out", job, "verse") in names and scaling_laws.contents(tmp_path / "other") == (
        scaling_laws.contents(tmp_path / "other" / "text.txt"))


def test_fewer_runs_never_take_the_place_of_more(tmp_path, monkeypatch):
    """Nor does half a file: what is written stands beside until it is whole."""
    found = made_up(Law(1.0, (3e4, 1e5), (0.3, 0.5)), 1.0)[:3]
    monkeypatch.setattr(scaling_laws, "train_all", lambda *_: found)
    argv, file = ["--out", str(tmp_path)], tmp_path / "scaling-laws-verse.json"
    assert main(argv) == 0
    kept = file.read_text()
    found = found[:2]
    with pytest.raises(ValueError, match="got 2 runs for"):
        main(argv)
    assert file.read_text() == kept
    found = made_up(Law(1.0, (3e4, 1e5), (0.3, 0.5)), 1.0)[:4]
    monkeypatch.setattr(os, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(argv)
    assert file.read_text() == kept


@pytest.mark.parametrize("data, width, steps, lr, warmup", [
    ("verse", 64, 512, 0.01, 64), ("verse", 16, 2048, 0.04, 100), ("verse", 384, 4096, 0.00167, 100),
    ("novels", 64, 512, 0.005, 128), ("novels", 16, 2048, 0.02, 512), ("novels.txt", 384, 256, 0.000833, 64)])
def test_a_text_has_the_rate_that_was_found_for_its_kind(data, width, steps, lr, warmup):
    """bench/LOG.md, scaling laws on prose: half the rate of couplets, and a rise over a quarter of the steps."""
    said = Job(width, 2, 2, steps * 1024, 0).settings(data)
    assert (float(said["lr"]), said["warmup"], said["steps"]) == (lr, warmup, steps)
    assert float(said["min_lr"]) == pytest.approx(lr / 100, rel=0.01)


def few_couplets(monkeypatch):
    """Runs that take seconds."""
    long = Job.settings
    monkeypatch.setattr(Job, "settings", lambda job, data: {
        **long(job, data), "couplets": 600, "vocab_size": 300, "eval_tokens": 500})


def test_a_run_is_made_once_and_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    few_couplets(monkeypatch)
    job = Job(16, 1, 1, 4 * 1024, 0)
    assert train_all(tmp_path, [job], "verse", 0.05) == [] and "the same command goes on" in capsys.readouterr().out
    row, = train_all(tmp_path, [job], "verse", 600)
    assert row == result(folder(tmp_path, job, "verse"), job)
    assert 0 < row["floor"] < row["loss"] < 7 and row["tokens"] == 4096 and row["epochs"] < 1

    def none(*_, **__):
        raise AssertionError("a run that has ended was started again")
    monkeypatch.setattr(subprocess, "Popen", none)
    assert train_all(tmp_path, [job], "verse", 600) == [row]
    assert result(folder(tmp_path, job, "verse"), job._replace(tokens=8 * 1024)) is None


def test_a_run_that_fails_is_an_error_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(Job, "settings", lambda job, data: {"steps": 1, "n_embd": 16, "n_head": 3})
    with pytest.raises(ValueError, match="multiple of n_head"):
        train_all(tmp_path, [Job(16, 1, 1, 1024, 0)], "verse", 100)


def test_no_text_is_read_twice(tmp_path, monkeypatch, capsys):
    todo = [Job(16, 1, 1, 1024 * n, 0) for n in (1, 2, 3)]
    monkeypatch.setattr(scaling_laws, "result", lambda where, job: {
        "loss": 1.0, "epochs": job.tokens / 2100, "tokens": job.tokens})
    text = tmp_path / "text.txt"
    text.write_text("a text")
    assert [row["tokens"] for row in train_all(tmp_path, todo, str(text), 1)] == [1024, 2048]
    assert "no 3,072 tokens" in capsys.readouterr().out
    with pytest.raises(ValueError, match="2,100 tokens to train on"):
        train_all(tmp_path, todo[2:], str(text), 1)


def made_up(law, floor, plan=FULL):
    """Of seed 0 the sizes differ by as much as one family in twenty has it, and the law is said to bend."""
    rng = np.random.default_rng(1)
    return [{**job._asdict(), "parameters": job.parameters, "inner": job.inner, "floor": floor, "epochs": 0.1,
             "loss": float(law(job.parameters, job.tokens) * (1 + 0.002 * rng.normal()))} for job in jobs(plan)]


@pytest.mark.parametrize("known, plan, form", [(True, FULL, "sum"), (True, FULL, "coupled"), (False, FULL, "sum"),
                                               (True, SHORT, "sum")])
def test_what_is_written_is_what_was_found(known, plan, form, tmp_path, monkeypatch, capsys):
    """Of the law that the losses were made from, with all runs: models of one layer are not asked."""
    law = Law(1.0, (3e4, 3e5), (0.3, 0.5), form == "coupled")
    found = made_up(law, 1.0 if known else None, plan)
    for row in found:
        row["loss"] *= 1.3 if row["layers"] == 1 else 1
    monkeypatch.setattr(scaling_laws, "train_all", lambda *_: found)
    argv = ["--out", str(tmp_path), "--results", str(tmp_path / "r")] + ["--short"] * (plan is SHORT)
    assert main(argv) == 0
    where = tmp_path / "r" / ("scaling-laws-verse" + "-short" * (plan is SHORT))
    said = json.loads(Path(f"{where}.json").read_text())
    assert said["runs"] == found and Path(f"{where}.png").read_bytes()[:4] == b"\x89PNG"
    text = Path(f"{where}.md").read_text()
    assert f"{len(found)} of {len(found)} runs" in text
    assert text in capsys.readouterr().out and ("entropy of the validation text" in text) == known
    name = f"L(N, D), {form}, {2 ** plan['doublings'][0]:,} tokens and more"
    assert f"by no more than seeds differ, and does not bend: **{name}**." in text
    low, high = said["fits"][name]["E"]["95 %"]
    assert low - 0.05 < 1 < high + 0.05 and said["fits"][name]["error %"] < 0.5
    assert (f"* {name}: E is {said['fits'][name]['E']['value']:.4f}" in text) == known
    assert (name + ", floor known" in said["fits"]) == known
    assert said["fits"][name]["F"] < said["fits"][name]["limit"] < 7
    assert all(share < limit for share, limit in said["fits"][name]["S"].values())
    if form == "coupled":
        assert main(["--fit", f"{where}.json"]) == 0
    assert Path(f"{where}.md").read_text() == text and json.loads(Path(f"{where}.json").read_text()) == said
    if form == "coupled":
        assert said["fits"][name.replace(form, "sum")]["F"] > 10
    if plan is FULL:
        assert abs(said["fits"][name]["a"]["value"] - 0.5 / 0.8) < 0.05
        assert "L(N), 2,097,152 tokens, no floor, without embeddings" in said["fits"]
        without = said["fits"]["L(N), 2,097,152 tokens, no floor"]["alpha"]["value"]
        assert without < said["fits"]["L(N), 2,097,152 tokens"]["alpha"]["value"]


def test_where_no_law_holds_the_closest_is_told():
    found = made_up(Law(1.0, (3e4, 3e5), (0.3, 0.5)), 1.0)
    for row in found:
        row["loss"] *= 1 + 0.1 * np.sin(np.log(row["parameters"] * row["tokens"]))
    fits = laws(found, draws=20)
    form, one = scaling_laws.chosen(fits)
    assert one is fits[form._replace(floor=found[0]["floor"])] and fits[form].lack > fits[form].limit
    said = scaling_laws.describe(found, fits, "verse", "", 81, "a machine")
    assert f"No law of N and D holds; **{form.title}** comes closest. It is off by more than seeds differ" in said


def test_a_law_that_bends_does_not_hold():
    """All points of one number of tokens a percent above the law, all of the next a percent below: what no law of the
    kind can follow, and what F, beside seeds that differ by as much, takes for noise."""
    found, rng = made_up(Law(0.7, (1.2e4, 4e5), (0.7, 1.5), True), 0.7), np.random.default_rng(2)
    off = dict(zip(sorted({row["tokens"] for row in found}), (0, 0, 0.012, -0.024, 0.012)))
    for row in found:
        row["loss"] *= np.exp(off[row["tokens"]] + rng.normal(0, 0.012))
    form = scaling_laws.Form("coupled", 2 ** 20)
    one = laws(found, draws=20)[form]
    assert one.near and not one.holds and one.bends[0][0] < one.bends[0][1]
    said = scaling_laws.verdict(form, one)
    assert "no more than seeds differ, but it bends: " in said and "between the values of D, where" in said
    assert "N, where" not in said and form.counts(found) == (34, 20)


def test_a_few_runs_are_shown_without_laws(tmp_path, monkeypatch):
    found = made_up(Law(1.0, (3e4, 1e5), (0.3, 0.5)), 1.0)[:2]
    assert laws(found) == {} and laws([]) == {} and longest([]) == 0
    monkeypatch.setattr(scaling_laws, "train_all", lambda *_: found)
    assert main(["--out", str(tmp_path)]) == 0
    assert f"2 of {len(jobs(FULL))} runs" in (tmp_path / "scaling-laws-verse.md").read_text()


def test_bad_input_is_refused(tmp_path):
    for argv in (["--data", str(tmp_path / "none.txt")], ["--minutes", "-1"], ["--minutes", "nan"]):
        with pytest.raises(SystemExit) as e:
            main([*argv, "--out", str(tmp_path)])
        assert e.value.code == 2
    for text in ("", "{}", '{"runs": 3}', "[]"):
        (tmp_path / "no.json").write_text(text)
        with pytest.raises(ValueError, match="expected a .json that"):
            main(["--fit", str(tmp_path / "no.json")])
    with pytest.raises(ValueError, match="got no run that has ended"):
        main(["--out", str(tmp_path), "--minutes", "0"])
