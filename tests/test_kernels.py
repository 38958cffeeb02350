"""Which implementation runs: the kernel where there is one, the definition where somebody asks for it."""
import os
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import pytest

import minigrad.fused.adamw
import minigrad.fused.adamw_cpu
import minigrad.fused.cross_entropy
import minigrad.fused.embedding
import minigrad.fused.gelu
import minigrad.fused.linear
import minigrad.fused.softmax  # noqa: F401  (each fills the table)
from minigrad import cache, kernels, using
from minigrad.cuda import Launcher
from minigrad.emulator import emulator
from minigrad.fused.attention import attention
from minigrad.fused.dropout import counter_and_keys, dropout, philox
from minigrad.tensor import Op
from tok import jit

ROOT = Path(__file__).resolve().parents[1]
WITH_KERNEL = [op for op in Op.table.values() if "cpu" in op.kernels]


@pytest.mark.parametrize("op", WITH_KERNEL, ids=repr)
def test_a_kernel_runs_unless_the_reference_is_asked_for(op):
    x = [np.ones(3)]
    with using("auto"):
        forward, backward = kernels.choose(op, x)
        assert f"{op.module}_cpu" in (forward.__module__, backward.__module__)         # one of the two may be shared
        with using("reference"):
            assert kernels.choose(op, x) == (op.reference, op.reference_backward)
            with pytest.raises(ZeroDivisionError), using("auto"):
                raise ZeroDivisionError
            assert kernels.choose(op, x) == (op.reference, op.reference_backward)      # switched back, error or not
        assert kernels.choose(op, x) == (forward, backward)


@pytest.mark.parametrize("name, n, how", [
    ("adamw", 4, dict(master=None, lr=0.1, beta1=0.9, beta2=0.9, eps=1e-8, decay=0.0, step=1)),
    ("sum_of_squares", 1, {}),
])
def test_plain_functions_have_kernels_too(name, n, how, monkeypatch):
    function, seen = getattr(minigrad.fused.adamw, name), []
    monkeypatch.setattr(minigrad.fused.adamw_cpu, name, lambda *arrays, **how: seen.append("kernel"))
    monkeypatch.setattr(kernels, "_pair", kernels._pair.__wrapped__)                   # nothing remembered
    for mode in ("reference", "auto"):
        with using(mode):
            function(*np.ones((n, 3)), **how)
        assert seen == ["kernel"] * (mode == "auto")


def test_a_wrong_mode_is_refused():
    with pytest.raises(ValueError, match="using: got 'fast'; expected one of auto, reference, emulated"), using("fast"):
        pass
    done = subprocess.run([sys.executable, "-c", "import minigrad"], cwd=ROOT, env={"MINIGRAD_KERNELS": "fast"},
                          capture_output=True, text=True)
    assert done.returncode == 1
    assert "MINIGRAD_KERNELS: got 'fast'; expected one of auto, reference, emulated" in done.stderr


def test_without_numba_the_references_run():
    code = ("import sys; sys.modules['numba'] = sys.modules['llvmlite'] = None\n"
            "from gpt import GPT, GPTConfig\n"
            "from nn import AdamW\n"
            "model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))\n"
            "opt = AdamW(model.parameters())\n"
            "model.loss([[1, 2]], [[2, 3]]).backward(); opt.step(); print('trained')")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "trained\n", done.stderr


@pytest.mark.parametrize("mode", ["auto", "reference", "emulated"])
@pytest.mark.parametrize("place", range(11))
def test_a_word_at_the_threshold_stays(mode, place):
    """[DR6] says >=: p = word / 2^32 keeps the entry, one step more drops it. By chance nobody would ever see it."""
    if mode == "emulated" and not emulator.available():
        pytest.skip(emulator.NO_COMPILER)
    key, dtype = (12345, 6, 7, 8), "float32" if mode == "emulated" else "float64"
    counter, keys = counter_and_keys(key)
    word = philox((place // 4, *counter), keys)[place % 4]
    with using(mode):
        for p, kept in ((word / 2 ** 32, True), ((word + 1) / 2 ** 32, False)):
            assert (dropout(np.ones(11, dtype), p=p, key=key).data[place] > 0) == kept
            # Through attention: one head, T = 4, so entry 4 i + j of the mask is the weight of j in position i. v is
            # a one-hot of j: y_ij is the weight itself. Entries 0, 4, 5, 8, 9, 10 lie on or below the diagonal.
            i, j = divmod(place, 4)
            if j <= i < 4:
                qkv = np.concatenate([np.zeros((4, 8)), np.eye(4)], 1)[None].astype(dtype)
                assert (attention(qkv, n_head=1, dropout=(p, key)).data[0, i, j] > 0) == kept


def test_a_kernel_keeps_the_most_shared_memory_that_it_was_promised():
    """The promise is the function's: a smaller one, made later, would break the larger."""
    class Function:
        max_dynamic_shared_size_bytes = 0

        def __call__(self, grid, block, arguments, shared_mem=0):
            assert shared_mem <= self.max_dynamic_shared_size_bytes

    function = Function()
    program = types.SimpleNamespace(emulated=types.SimpleNamespace(get_function=lambda name: function))
    launcher = Launcher(program, "forward")
    for shared in 100, 60_000, 100_000, 60_000, 100_000, 0:
        launcher[1, 32, shared](np.zeros(1))


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("change", [lambda p: os.chown(p, 12345, -1), lambda p: p.chmod(0o777)])
@pytest.mark.parametrize("find", [lambda: cache.folder("NO_SUCH_VARIABLE", "x"), jit.folder])
def test_compiled_code_of_other_users_is_not_loaded(tmp_path, monkeypatch, change, find):
    """Where home cannot be written it lies among temporary files, in a folder of this user alone."""
    (tmp_path / "home").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ours = Path(find()).parent
    assert ours == tmp_path / f"minigrad-{os.getuid()}" and ours.stat().st_mode & 0o777 == 0o700
    change(ours)
    with pytest.raises(OSError, match="no folder for compiled .* can be written. Hint: set"):
        find()
