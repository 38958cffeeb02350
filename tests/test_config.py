"""Settings: where they come from, which wins, and what is said about a wrong one."""
import dataclasses
import json

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from train import config
from train.config import FIELDS, Config, describe, parse

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("C",)), max_size=12).filter(
    lambda text: text != "--")             # which argparse takes for its own, before Python 3.13 also in --name=--


def values(f):
    """A strategy for what a field may hold on its own."""
    low, below = f.metadata.get("low"), f.metadata.get("below")
    if "choices" in f.metadata:
        return st.sampled_from(f.metadata["choices"])
    if f.type is int:
        return st.integers(low, 10**9)
    if f.type is float:
        return st.floats(low, below, exclude_max=below is not None, allow_nan=False, allow_infinity=False)
    if f.type is tuple:
        return st.lists(st.floats(0, 0.999), min_size=1, max_size=4).map(tuple)
    return st.booleans() if f.type is bool else TEXT


CONFIGS = st.fixed_dictionaries({name: values(f) for name, f in FIELDS.items()})


@given(CONFIGS)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_any_setting_survives_yaml(given_values):
    c = Config(**given_values)
    back = {name: config.convert(name, v, name) for name, v in yaml.safe_load(config.to_yaml(c)).items()}
    assert back == {k: v for k, v in given_values.items() if k not in ("config", "out", "resume")}


@given(CONFIGS)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_any_setting_survives_the_command_line(given_values):
    flags = []
    for name, v in given_values.items():
        flags += [f"--{name}", *map(repr, v)] if isinstance(v, tuple) else [f"--{name}={v}"]
    assert config._read_flags(flags) == given_values


def test_every_field_has_a_type_a_default_of_that_type_and_help():
    for f in FIELDS.values():
        assert type(f.default) is f.type
        assert config.convert(f.name, f.default, f.name) == f.default
        assert f.metadata["help"]


def test_flags_beat_yaml_beats_defaults(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("steps: 7\nlr: 1e-2\n")
    c = parse(["--config", str(file), "--lr", "3e-4"])
    assert (c.steps, c.lr, c.n_layer) == (7, 3e-4, Config.n_layer)


def test_steps_that_are_asked_for_take_the_place_of_a_files_epochs(tmp_path):
    (tmp_path / "a.yaml").write_text("epochs: 3\nsteps: 7\n")
    for asked, made in (([], (3.0, 7)), (["--steps", "5"], (0.0, 5)), (["--epochs", "2"], (2.0, 7))):
        c = parse(["--config", str(tmp_path / "a.yaml"), *asked])
        assert (c.epochs, c.steps) == made
    assert "steps" not in describe(c).split() and "steps 5" in describe(Config(steps=5))


def test_a_preset_fills_in_sizes_that_nobody_gave(tmp_path):
    pytest.importorskip("gpt")
    few = ["--tokens_per_step", "4096", "--device_batch", "1"]
    c = parse(["--preset", "gpt2", "--n_layer", "3", *few])
    assert (c.n_layer, c.n_head, c.n_embd, c.block_size, c.pre_norm) == (3, 12, 768, 1024, True)
    assert not parse(["--preset", "gpt1", *few]).pre_norm
    with pytest.raises(ValueError, match="preset.*gpt2-medium"):
        parse(["--preset", "gpt3"])


def test_booleans_can_be_said_in_three_ways():
    assert parse(["--align"]).align and parse(["--align", "true"]).align
    assert not parse(["--no-align"]).align and not parse(["--align=false"]).align


def test_several_numbers_with_spaces_or_a_comma():
    assert parse(["--betas", "0.8", "0.9"]).betas == parse(["--betas", "0.8,0.9"]).betas == (0.8, 0.9)


@pytest.mark.parametrize("flags, says", [
    (["--stpes", "5"], "--stpes: got no setting of that name; .* did you mean --steps?"),
    (["--learning", "5"], "--learning: got no setting"),
    (["data.txt"], "got 'data.txt'; expected flags"),
    (["--steps"], "argument --steps: expected one argument"),
    (["--steps", "many"], "--steps: got 'many'; expected a whole number"),
    (["--steps", "1.5"], "--steps: got '1.5'; expected a whole number"),
    (["--steps", "-1"], "--steps: got -1; expected at least 0"),
    (["--lr", "nan"], "--lr: got 'nan'; expected a number"),
    (["--dropout", "1"], "--dropout: got 1.0; expected less than 1"),
    (["--epochs", "1e308"], "--epochs: got 1e\\+308; expected less than 1000000000"),
    (["--align", "maybe"], "--align: got 'maybe'; expected true or false"),
    (["--backend", "cuda"], "--backend: got 'cuda'; expected one of numpy, cupy. Hint: did you mean cupy?"),
    (["--betas", "0.9"], "betas: got .*; expected two numbers"),
    (["--betas", "x", "y"], "--betas: got .*; expected numbers"),
    (["--split", "0.5", "0.2", "0.2"], "split: got .* sum to 1"),
    (["--lr", "5e-5"], "min_lr: got 0.0001 above lr 5e-05; expected a learning rate that falls. Hint: --min_lr 5e-06"),
    (["--steps", "5", "--epochs", "1"], "--steps: got it together with --epochs; expected one of them"),
    (["--n_head", "3"], "n_embd: got 128 for 3 heads; expected a multiple"),
    (["--config", "vers"], "--config: got 'vers'; expected .*verse. Hint: did you mean verse?"),
    (["--out", "\udcff"], "--out: got .*udcff'; expected text in UTF-8"),
])
def test_a_wrong_flag_is_explained(flags, says):
    with pytest.raises(ValueError, match=says):
        parse(["--n_embd", "128", "--n_head", "4", *flags])


def test_tokens_per_step_that_does_not_divide_names_neighbours_that_do():
    shape = ["--block_size", "64", "--device_batch", "5"]
    with pytest.raises(ValueError, match=r"got 2048; expected a multiple of .* = 320. "
                                         r"Hint: --tokens_per_step 1920 or 2240, or --device_batch 4 or 8") as e:
        parse([*shape, "--tokens_per_step", "2048"])
    assert "\n" not in str(e.value)
    for tokens, rows in ((960, 5), (1920, 5), (2240, 5), (2048, 4), (2048, 8)):
        parse(["--block_size", "64", "--tokens_per_step", str(tokens), "--device_batch", str(rows)])


@pytest.mark.parametrize("text, says", [
    ("stpes: 5", "unknown setting 'stpes'; .* did you mean steps?"),
    ("steps: [1, 2]", r"mine.yaml: steps: got \[1, 2\]; expected a whole number"),
    ("steps: true", "expected a whole number"),
    ("steps: 2.0", "expected a whole number"),
    ("data: 5", "expected text"),
    ("- steps", "got a list; expected lines of"),
    ("steps: [", "expected a readable YAML file"),
    ("a: !!python/object/apply:os.system [true]", "expected a readable YAML file"),
])
def test_a_wrong_yaml_file_is_explained(tmp_path, text, says):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=says):
        parse(["--config", str(file)])


def test_the_configurations_that_come_with_the_project_are_valid_and_every_line_has_a_comment():
    assert {"verse", "shakespeare-char", "gpt1", "gpt2-124m", "gpt2-medium", "gpt2-large", "hindi-pretrain",
            "hindi-poetry"} <= set(config.names())
    for name in config.names():
        text = config.config_file(name).read_text(encoding="utf-8")
        assert all("#" in line for line in text.splitlines() if line.strip()), name
        if name == "gpt2-124m":
            pytest.importorskip("gpt")
        assert parse(["--config", name]).config == name


def test_verse_is_the_default():
    assert parse([]) == parse(["--config", "verse"])


def test_help_shows_every_setting_with_the_values_of_the_chosen_config(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(["--config", "shakespeare-char", "--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0 and "examples:" in shown and "[tinyshakespeare]" in shown
    for name in FIELDS:
        assert f"--{name} " in shown


def test_resume_takes_the_settings_of_the_run_and_guards_its_shape(tmp_path):
    began = parse(["--steps", "5", "--n_layer", "2"])
    state = {"step": 1, "position": 1, "tokenizer": "t", "source": "s", "files": {},
             "config": dataclasses.asdict(began)}
    (tmp_path / "checkpoints" / "00000001").mkdir(parents=True)
    (tmp_path / "checkpoints" / "00000001" / "run.json").write_text(json.dumps(state))
    c = parse(["--resume", str(tmp_path), "--steps", "9"])
    assert c == dataclasses.replace(began, steps=9, resume=str(tmp_path), out=str(tmp_path))
    with pytest.raises(ValueError, match="--n_layer: got 3; expected 2, as in .*--init"):
        parse(["--resume", str(tmp_path), "--n_layer", "3"])
    with pytest.raises(ValueError, match="--split: got .0.5, 0.4, 0.1.; expected .0.8, 0.1, 0.1., as in"):
        parse(["--resume", str(tmp_path), "--split", "0.5", "0.4", "0.1"])     # what was trained on would be scored
    with pytest.raises(ValueError, match="both --config and --resume"):
        parse(["--resume", str(tmp_path), "--config", "verse"])
    with pytest.raises(ValueError, match="nowhere', where no checkpoint is"):
        parse(["--resume", str(tmp_path / "nowhere")])


def test_a_file_may_say_where_a_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text("out: mine\nresume: auto\nsteps: 7\n")
    for flags in ([], ["--resume", "auto"]):
        c = parse(["--config", "job.yaml", *flags])
        assert (c.out, c.resume, c.steps) == ("mine", "auto", 7)
    (tmp_path / "job.yaml").write_text("resume: mine")
    with pytest.raises(ValueError, match="both --config and --resume"):
        parse(["--config", "job.yaml"])
