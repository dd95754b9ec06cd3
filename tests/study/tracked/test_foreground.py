"""One run in MLflow and TensorBoard, started and continued from the command line: the same numbers in both."""

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from lsx.study.environment import quiet

quiet.prepare()

from mlflow import MlflowClient  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402

from lsx import Config  # noqa: E402
from lsx.cli import main  # noqa: E402
from lsx.study.tracked import foreground  # noqa: E402
from lsx.training import Report, Trainer  # noqa: E402

QUICK = [
    *("--model", "tests.tiny:Tiny", "--dataset", "decoy_mnist", "--few_shot_train_percent", "0.04", "--device", "cpu"),
    *(
        "--n_critic_batches",
        "2",
        "--batch_size_critic",
        "8",
        "--max_images",
        "60",
        "--metrics",
        "accuracy,relevance_mass",
    ),
    *("--n_pretraining_epochs", "2", "--n_epochs", "2", "--n_finetuning_epochs", "1", "--run_name", "first run"),
]
PLACES = [("pretrain", 1, 1), ("pretrain", 2, 2), ("joint", 1, 3), ("joint", 2, 4), ("finetune", 1, 5)]


@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsx.figures.explanations", lambda path, *_, **__: path.write_bytes(b"drawn"))


def tracked(folder: Path) -> list[str]:
    return ["--tracking-uri", f"sqlite:///{folder}/new/mlflow.db", "--logdir", str(folder / "tb")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in both trackers that was stopped in the middle of joint training, and continued."""
    folder = tmp_path_factory.mktemp("tracked")
    check = Trainer._tick
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lsx.figures.explanations", lambda path, *_, **__: path.write_bytes(b"drawn"))

        def stop(self: Trainer, course: Any, *rest: Any) -> Any:
            if (course.stage, course.epoch, course.step) == ("joint", 1, 2):
                os.kill(os.getpid(), signal.SIGINT)
            return check(self, course, *rest)

        patch.setattr(Trainer, "_tick", stop)
        assert main(["train", *QUICK, "--out", str(folder / "run"), *tracked(folder)]) == 130
        assert client(folder).get_run(identity(folder)).info.status == "KILLED"
        assert [one.path for one in client(folder).list_artifacts(identity(folder))] == ["explanations.png"]
        patch.setattr(Trainer, "_tick", check)
        assert main(["train", "--resume", "--out", str(folder / "run")]) == 0
    return folder


def client(folder: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{folder}/new/mlflow.db")


def identity(folder: Path) -> str:
    remembered: str = json.loads((folder / "run" / "run.json").read_text())["mlflow"]["run_id"]
    return remembered


def history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "run" / "history.jsonl").read_text().splitlines()]


def expected(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Metric of a stage → positions and values, from the run's own history."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in history(folder):
        for name in row.keys() - {"stage", "epoch", "position"}:
            found.setdefault(f"{row['stage']}/{name}", []).append((row["position"], row[name]))
    return found


def test_the_history_of_a_continued_run_is_whole(run: Path) -> None:
    assert [(row["stage"], row["epoch"], row["position"]) for row in history(run)] == PLACES


def test_mlflow_has_every_epoch_once_and_the_final_metrics(run: Path) -> None:
    runs = client(run).search_runs([client(run).get_experiment_by_name("lsx").experiment_id])
    assert [one.info.run_id for one in runs] == [identity(run)]
    assert runs[0].info.status == "FINISHED"
    assert runs[0].info.run_name == "first run"
    assert runs[0].data.params == {
        key: str(value) for key, value in Config.load(run / "run" / "config.yaml").flat().items()
    }
    for name, points in expected(run).items():
        kept = client(run).get_metric_history(identity(run), name)
        assert [(point.step, point.value) for point in kept] == points
    final = json.loads((run / "run" / "metrics.json").read_text())
    assert {name: runs[0].data.metrics[name] for name in ("accuracy", "relevance_mass")} == {
        name: final[name] for name in ("accuracy", "relevance_mass")
    }
    files = {file.path for file in client(run).list_artifacts(identity(run))}
    assert files == {"config.yaml", "metrics.json", "explanations.png", "history.jsonl"}


def test_tensorboard_has_every_epoch_once_explanations_and_settings(run: Path) -> None:
    events = EventAccumulator(str(run / "tb" / "first-run"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    scalars = {name: points for name, points in expected(run).items() if not name.endswith("/seconds")}
    final = {
        name: value
        for name, value in json.loads((run / "run" / "metrics.json").read_text()).items()
        if name != "reasons"
    }
    assert set(events.Tags()["scalars"]) == {*scalars, *(f"final/{name}" for name in final)}
    for name, points in scalars.items():
        kept = [(event.step, event.value) for event in events.Scalars(name)]
        assert kept == [(step, pytest.approx(value, rel=1e-6)) for step, value in points]
    for name, value in final.items():
        assert events.Scalars(f"final/{name}")[-1].value == pytest.approx(value, rel=1e-6)
    images = {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}
    assert images == {"pretrain/explanations": [1, 2], "joint/explanations": [3, 4], "finetune/explanations": [5]}
    assert "config/text_summary" in events.Tags()["tensors"]
    assert "_hparams_/experiment" in events.summary_metadata


def test_tracking_does_not_change_the_run(run: Path, tmp_path: Path) -> None:
    import torch

    from lsx.training import checkpoint

    assert main(["train", *QUICK, "--out", str(tmp_path / "plain")]) == 0
    one, other = (checkpoint.load(folder / "checkpoint.pt")["learner"] for folder in (tmp_path / "plain", run / "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_tracker_that_fails_does_not_end_the_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object, **__: object) -> None:
        raise MlflowException("the server is gone")

    monkeypatch.setattr(MlflowClient, "log_batch", lost)
    monkeypatch.setattr(foreground.ForegroundRun, "_describe", lambda *_: None)
    assert main(["train", *QUICK, "--out", str(tmp_path / "run"), *tracked(run), "--experiment", "lost"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "the server is gone" in line]
    assert len(lines) == 1 and "the run goes on without this tracker" in lines[0]
    assert len(history(tmp_path)) == 5


@pytest.mark.parametrize(("error", "status", "ending"), [(OSError, 2, "FAILED"), (KeyboardInterrupt, 130, "KILLED")])
def test_a_tracker_that_cannot_be_opened_closes_the_other(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], status: int, ending: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("no room")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", fail)
    assert main(["train", *QUICK, "--out", str(tmp_path / "run"), *tracked(run), "--experiment", ending]) == status
    (one,) = client(run).search_runs([client(run).get_experiment_by_name(ending).experiment_id])
    assert one.info.status == ending
    assert (tmp_path / "run").exists() == (ending == "KILLED")  # what can be continued, and nothing otherwise


def test_a_run_that_diverges_is_failed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wild = ["--lambda_c", "1e9", "--joint-optimizer", "sgd", "--learning_rate", "100"]
    assert main(["train", *QUICK, *wild, "--out", str(tmp_path / "run"), *tracked(run), "--experiment", "wild"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("lsx: training diverged")
    assert client(run).get_run(identity(tmp_path)).info.status == "FAILED"


def test_long_stages_are_thinned(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreground, "POINTS", 10)
    uri = f"sqlite:///{run}/new/mlflow.db"
    one = foreground.ForegroundRun(uri, "long", "long", Config(), tmp_path)
    for epoch in range(1, 96):
        one(Report("joint", epoch, 95, epoch, 95, {"loss": float(epoch)}, 1.0, None, dict))  # type: ignore[arg-type]
    one.saved()
    one.final({"accuracy": 0.5, "ridge": math.nan}, {"ridge": "one class"})
    one.close("FINISHED")
    kept = client(run).get_metric_history(one.run_id, "joint/loss")
    assert [point.step for point in kept] == [*range(10, 95, 10), 95]
    data = client(run).get_run(one.run_id).data
    assert data.metrics["accuracy"] == 0.5 and "ridge" not in data.metrics
    assert data.tags["lsx.reasons"] == "ridge: one class"
