"""A dry run finds what would stop a study, says what it takes, and leaves no trace."""

import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs
from rich.console import Console

from lsx.config import Config
from lsx.errors import StudyError
from lsx.study.declared.spec import StudySpec
from lsx.study.environment import places, quiet, reachable
from lsx.study.running import packing
from lsx.study.running.packing import Machines
from lsx.study.shown import dryrun
from lsx.study.shown.dryrun import DryRun, dry_run
from lsx.study.worker.rehearsal import Rehearsal, StageCost
from tests.study import fakes

quiet.prepare()

import optuna  # noqa: E402

MIB = 2**20
SETTINGS: dict[str, Any] = {
    "data": {"dataset": "decoy_mnist", "few_shot_fraction": 0.05},
    "model.name": "SimpleConvNet",
    "pretrain.epochs": 2,
    "joint.epochs": 1,
    "finetune.epochs": 1,
    "critic": {"batches": 2, "batch_size": 8},
    "evaluation": {"encoder_epochs": 0, "max_images": 32, "faithfulness_images": 8, "metrics": ["accuracy"]},
}


def shown(found: DryRun, width: int = 80) -> str:
    file = StringIO()
    Console(file=file, width=width).print(found.renderable)
    return file.getvalue()


def row(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(name))


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("work")
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield folder


@pytest.fixture(scope="module")
def real(empty: Path) -> DryRun:
    resources = {"cpus_per_trial": 1, "gpus_per_trial": 0}
    return dry_run(fakes.spec(settings=SETTINGS, resources=resources), folder=empty / "studies")


def test_a_sound_study_has_no_faults_and_leaves_no_trace(real: DryRun, empty: Path) -> None:
    assert real.faults == ()
    assert list(empty.iterdir()) == []
    text = shown(real, 300)
    assert text.count("✓") == 5 and "✗" not in text
    assert f"sqlite:///{empty}/mlflow.db: will be made" in text


def test_it_fits_a_narrow_and_plain_output(real: DryRun) -> None:
    text = shown(real)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text


def test_it_shows_the_search_and_what_comes_first(real: DryRun) -> None:
    text = shown(real, 200)
    assert re.search(r"loss\.lambda_e +float, log +1 to 100", text)
    assert re.search(r"critic\.learning_rate +float +0\.5 to 2 +critic\.optimizer = sgd", text)
    assert row(text, "objectives").split(maxsplit=1)[1].strip() == "accuracy ↑, ridge ↓"
    assert "loss.lambda_e 10, " in row(text, "published")
    assert all("critic.optimizer" in row(text, f"#{number}") for number in (2, 3, 4)) and "#5" not in text
    assert "6 trials, 2 of them reference trials" in row(text, "budget")


def test_it_shows_what_was_rehearsed(real: DryRun) -> None:
    text = shown(real)
    heading = text[text.index("rehearsal (") :].splitlines()[1]
    assert heading.split() == ["cheapest", "=", "baseline", "slowest"]
    assert "cheapest = baseline: the reference trial baseline" in text
    assert all(row(text, name) for name in ("pretrain", "joint", "finetune", "evaluation", "one seed", "checkpoint"))
    assert "1 × 5 ×" in text  # finetune: 150 images in batches of 32


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., DryRun]:
    """A dry run without data and rehearsals, two machines with three slots."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(reachable, "preflight", lambda _: {"description": "no data"})
    monkeypatch.setattr(dryrun.data, "load", lambda _: None)
    monkeypatch.setattr(packing, "machines", lambda _: Machines(({"CPU": 2.0}, {"CPU": 1.0})))
    monkeypatch.setattr(dryrun, "rehearse", rehearsed)

    def run(spec: StudySpec | None = None, **arguments: Any) -> DryRun:
        return dry_run(spec or fakes.spec(), **arguments)

    return run


def rehearsed(config: Config, _: Any) -> Rehearsal:
    """10 s for the baseline, which is the cheapest, and 30 s for all others."""
    long = "joint" in config.stages
    stages = (StageCost("pretrain", 1.0, 2, 4, 0.5),) + (StageCost("joint", 5.0, 2, 2, 0.0),) * long
    notes = ("evaluation: timed on 1 of 2 images, and scaled",) * long
    fault = "joint: training diverged: loss" if long else None
    return Rehearsal(stages, 0.0, 4.0, 300 * MIB, 500 * MIB, 10 * MIB, "cpu", 1, notes, fault)


def test_the_estimate_is_trials_by_seeds_by_seconds_over_slots(quick: Callable[..., DryRun]) -> None:
    text = shown(quick(fakes.spec(repeats=2)))
    assert row(text, "2 seeds").split() == ["2", "seeds", "20", "s", "60", "s"]
    assert "6, 3 at once" in row(text, "trials")
    # 10 s and 30 s, 6 trials of 2 seeds, 3 at once, and 4 s for the first evaluation
    assert "44 s (all as the cheapest) to 2 min (all as the slowest)" in row(text, "time")
    assert "84 s is the mean of the two; trials that are stopped early shorten it" in text
    assert "1.5 GiB for trials" in row(text, "memory  1")
    assert "about 188 MiB of" in row(text, "disk")  # 10 MiB × (2 × 3 + 6 × 2), and 1.25 MiB a trial


def test_slots_and_the_most_at_once(quick: Callable[..., DryRun]) -> None:
    assert "6, 5 at once" in shown(quick(slots=5))
    assert "6, 2 at once" in shown(quick(fakes.spec(resources={"max_concurrent": 2})))
    assert "6, 6 at once" in shown(quick(slots=50))


def test_what_was_scaled_and_what_went_wrong_is_said(quick: Callable[..., DryRun]) -> None:
    text = shown(quick())
    assert "slowest: evaluation: timed on 1 of 2 images, and scaled" in text
    assert "slowest: joint: training diverged: loss" in text


def test_an_unknown_time_is_not_a_number(quick: Callable[..., DryRun], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dryrun, "rehearse", lambda *_: Rehearsal((), float("nan"), 0.0, 1, 1, 1, "cpu", 1))
    assert "unknown (all as the cheapest) to unknown" in shown(quick())


def test_a_trial_that_cannot_run_is_a_fault(quick: Callable[..., DryRun], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(config: Config, _: Any) -> Rehearsal:
        if "joint" in config.stages:
            raise StudyError("no gradient")
        return rehearsed(config, _)

    monkeypatch.setattr(dryrun, "rehearse", refuse)
    found = quick()
    assert found.faults == ("the slowest trial cannot be run: no gradient",)
    assert "✗  rehearsal" in shown(found)


def test_an_unsound_study_is_not_rehearsed(quick: Callable[..., DryRun], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: StudySpec) -> Any:
        raise StudyError("study fake: no images")

    monkeypatch.setattr(reachable, "preflight", missing)
    found = quick(tracking_uri="file:///tmp/runs")
    assert [fault.split(":")[0] for fault in found.faults] == ["study fake", "MLflow at 'file"]
    assert "estimate" not in shown(found) and "search space" in shown(found)


def test_threads_are_those_of_a_trial(quick: Callable[..., DryRun], monkeypatch: pytest.MonkeyPatch) -> None:
    seen, before = [], dryrun.torch.get_num_threads()
    monkeypatch.setattr(
        dryrun, "rehearse", lambda *them: seen.append(dryrun.torch.get_num_threads()) or rehearsed(*them)
    )
    quick(fakes.spec(resources={"cpus_per_trial": 2}))
    assert seen == [2, 2] and dryrun.torch.get_num_threads() == before


def database(path: Path) -> Path:
    with sqlite3.connect(path) as made:
        made.execute("create table one (two int)")
    made.close()
    return path


def fault(found: DryRun) -> str:
    assert len(found.faults) == 1 and "\n" not in found.faults[0]
    return found.faults[0]


def test_a_database_that_is_there_stays_as_it_is(quick: Callable[..., DryRun], tmp_path: Path) -> None:
    path = database(tmp_path / "mlflow.db")
    before = path.read_bytes()
    found = quick(optuna_storage=f"sqlite:///{tmp_path}/optuna.db")
    assert found.faults == () and "is there, and takes writes" in shown(found)
    assert quick(optuna_storage=f"sqlite:///{path}").faults == ()
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_databases_that_cannot_be_used(
    quick: Callable[..., DryRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reachable, "LOCK_SECONDS", 0.1)
    (tmp_path / "text").write_text("no database at all")
    path = database(tmp_path / "mlflow.db")
    assert "is no SQLite database" in fault(quick(tracking_uri=f"sqlite:///{tmp_path}/text"))
    assert "that is a folder" in fault(quick(tracking_uri=f"sqlite:///{tmp_path}"))
    assert "/text' is no folder" in fault(quick(tracking_uri=f"sqlite:///{tmp_path}/text/mlflow.db"))
    assert "keeps no runs in folders" in fault(quick(tracking_uri="mlruns"))
    held = sqlite3.connect(path)
    held.execute("BEGIN EXCLUSIVE")
    assert "takes no writes: database is locked" in fault(quick())
    held.close()
    allowed = reachable.os.access
    monkeypatch.setattr(reachable.os, "access", lambda one, mode: one != path and allowed(one, mode))
    assert f"SQLite database {str(path)!r} is read-only" in fault(quick(tracking_uri=f"sqlite:///{path}"))


def test_folders_that_cannot_be_made(
    quick: Callable[..., DryRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text").write_text("")
    found = quick(storage=tmp_path / "text" / "below")
    assert fault(found) == f"folder '{tmp_path}/text/below' cannot be made: '{tmp_path}/text' is no folder"
    monkeypatch.setattr(reachable.os, "access", lambda one, mode: str(one) != str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    found = quick(folder=tmp_path / "elsewhere", tracking_uri=f"sqlite:///{tmp_path}/elsewhere/a.db", storage=tmp_path)
    assert fault(found) == f"folder {str(tmp_path)!r} is read-only; it must be writable"


def test_buckets(quick: Callable[..., DryRun], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there is no bucket 'bucket'" in fault(quick(storage="mock:///bucket/studies"))
    assert "s4" in fault(quick(storage="s4://bucket/studies"))
    there = fs.FileSystem.from_uri("mock:///")[0]
    there.create_dir("bucket")
    monkeypatch.setattr(places, "_opened", lambda _: (there, "bucket/studies"))
    found = quick(storage="mock://user:secret@bucket/studies")
    assert found.faults == () and "the bucket is there" in shown(found) and "secret" not in shown(found)


class Server(BaseHTTPRequestHandler):
    """Answers MLflow's client, or has lost its database."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(Server, "status", 200)
    served = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    served.server_close()


def test_servers(quick: Callable[..., DryRun], server: str) -> None:
    found = quick(tracking_uri=server)
    assert found.faults == () and "the server answers" in shown(found)
    Server.status = 404
    assert fault(quick(tracking_uri=server)).startswith(f"MLflow at '{server}' cannot be used: ")
    assert "no server answers there" in fault(quick(tracking_uri="http://127.0.0.1:1"))


def test_a_database_that_is_not_there(quick: Callable[..., DryRun]) -> None:
    found = fault(quick(optuna_storage="nosuchdb://user:secret@127.0.0.1/studies"))
    assert found.startswith("database 'nosuchdb://***@127.0.0.1/studies' cannot be reached: ")


def journal(folder: Path, spec: StudySpec, **attributes: Any) -> Path:
    path = folder / spec.study_name / "journal.log"
    path.parent.mkdir(parents=True)
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(backend),
        study_name=spec.study_name,
        directions=[one.direction for one in spec.objectives],
    )
    for name, value in attributes.items():
        study.set_user_attr(name, value)
    params, _ = spec.reference("published")
    study.enqueue_trial(params, user_attrs={"role": "published"})
    trial = study.ask()
    values = spec.search_space.suggest(trial)
    trial.set_user_attr("config", spec.configure(values).flat())
    study.tell(trial, [0.5, 0.5])
    return path


def test_a_study_that_is_continued(quick: Callable[..., DryRun], tmp_path: Path) -> None:
    path = journal(tmp_path / "studies", fakes.spec(), fingerprint=fakes.spec().fingerprint())
    before = path.read_bytes()
    found = quick(folder=tmp_path / "studies")
    text = shown(found)
    assert found.faults == () and "continues after 1 finished trials" in text
    assert "5, 3 at once" in row(text, "trials")
    suggested = text[text.index("first suggestions") : text.index("rehearsal (")]
    assert "baseline" in suggested and "published" not in suggested and "#2" in suggested
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_a_study_that_was_declared_otherwise(quick: Callable[..., DryRun], tmp_path: Path) -> None:
    journal(tmp_path / "studies", fakes.spec(), fingerprint=fakes.spec(repeats=3).fingerprint())
    found = fault(quick(folder=tmp_path / "studies"))
    assert found.startswith("study 'fake' was started with other settings: ") and "repeats: 3 became 1" in found


def test_a_trial_that_no_machine_holds(quick: Callable[..., DryRun]) -> None:
    found = fault(quick(fakes.spec(resources={"cpus_per_trial": 3})))
    assert found == "a trial needs 3 CPUs and 0 GPUs; no single node has both"


def test_a_card_is_shared_by_the_measured_peak(quick: Callable[..., DryRun], monkeypatch: pytest.MonkeyPatch) -> None:
    there = Machines(({"CPU": 16.0, "GPU": 1.0},), 1100 * MIB)  # 3 × 330 MiB fill 90 % of it
    monkeypatch.setattr(packing, "machines", lambda _: there)
    assert "6, 3 at once" in shown(quick())
    assert "6, 2 at once" in shown(quick(fakes.spec(resources={"gpus_per_trial": 0.5})))
