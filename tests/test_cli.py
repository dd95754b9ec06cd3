"""``python -m lsx``: a run as a user would start it, and users' mistakes."""

import json
from pathlib import Path

import pytest
import torch

from lsx import Config
from lsx.cli import main

QUICK = [
    "model.name=tests.tiny:Tiny",
    "data.dataset=decoy_mnist",
    "data.few_shot_fraction=0.04",
    "critic.batches=2",
    "critic.batch_size=8",
    "critic.optimizer=adam",
    "critic.learning_rate=0.01",
    "evaluation.max_images=100",
    "evaluation.encoder_epochs=1",
    *(f"{stage}.epochs=1" for stage in ("pretrain", "joint", "finetune")),
]


def flags(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def test_train_keeps_configuration_checkpoint_and_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["train", "--out", str(out), *flags(*QUICK)]) == 0
    shown = capsys.readouterr()
    assert "relevance_mass" in shown.out
    assert "embedded" in shown.err
    assert "3/3 finetune 1/1" in shown.err
    assert json.loads((out / "metrics.json").read_text())["accuracy"] >= 0
    assert Config.load(out / "config.yaml").model.name == "tests.tiny:Tiny"

    repeat = tmp_path / "repeat"
    assert main(["train", "--config", str(out / "config.yaml"), "--out", str(repeat)]) == 0
    assert (repeat / "metrics.json").read_text() == (out / "metrics.json").read_text()
    assert main(["train", "--resume", "--out", str(out)]) == 0  # nothing left but to score it again
    assert (repeat / "metrics.json").read_text() == (out / "metrics.json").read_text()


def test_interrupted_run_prints_the_line_that_continues_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lsx.training import checkpoint

    out, whole = tmp_path / "run", tmp_path / "whole"
    assert main(["train", "--out", str(whole), *flags(*QUICK)]) == 0
    save = checkpoint.save

    def interrupted(state: dict[str, object], path: Path) -> Path:
        save(state, path)
        if state["position"] == 2:
            raise KeyboardInterrupt
        return path

    monkeypatch.setattr(checkpoint, "save", interrupted)
    assert main(["train", "--out", str(out), *flags(*QUICK)]) == 130
    monkeypatch.undo()
    assert "continue with: python -m lsx train --resume --out" in capsys.readouterr().err
    assert main(["train", "--resume", "--out", str(out)]) == 0
    states = [checkpoint.load(folder / "checkpoint.pt")["learner"] for folder in (out, whole)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "--set", "loss.lamda_e=1"], "unknown setting 'loss.lamda_e'; did you mean 'loss.lambda_e'?"),
        (["train", "--set", "loss.lambda_e=-1"], "loss.lambda_e = -1 is not valid"),
        (["train", "--set", "loss.lambda_e"], "--set 'loss.lambda_e' must be KEY=VALUE"),
        (["train", "--set", "loss.lambda_e=["], "the value is not valid YAML"),
        (["train", "--config", "nowhere.yaml"], "config 'nowhere.yaml' cannot be read"),
        (["train", "--set", "model.name=Net9"], "unknown model 'Net9'"),
        (["train", "--set", "explainer.method=lime"], "unknown explainer 'lime'"),
        (["train", "--set", "explainer.method=input"], "explainer 'input' gives no gradient to the learner"),
        (["train", "--set", "data.dataset=mnst"], "unknown dataset 'mnst'"),
        (["train", "--set", "device=cuda:31"], "device = 'cuda:31' is not on this machine"),
        (["train", "--set", "data.few_shot_fraction=0.01"], "critic set needs"),
        (["train", "--resume"], "cannot be read"),
        (["train", "--resume", "--set", "seed=1"], "leave out --config and --set"),
        (["data", "show", "--source", "folder", "--root", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    tmp_path: Path, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    argv = [*argv, "--out", str(out)] if argv[0] == "train" else argv
    assert main(argv) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert error.startswith("lsx: ")
    assert not out.exists()


def test_a_run_that_is_there_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkpoint.pt").write_text("precious")
    assert main(["train", "--out", str(tmp_path)]) == 2
    assert "holds a run already; add --resume" in capsys.readouterr().err
    assert (tmp_path / "checkpoint.pt").read_text() == "precious"


def test_interruption_outside_of_training_is_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lsx.load_data", interrupt)
    assert main(["train", "--out", str(tmp_path / "run")]) == 130
    assert capsys.readouterr().err == "lsx: interrupted\n"


def test_help_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = capsys.readouterr().out
    assert [key for key in Config().flat() if f"  {key} " not in shown] == []
