"""What MLflow's pages are told beside figures: data, views, notes, models; in a real store, and said twice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lsx.errors import StudyError
from lsx.models import build
from lsx.study.environment import quiet

quiet.prepare()

from mlflow import MlflowClient  # noqa: E402

from lsx.study.tracked import fetched, inputs, models, views  # noqa: E402
from lsx.study.tracked.outbox import Outbox  # noqa: E402
from lsx.study.tracked.tracking import Tracker, default_uri  # noqa: E402

PROVENANCE = {"dataset": "decoy_mnist", "sha256": "ab" * 32, "description": "MNIST", "sizes": {"train": 30}}


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    """One store for all tests: making it takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    made = Tracker(default_uri(folder), "shown", "study-a", folder)
    made.open_study("study", {}, set())
    return made


@pytest.fixture
def deliver(tracker: Tracker, tmp_path: Path) -> Callable[..., None]:
    """Let an outbox deliver what a test appends, as often as a driver that was killed in between would."""

    def twice(append: Callable[[Outbox], None]) -> None:
        for index in range(2):
            outbox = Outbox(tmp_path / f"outbox-{index}.jsonl", tracker)
            outbox.start()
            append(outbox)
            assert outbox.flush(30)
            outbox.close()
            assert outbox.refused == 0

    return twice


def experiment(tracker: Tracker) -> dict[str, str]:
    tags: dict[str, str] = MlflowClient(tracking_uri=tracker.uri).get_experiment_by_name("shown").tags
    return tags


def test_data_said_twice_is_one_input(tracker: Tracker, deliver: Callable[..., None]) -> None:
    def append(outbox: Outbox) -> None:
        outbox.open_trial(0, "000 x", {}, {})
        outbox.log_inputs(0, inputs.describe(PROVENANCE, ("train", "validation")))
        outbox.log_inputs(None, inputs.describe(PROVENANCE, ("train",)))

    deliver(append)
    client = MlflowClient(tracking_uri=tracker.uri)
    (run,) = client.search_runs([tracker._experiment], "tags.`lsx.trial` = '0'")
    found = [
        (one.dataset.name, one.dataset.digest, one.dataset.profile, one.tags[0].value)
        for one in run.inputs.dataset_inputs
    ]
    digest = "ab" * 18
    assert sorted(found) == [
        ("decoy_mnist-train", digest, '{"num_rows": 30}', "train"),
        ("decoy_mnist-validation", digest, "{}", "validation"),
    ]
    assert len(client.get_run(tracker.parent).inputs.dataset_inputs) == 1


def test_data_without_a_name_or_a_checksum() -> None:
    assert inputs.describe({}, ("train",)) == []
    one, other = (inputs.describe({"dataset": "x", "root": root}, ("train",))[0]["digest"] for root in "ab")
    assert len(one) == inputs.LONGEST_DIGEST
    assert one != other
    assert inputs.describe(PROVENANCE, ("train",), sizes=False)[0]["profile"] == "{}"


def test_a_description_is_replaced_by_ours_and_no_others(tracker: Tracker, deliver: Callable[..., None]) -> None:
    client = MlflowClient(tracking_uri=tracker.uri)

    def said(text: str) -> str:
        deliver(lambda outbox: outbox.describe_experiment({views.NOTE: text, "lsx.other": text}))
        return experiment(tracker)[views.NOTE]

    assert said("see {experiment}") == f"see {tracker._experiment}"
    assert said("newer") == "newer"
    client.set_experiment_tag(tracker._experiment, views.NOTE, "mine")
    assert said("newest") == "mine"
    assert experiment(tracker)["lsx.other"] == "newest"


def test_a_view_has_its_columns_in_their_order() -> None:
    columns = [views.column("metrics", "final/accuracy"), views.column("params", "loss.lambda_e")]
    tags = views.tags(columns, descending=True)
    state = json.loads(json.loads(tags[f"mlflow.sharedViewState.{views.TRIALS}"])["state"])
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`final/accuracy`", False)
    assert state["columnOrder"][2:4] == columns
    assert views.TRIALS in views.address(experiment="7") and "/7/" in views.address(experiment="7")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, dict[str, Path], Path]:
    """A network, and what it is as an MLflow model."""
    path = tmp_path_factory.mktemp("models") / "model"
    learner = build("SimpleConvNet", (1, 28, 28), 10).train()
    files = models.write(learner, (1, 28, 28), path, {"mean": [0.5]})
    assert learner.training  # as before
    return learner, files, path


def test_a_model_gives_what_the_learner_gives(written: Any) -> None:
    import mlflow.pytorch

    learner, files, path = written
    images = torch.rand(5, 1, 28, 28)
    loaded = mlflow.pytorch.load_model(str(path))
    assert torch.allclose(loaded(images), learner.eval()(images), atol=1e-6)
    assert "mean" in files["MLmodel"].read_text()
    served = mlflow.pyfunc.load_model(str(path)).predict(images.numpy())
    assert np.allclose(served, learner(images).detach(), atol=1e-5)


def test_a_model_has_no_pickled_objects(written: Any) -> None:
    _, files, path = written
    assert {"MLmodel", "data/model.pt2", "requirements.txt"} <= files.keys()
    assert not [name for name in files if name.endswith((".pth", ".pkl", ".pt"))]
    assert not path.with_name("model.part").exists()
    torch.export.load(files["data/model.pt2"])


def test_a_network_that_cannot_be_traced_raises(tmp_path: Path) -> None:
    class Odd(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)[:, :10] if images.sum() > 0 else images.flatten(1)[:, 10:20]

    with pytest.raises(Exception, match="(?i)data-dependent|guard|control flow|branch"):
        models.write(Odd(), (1, 8, 8), tmp_path / "model", {})
    assert not (tmp_path / "model").exists()


def test_a_learner_is_got_back(tracker: Tracker, tmp_path: Path) -> None:
    run_id = tracker.open_trial(5, "005 gradcam λe=3/4", None, {})
    with pytest.raises(StudyError, match="has no learner-0.pt: .* this one has no files"):
        fetched.learner(run_id, tracker.uri, tmp_path)
    (tmp_path / "learner-0.pt").write_text("weights")
    tracker.attach(run_id, tmp_path / "learner-0.pt")
    found = fetched.learner(run_id, tracker.uri, tmp_path / "there")
    assert (found.parent.name, found.read_text()) == ("005-gradcam-λe=3-4", "weights")
    with pytest.raises(StudyError, match="'none' is no run in"):
        fetched.learner("none", tracker.uri, tmp_path)
    with pytest.raises(StudyError, match="there is no such file"):
        fetched.learner(run_id, f"sqlite:///{tmp_path}/other.db", tmp_path)
    assert not (tmp_path / "other.db").exists()
