"""``lsx train`` and the program's door: a run as a user would start, stop and continue it, and users' mistakes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lsx import Config
from lsx.cli import main
from lsx.training import checkpoint

QUICK = [
    *("--model", "tests.tiny:Tiny", "--dataset", "decoy_mnist", "--few_shot_train_percent", "0.04", "--device", "cpu"),
    *("--n_critic_batches", "2", "--batch_size_critic", "8", "--critic-optimizer", "adam"),
    *("--learning_rate_critic", "0.01", "--explanation_loss_weight", "10", "--max_images", "60"),
    *("--n_pretraining_epochs", "1", "--n_epochs", "1", "--n_finetuning_epochs", "1", "--metrics", "accuracy"),
]


def train(out: Path, *args: str) -> int:
    return main(["train", "--out", str(out), *args])


def weights(out: Path) -> dict[str, Any]:
    learner: dict[str, Any] = checkpoint.load(out / "checkpoint.pt")["learner"]
    return learner


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(autouse=True)
def quick_pictures(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than training; only ``whole`` and the processes of their own really draw."""
    monkeypatch.setattr("lsx.figures.explanations", lambda path, *_, **__: path.write_bytes(b"drawn"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run through all three stages."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert train(out, *QUICK) == 0
    return out


def test_a_run_keeps_everything_and_says_so(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repeat = tmp_path / "repeat"
    assert train(repeat, "--config", str(whole / "config.yaml")) == 0
    shown = capsys.readouterr()
    assert "accuracy" in shown.out
    assert "embedded" in shown.err
    assert "3/3 finetune 1/1" in shown.err
    assert (repeat / "metrics.json").read_text() == (whole / "metrics.json").read_text()
    assert same(weights(repeat), weights(whole))
    assert 0 < json.loads((whole / "metrics.json").read_text())["accuracy"] < 1
    history = [json.loads(line) for line in (whole / "history.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["epoch"], row["position"]) for row in history] == [
        ("pretrain", 1, 1),
        ("joint", 1, 2),
        ("finetune", 1, 3),
    ]
    assert history[1]["critic_loss_last"] > 0
    assert (whole / "explanations.png").stat().st_size > 5000


def test_a_finished_run_is_not_repeated(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (whole / "checkpoint.pt").stat().st_mtime_ns
    assert train(whole, "--resume") == 0
    assert "is complete" in capsys.readouterr().out
    assert (whole / "checkpoint.pt").stat().st_mtime_ns == before


def test_only_what_is_missing_is_done_again(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in ("config.yaml", "checkpoint.pt", "history.jsonl"):
        (out / name).write_bytes((whole / name).read_bytes())
    assert train(out, "--resume") == 0
    assert (out / "metrics.json").read_text() == (whole / "metrics.json").read_text()
    assert (out / "history.jsonl").read_text() == (whole / "history.jsonl").read_text()


@pytest.mark.parametrize(
    ("mode", "stages"),
    [
        ("only_classification", ["pretrain"]),
        ("joint", ["joint"]),
        ("pretrain_and_joint", ["pretrain", "joint"]),
    ],
)
def test_modes(mode: str, stages: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *QUICK, f"--training_mode={mode}"]) == 0
    out = tmp_path / "lsx-runs" / f"decoy_mnist-{mode}-seed0"
    rows = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == stages
    if mode == "pretrain_and_joint":
        return
    # One stage more, from that checkpoint, is the run that goes on by itself.
    following = {"only_classification": "joint", "joint": "finetuning"}[mode]
    names = {"joint": "pretrain,joint", "finetuning": "joint,finetune"}[following]
    continued = ["train", "--training_mode", following, "--model_pt", str(out / "checkpoint.pt"), "--run_name", "b/c"]
    assert main(continued) == 0
    assert train(tmp_path / "both", *QUICK, "--stages", names) == 0
    assert same(weights(tmp_path / "lsx-runs" / "b-c"), weights(tmp_path / "both"))


def test_finetuning_from_a_checkpoint_ends_where_the_whole_run_ends(whole: Path, tmp_path: Path) -> None:
    assert train(tmp_path / "two", *QUICK, "--training_mode", "pretrain_and_joint") == 0
    joint = str(tmp_path / "two" / "checkpoint.pt")
    assert train(tmp_path / "third", "--training_mode", "finetuning", "--model_pt", str(tmp_path / "two")) == 0
    assert same(weights(tmp_path / "third"), weights(whole))
    config = Config.load(tmp_path / "third" / "config.yaml")
    assert (config.start, config.model.name, config.stages) == (joint, "tests.tiny:Tiny", ("finetune",))
    more = ["--learning_rate_finetune", "0.5"]
    assert train(tmp_path / "other", "--training_mode", "finetuning", "--model_pt", joint, *more) == 0
    assert not same(weights(tmp_path / "other"), weights(whole))


def test_modes_that_look_use_test_images(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lsx import evaluate, load_data, load_learner

    monkeypatch.chdir(tmp_path)
    model = ["--model_pt", str(whole / "checkpoint.pt"), "--max_images", "20"]
    assert main(["train", "--training_mode", "test", *model]) == 0
    assert "on 1000 test images of decoy_mnist" in capsys.readouterr().out
    kept = json.loads((whole / "test.json").read_text())
    learner, config = load_learner(whole / "checkpoint.pt", dataset := load_data(Config.load(whole / "config.yaml")))
    expected = evaluate(learner, dataset, "test", config, metrics=["accuracy"])
    assert kept["checkpoints"][0]["metrics"] == {"accuracy": pytest.approx(expected["accuracy"], abs=1e-12)}

    assert main(["train", "--training_mode", "faithfulness", *model, "--out", "f"]) == 0
    names = json.loads((tmp_path / "f" / "faithfulness.json").read_text())["checkpoints"][0]["metrics"]
    assert {"comprehensiveness", "sufficiency"} <= names.keys() and "ridge" not in names

    assert main(["train", "--training_mode", "save_expls", *model, "--out", "s"]) == 0
    assert {file.name for file in (tmp_path / "s").iterdir()} == {"gallery.png", "explanations.npz"}


def start(out: Path, *args: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "lsx", "train", "--out", str(out), *args]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def test_ctrl_c_in_an_epoch_loses_nothing(tmp_path: Path) -> None:
    slow = [*QUICK, "--joint-batch-size", "1"]
    slow[slow.index("--n_epochs") + 1] = "4"  # seconds of joint training
    out, whole = tmp_path / "run", tmp_path / "uninterrupted"
    process = start(out, *slow)
    while not (out / "checkpoint.pt").exists():  # of pretraining's only epoch: joint training comes next
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    last = error.strip().splitlines()[-1]
    assert last == f"lsx: interrupted; continue with: python -m lsx train --resume --out {out}"
    state = checkpoint.load(out / "checkpoint.pt")
    assert state["stage"] == "joint" and state["epoch"] < 4
    assert train(out, "--resume") == 0
    assert train(whole, *slow) == 0
    assert same(weights(out), weights(whole))
    rows = [[json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()] for run in (out, whole)]
    assert [row | {"seconds": 0} for row in rows[0]] == [row | {"seconds": 0} for row in rows[1]]


def test_a_stop_before_the_first_step_leaves_settings_to_continue_from(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a run"

    def interrupt(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("lsx.data.load", interrupt)
    assert train(out, *QUICK) == 130
    assert capsys.readouterr().err.endswith(f"train --resume --out '{out}'\n")
    assert sorted(file.name for file in out.iterdir()) == ["config.yaml", "run.json"]
    monkeypatch.undo()
    assert train(out, "--resume") == 0
    assert same(weights(out), weights(whole))


def test_a_stop_while_scoring_leaves_only_the_scoring(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def interrupt(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    monkeypatch.setattr("lsx.metrics.evaluate_with_reasons", interrupt)
    assert train(out, *QUICK) == 130
    assert "continue with" in capsys.readouterr().err
    monkeypatch.undo()
    assert not (out / "metrics.json").exists()
    assert train(out, "--resume") == 0
    assert (out / "metrics.json").read_text() == (whole / "metrics.json").read_text()


def test_history_beyond_the_checkpoint_is_dropped(tmp_path: Path) -> None:
    from lsx.cli.folder import RunFolder

    folder = RunFolder(tmp_path)
    for position in (1, 2, 3):
        folder.append({"position": position})
    with folder.history.open("a") as file:
        file.write('{"position": 4, "lo')
    folder.rewind(2)
    assert [json.loads(line)["position"] for line in folder.history.read_text().splitlines()] == [1, 2]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--set", "loss.lamda_e=1"], "unknown setting 'loss.lamda_e'; did you mean 'loss.lambda_e'?"),
        (["--set", "loss.lambda_e=-1"], "loss.lambda_e = -1 is not valid"),
        (["--set", "loss.lambda_e"], "--set 'loss.lambda_e' must be KEY=VALUE"),
        (["--set", "loss.lambda_e=["], "the value is not valid YAML"),
        (["--n_epochs", "ten"], "joint.epochs = 'ten' is not valid"),
        (["--n_epochs", "1.5"], "joint.epochs = 1.5 is not valid"),
        (["--n_epochs"], "expected one argument"),
        (["--n_epoch", "3"], "unknown flag '--n-epoch'; did you mean '--n-epochs'?"),
        (["--frobnicate"], "unknown flag '--frobnicate'; `lsx train --help` lists all"),
        (["run"], "unexpected argument 'run'"),
        (["--config", "nowhere.yaml"], "config 'nowhere.yaml' cannot be read"),
        (["--model", "Net9"], "unknown model 'Net9'"),
        (["--explanation_mode", "lime"], "unknown explainer 'lime'"),
        (["--explanation_mode", "input"], "explainer 'input' gives no gradient to the learner"),
        (["--dataset", "mnst"], "unknown dataset 'mnst'"),
        (["--device", "cuda:31"], "device = 'cuda:31' is not on this machine"),
        (["--few_shot_train_percent", "2"], "data.few_shot_fraction = 2.0 is not valid"),
        (["--few_shot_train_percent", "0.01"], "critic set needs"),
        (["--metrics", "acuracy"], "unknown metric 'acuracy'; did you mean 'accuracy'?"),
        (["--training_mode", "fine"], "unknown training mode 'fine'; did you mean 'finetuning'?"),
        (["--training_mode", "finetuning"], "set start (--model_pt) to the checkpoint of one"),
        (["--training_mode", "test"], "--training_mode test needs --model_pt"),
        (["--training_mode", "joint", "--model_pt", "no.pt"], "checkpoint 'no.pt' cannot be read"),
        (["--model_pt", "no.pt"], "--model_pt needs --training_mode"),
        (["--training_mode", "joint", "--stages", "pretrain"], "name different stages"),
        (["--seed", "1", "--random_seed", "2"], "--seed and --random-seed give seed different values, 1 and 2"),
        (["--lambda_e", "1", "--set", "loss.lambda_e=2"], "--lambda-e and --set loss.lambda_e give loss.lambda_e"),
        (["--no_cuda", "--device", "cuda"], "give device different values, 'cpu' and 'cuda'"),
        (["--lr_scheduling", "--schedule", "cosine"], "pretrain.schedule different values"),
        (["--experiment", "x"], "--experiment 'x' is MLflow's; it needs --tracking-uri"),
        (["--tracking-uri", "sqlite:///"], "MLflow at 'sqlite:///' cannot be used"),
        (["--tracking-uri", "nonsense://x"], "MLflow at 'nonsense://x' cannot be used"),
        (["--logdir", "/dev/null"], "--logdir: '/dev/null/"),
        (["--resume"], "cannot be read"),
        (["--resume", "--seed", "1"], "leave out --config, --set and all settings but --device"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    tmp_path: Path, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert train(out, *argv) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert error.startswith("lsx: ")
    assert not out.exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert train(tmp_path / "file" / "run", *QUICK) == 2
    assert "cannot be written" in capsys.readouterr().err.splitlines()[-1]


def test_a_run_that_is_there_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("checkpoint.pt", "config.yaml"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text("precious")
        assert train(folder) == 2
        assert "holds a run already; add --resume" in capsys.readouterr().err
        assert (folder / name).read_text() == "precious"


def test_wrong_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["trian"], ["data", "show", "--surce", "folder"]):
        assert main(argv) == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("command", [[], ["train"], ["evaluate"], ["explain"], ["data"], ["data", "show"]])
def test_help_is_there_at_once(command: list[str]) -> None:
    probe = """
import sys
from lsx.cli import main
try:
    main(sys.argv[1:])
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""
    result = subprocess.run(
        [sys.executable, "-c", probe, *command, "--help"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.strip() == "False"
    assert "usage: lsx" in result.stdout


def test_a_second_run_leaves_the_first_ones_curves(whole: Path, tmp_path: Path) -> None:
    from lsx.cli.folder import board

    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "events.out.tfevents.1").touch()
    assert board(str(tmp_path), "first") == str(tmp_path / "first-2")
    assert board(str(tmp_path), "first", str(tmp_path / "first")) == str(tmp_path / "first")
    assert board(str(tmp_path), "second") == str(tmp_path / "second")


def test_evaluating_on_another_split_is_said(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(whole), "--metrics", "accuracy"]
    assert main(words) == 0
    assert "another split" not in capsys.readouterr().out
    assert main([*words, "--data-seed", "7"]) == 0
    assert "was trained on another split (data.seed 0, here 7)" in capsys.readouterr().out


def test_the_authors_logging_flags_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--logging_disabled", "--log_interval", "5", "--out", str(tmp_path / "run"), "--dataset", "none"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "logging flags are ignored" in said and "unknown dataset 'none'" in said
    assert main(["train", "--vanilla_model_pt", "a.pt"]) == 2
    assert "--vanilla_model_pt is not taken" in capsys.readouterr().err
