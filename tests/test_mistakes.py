"""What a person gets wrong at either door: one line with what it is, the value and what is valid; nothing written."""

import errno
import hashlib
import http.server
import os
import re
import shutil
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml

from lsx.cli import main as lsx
from lsx.study import cli
from lsx.study.environment import quiet
from tests.study import fakes

quiet.prepare()

from lsx.study.running import cluster  # noqa: E402
from tests.study.shown.test_archive import past  # noqa: E402

ROOT = Path(__file__).parents[1]
SPACE = fakes.CONTENT["space"]
STEPS = {"type": "int", "low": 2, "high": 3}
TINY = [
    *("--model", "tests.tiny:Tiny", "--dataset", "decoy_mnist", "--few_shot_train_percent", "0.04", "--device", "cpu"),
    *("--training_mode", "only_classification", "--n_epochs", "1", "--max_images", "20", "--metrics", "accuracy"),
]
USAGE = "(usage: tune.py --help)"
STORES = "databricks, http, https, mssql, mysql, postgresql, sqlite"
DATASETS = "chest_mnist, color_mnist, decoy_fashion_mnist, decoy_mnist, fashion_mnist, image_folder, mnist, npz"
MODES = (
    "faithfulness, finetuning, joint, only_classification, pretrain_and_joint, pretrain_and_joint_and_finetuning, "
    "save_expls, test"
)
EXPLAINERS = (
    "gradcam, gradient_shap, guided_gradcam, input, input_x_gradient, input_x_integrated_gradient, "
    "integrated_gradient, saliency, smoothgrad"
)
LAMBDAS = "loss.lambda_c, loss.lambda_e, loss.lambda_ft"
NO_COMMAND = (
    "lsx: unknown command {!r}; {}Valid: best, list, report, rerun, show; a study is run by: tune.py --study NAME"
)


class Mistake(NamedTuple):
    """A row of the table.

    Attributes:
        id: what is wrong, in short.
        words: of the command; ``tune`` or ``lsx`` first. HERE stands for the working folder.
        line: all of standard error, but for the line's end; HERE as above. A pattern where ``line`` is compiled.
        make: what is done before, in the working folder.
    """

    id: str
    words: str
    line: str | re.Pattern[str]
    make: Callable[[Path], object] = lambda here: None


def study(name: str, **changes: Any) -> Callable[[Path], object]:
    """Write a study file with changes."""
    text = yaml.safe_dump({**fakes.CONTENT, **changes}, sort_keys=False)
    return lambda here: (here / f"{name}.yaml").write_text(text)


def file(name: str, content: bytes = b"no such thing") -> Callable[[Path], object]:
    return lambda here: (here / name).write_bytes(content)


def folder(name: str) -> Callable[[Path], object]:
    return lambda here: (here / name).mkdir()


def cut(here: Path) -> None:
    """A checkpoint that lost its second half."""
    whole = (here / "run" / "checkpoint.pt").read_bytes()
    (here / "cut.pt").write_bytes(whole[: len(whole) // 2])


def other_network(here: Path) -> None:
    """A checkpoint whose weights are not of the network that it names."""
    state = torch.load(here / "run" / "checkpoint.pt", weights_only=True)
    state["config"] = dict(state["config"])
    state["config"]["model"] = {**state["config"]["model"], "name": "SimpleConvNet"}
    torch.save(state, here / "other.pt")


def full_lock(here: Path) -> None:
    """A study folder on a disk without room: what the driver writes first is refused as such a disk refuses it."""
    (here / "lsx-studies" / "fake").mkdir(parents=True)
    (here / "lsx-studies" / "fake" / "lock").symlink_to("/dev/full")


STUDY_FILES = [
    Mistake(
        "misspelt study",
        "tune --study decoy_mnits",
        re.compile(
            r"lsx: unknown study 'decoy_mnits'; did you mean 'decoy_mnist'\? Valid: [\w, ]+; or the path of a .+"
        ),
    ),
    Mistake("study file that is not there", "tune --study no.yaml", "lsx: study file 'no.yaml' does not exist"),
    Mistake(
        "misspelt profile",
        "tune --study decoy_mnist --profile papr",
        re.compile(r"lsx: .*decoy_mnist\.yaml:\d+: unknown profile 'papr'; did you mean 'paper'\? Valid: paper, quick"),
    ),
    Mistake(
        "broken YAML",
        "tune --study broken.yaml",
        "lsx: broken.yaml:3: expected the node content, but found '<stream end>'",
        file("broken.yaml", b"name: x\nspace: [\n"),
    ),
    Mistake(
        "study file that is no text",
        "tune --study bytes.yaml",
        re.compile("lsx: study 'bytes.yaml' cannot be read: 'utf-8' codec can't decode byte 0x80 .+"),
        file("bytes.yaml", b"\x80\x81"),
    ),
    Mistake(
        "empty study file",
        "tune --study empty.yaml",
        "lsx: empty.yaml:1: must be a mapping of keys to values, not None",
        file("empty.yaml", b""),
    ),
    Mistake(
        "misspelt section",
        "tune --study it.yaml",
        re.compile(
            r"lsx: it.yaml:\d+: unknown key 'objectivs'; did you mean 'objectives'\? Valid: baseline, budget, .+"
        ),
        study("it", objectivs=[]),
    ),
    Mistake(
        "misspelt type of a dimension",
        "tune --study it.yaml",
        re.compile(r"lsx: it.yaml:\d+: space.loss.lambda_e.type: 'flaot' is not valid: should be 'float', 'int' or .+"),
        study("it", space={"loss.lambda_e": {"type": "flaot", "low": 1, "high": 2}}),
    ),
    Mistake(
        "when on an unknown parameter",
        "tune --study it.yaml",
        re.compile(
            r"lsx: it.yaml:\d+: space.explainer.steps: when: unknown searched setting 'critic.optimzer'; "
            r"did you mean 'critic.optimizer'\? Valid: critic.learning_rate, critic.optimizer, .+"
        ),
        study(
            "it",
            space=SPACE | {"explainer.steps": {"type": "int", "low": 2, "high": 3, "when": {"critic.optimzer": 1}}},
        ),
    ),
    Mistake(
        "objective that no metric provides",
        "tune --study it.yaml",
        re.compile(r"lsx: it.yaml:\d+: objectives.0: unknown metric 'acuracy'; did you mean 'accuracy'\? Valid: .+"),
        study("it", objectives=[{"metric": "acuracy", "direction": "maximize"}]),
    ),
    Mistake(
        "direction that is none",
        "tune --study it.yaml",
        re.compile(r"lsx: it.yaml:\d+: objectives.0.direction: 'up' is not valid: should be 'maximize' or 'minimize'"),
        study("it", objectives=[{"metric": "accuracy", "direction": "up"}]),
    ),
    Mistake(
        "constraint on a misspelt metric",
        "tune --study it.yaml",
        re.compile(r"lsx: it.yaml:\d+: constraints.0: unknown metric 'acuracy'; did you mean 'accuracy'\? Valid: .+"),
        study("it", constraints=[{"metric": "acuracy", "low": 0.5}]),
    ),
    Mistake(
        "misspelt key in a reference trial",
        "tune --study it.yaml",
        re.compile(
            rf"lsx: it.yaml:\d+: reference_trials.x: unknown setting 'loss.lamda_e'; did you mean 'loss.lambda_e'\? "
            rf"Valid: {LAMBDAS}"
        ),
        study("it", reference_trials={"x": {"loss.lamda_e": 1}}),
    ),
    Mistake(
        "budget of less than nothing",
        "tune --study it.yaml",
        re.compile(r"lsx: it.yaml:\d+: budget.trials: -1 is not valid: should be greater than or equal to 1"),
        study("it", budget={"trials": -1}),
    ),
]
SETTINGS = [
    Mistake(
        "misspelt key",
        "tune --study fake.yaml --set loss.lamda_e=1",
        "lsx: --set loss.lamda_e=1: unknown setting 'loss.lamda_e'; did you mean 'loss.lambda_e'? Valid: " + LAMBDAS,
    ),
    Mistake(
        "misspelt explainer",
        "tune --study fake.yaml --set explainer.method=gradcm",
        "lsx: --set explainer.method=gradcm: explainer.method = 'gradcm' is not valid: unknown explainer 'gradcm'; "
        f"did you mean 'gradcam'? Valid: {EXPLAINERS}",
    ),
    Mistake(
        "misspelt explainer among choices",
        "tune --study fake.yaml --set explainer.method=[gradcam,gradcm]",
        "lsx: --set explainer.method=[gradcam,gradcm]: choice 'gradcm' is refused: explainer.method = 'gradcm' is not "
        f"valid: unknown explainer 'gradcm'; did you mean 'gradcam'? Valid: {EXPLAINERS}",
    ),
    Mistake(
        "range upside down",
        "tune --study fake.yaml --set loss.lambda_e=100..1",
        "lsx: --set loss.lambda_e=100..1: low 100 must be below high 1",
    ),
    Mistake(
        "logarithm of zero",
        "tune --study fake.yaml --set loss.lambda_e=0..1:log",
        "lsx: --set loss.lambda_e=0..1:log: low 0 must be above 0 on a log scale",
    ),
    Mistake(
        "range beyond what the setting allows",
        "tune --study fake.yaml --set data.few_shot_fraction=0.5..2",
        "lsx: --set data.few_shot_fraction=0.5..2: high 2 is refused: data.few_shot_fraction = 2 is not valid: "
        "should be less than or equal to 1",
    ),
    Mistake(
        "no range of numbers",
        "tune --study fake.yaml --set loss.lambda_e=1..x",
        "lsx: --set loss.lambda_e=1..x: '1..x' is no range of numbers; valid: LOW..HIGH, LOW..HIGH:log or "
        "LOW..HIGH:step=STEP",
    ),
    Mistake(
        "key without a value",
        "tune --study fake.yaml --set loss.lambda_e",
        "lsx: --set loss.lambda_e: must be KEY=VALUE, such as loss.lambda_e=10 or loss.lambda_e=1..100",
    ),
    Mistake(
        "misspelt sampler",
        "tune --study fake.yaml --sampler tpes",
        "lsx: --set sampler.type=tpes: 'tpes' is not valid: should be 'tpe', 'nsga2', 'nsga3', 'random' or 'grid'",
    ),
    Mistake(
        "grid over a range without steps",
        "tune --study fake.yaml --sampler grid",
        re.compile(
            r"lsx: fake.yaml:\d+: space.loss.lambda_e: a grid cannot enumerate a float; give it step or points; "
            "with --set sampler.type=grid"
        ),
    ),
    Mistake(
        "data folder that is not there",
        "tune --study fake.yaml --set data.source=folder --set data.root=nowhere",
        "lsx: study fake: data.root 'nowhere' is not a folder; it must hold the idx files of MNIST",
    ),
    Mistake(
        "data that was not downloaded",
        "tune --study fake.yaml --set data.source=torchvision --set data.root=nowhere",
        "lsx: study fake: 'nowhere/MNIST/raw' does not hold torchvision's MNIST; fetch it with: python -m lsx data "
        "download --root nowhere",
    ),
    Mistake(
        "GPU that is not there",
        "tune --study fake.yaml --set device=cuda:77",
        re.compile(r"lsx: study fake: device = 'cuda:77' is not on this machine; it has \d+ CUDA GPUs"),
    ),
    Mistake(
        "too many GPUs for a trial",
        "tune --study fake.yaml --gpus-per-trial 640",
        re.compile(r"lsx: a trial needs 640 GPUs \(resources.gpus_per_trial\), this machine has \d+"),
    ),
    Mistake(
        "too many processors for a trial",
        "tune --study fake.yaml --set resources.cpus_per_trial=6400",
        re.compile(r"lsx: a trial needs 6400 CPUs \(resources.cpus_per_trial\), this machine has \d+"),
    ),
]
FLAGS = [
    Mistake("misspelt command", "tune shwo", NO_COMMAND.format("shwo", "did you mean 'show'? ")),
    Mistake("study where a command goes", "tune decoy_mnist", NO_COMMAND.format("decoy_mnist", "")),
    Mistake("no study", "tune", f"lsx: the following arguments are required: --study {USAGE}"),
    Mistake(
        "misspelt flag",
        "tune --study fake.yaml --tirals 3",
        f"lsx: unrecognized arguments: --tirals 3; did you mean --trials? {USAGE}",
    ),
    Mistake(
        "misspelt flag of a look",
        "tune best --study fake --exprt x",
        f"lsx: unrecognized arguments: --exprt x; did you mean --export? {USAGE}",
    ),
    Mistake(
        "no trials",
        "tune --study fake.yaml --trials 0",
        f"lsx: argument --trials: 0 must be at least 1 {USAGE}",
    ),
    Mistake(
        "one and a half GPUs",
        "tune --study fake.yaml --gpus-per-trial 1.5",
        f"lsx: argument --gpus-per-trial: 1.5 must be auto, between 0 and 1, or a whole number of GPUs {USAGE}",
    ),
    Mistake(
        "time that is no duration",
        "tune --study fake.yaml --time-budget soon",
        "lsx: time budget: 'soon' is no duration above 0, such as 45s, 30m, 2h or 1h30m",
    ),
]
PLACES = [
    Mistake(
        "file where the folder of studies goes",
        "tune --study fake.yaml --folder fake.yaml",
        "lsx: study folder 'HERE/fake.yaml/fake' cannot be used: Not a directory",
    ),
    Mistake(
        "folder that nobody can make",
        "tune --study fake.yaml --folder /proc/lsx",
        "lsx: study folder '/proc/lsx/fake' cannot be used: No such file or directory",
    ),
    Mistake(
        "disk without room for a study",
        "tune --study fake.yaml",
        "lsx: study folder 'HERE/lsx-studies/fake' cannot be used: No space left on device",
        full_lock,
    ),
    Mistake(
        "checkpoints below a file",
        "tune --study fake.yaml --storage fake.yaml/kept",
        "lsx: folder 'fake.yaml/kept' cannot be made: 'HERE/fake.yaml' is no folder",
    ),
    Mistake(
        "bucket of an unknown kind",
        "tune --study fake.yaml --storage s4://bucket/x",
        "lsx: storage 's4://bucket/x' cannot be used: Unrecognized filesystem type in URI: s4://bucket/x; valid: a "
        "folder, or a URI such as s3://bucket/folder or gs://bucket/folder",
    ),
    Mistake(
        "tracking server that is not there",
        "tune --study fake.yaml --tracking-uri http://127.0.0.1:9",
        "lsx: MLflow at 'http://127.0.0.1:9' cannot be used: no server answers there",
    ),
    Mistake(
        "port taken by a server of something else",
        "tune --study fake.yaml --tracking-uri http://127.0.0.1:WEB",
        "lsx: MLflow at 'http://127.0.0.1:WEB' cannot be used: what answers there is no MLflow server; is its port "
        "taken by something else?",
    ),
    Mistake(
        "port taken by what speaks no HTTP",
        "tune --study fake.yaml --tracking-uri http://127.0.0.1:MAIL",
        "lsx: MLflow at 'http://127.0.0.1:MAIL' cannot be used: what answers there is no MLflow server; is its port "
        "taken by something else?",
    ),
    Mistake(
        "tracking in a folder",
        "tune --study fake.yaml --tracking-uri mlruns",
        "lsx: MLflow at 'mlruns' cannot be used: it keeps no runs in folders; name sqlite:///mlflow.db",
    ),
    Mistake(
        "tracking store of an unknown kind",
        "tune --study fake.yaml --tracking-uri ftp://x",
        f"lsx: MLflow at 'ftp://x' cannot be used: unknown kind of store 'ftp'; did you mean 'http'? Valid: {STORES}",
    ),
    Mistake(
        "tracking file that is no database",
        "tune --study fake.yaml --tracking-uri sqlite:///text.db",
        "lsx: 'text.db' is no SQLite database; name a file that is one, or that is not there",
        file("text.db"),
    ),
    Mistake(
        "database that is no URL",
        "tune --study fake.yaml --optuna-storage trials.db",
        "lsx: study storage 'trials.db' cannot be used: it is no URL of a database, such as postgresql://host/name or "
        "sqlite:///studies.db",
    ),
    Mistake(
        "database of an unknown kind",
        "tune --study fake.yaml --optuna-storage postgres9://host/x",
        "lsx: study storage 'postgres9://host/x' cannot be used: unknown kind of database 'postgres9'; did you mean "
        "'postgresql'? Valid: mssql, mysql, postgresql, sqlite",
    ),
    Mistake(
        "cluster that is not there",
        "tune --study fake.yaml --address 127.0.0.1:9",
        "lsx: the Ray cluster at '127.0.0.1:9' does not answer: [Errno 111] Connection refused; valid: host:port of "
        "its head node, or auto on one of its nodes",
    ),
    Mistake(
        "cluster whose address is none",
        "tune --study fake.yaml --address nowhere",
        "lsx: the Ray cluster's address 'nowhere' cannot be used; valid: host:port of its head node, or auto on one of "
        "its nodes",
    ),
]
LOOKS = [
    Mistake(
        "look at a misspelt study",
        "tune show --study fkae",
        "lsx: unknown study 'fkae'; did you mean 'fake'? Valid: fake (those that were run, in 'lsx-studies')",
        lambda here: past(here / "lsx-studies"),
    ),
    Mistake(
        "look at a study where none was run",
        "tune show --study fake",
        "lsx: unknown study 'fake': no study was run in 'lsx-studies'; --folder names another folder",
    ),
    Mistake(
        "trial that there is not",
        "tune rerun --study fake 9",
        "lsx: study 'fake' has no trial 9; valid: 0 to 3",
        lambda here: past(here / "lsx-studies"),
    ),
    Mistake(
        "export over a file",
        "tune best --study fake --export fake.yaml",
        "lsx: 'fake.yaml' exists; name a file that does not",
        lambda here: past(here / "lsx-studies"),
    ),
]
FOREGROUND = [
    Mistake(
        "misspelt command of lsx",
        "lsx trian",
        "lsx: unknown command 'trian'; did you mean 'train'? Valid: data, doctor, evaluate, explain, train",
    ),
    Mistake(
        "misspelt flag of lsx",
        "lsx train --n_epoch 3",
        "lsx: unknown flag '--n-epoch'; did you mean '--n-epochs'? `lsx train --help` lists all",
    ),
    Mistake(
        "misspelt key of lsx",
        "lsx train --set loss.lamda_e=1",
        f"lsx: unknown setting 'loss.lamda_e'; did you mean 'loss.lambda_e'? Valid: {LAMBDAS}",
    ),
    Mistake(
        "misspelt training mode",
        "lsx train --training_mode finetunig",
        f"lsx: unknown training mode 'finetunig'; did you mean 'finetuning'? Valid: {MODES}",
    ),
    Mistake(
        "misspelt dataset",
        "lsx train --dataset mnst",
        f"lsx: unknown dataset 'mnst'; did you mean 'mnist'? Valid: {DATASETS}",
    ),
    Mistake(
        "misspelt model",
        "lsx train --model Net9",
        "lsx: unknown model 'Net9'; did you mean 'Net1'? Valid: MLP, Net1, SimpleConvNet",
    ),
    Mistake(
        "misspelt explainer of lsx",
        "lsx train --explanation_mode gradcm",
        f"lsx: unknown explainer 'gradcm'; did you mean 'gradcam'? Valid: {EXPLAINERS}",
    ),
    Mistake(
        "misspelt metric",
        "lsx train --metrics acuracy",
        re.compile(r"lsx: unknown metric 'acuracy'; did you mean 'accuracy'\? Valid: .+"),
    ),
    Mistake(
        "weight below zero",
        "lsx train --lambda_e -1",
        "lsx: loss.lambda_e = -1.0 is not valid: should be greater than or equal to 0",
    ),
    Mistake(
        "explainer that teaches nothing",
        "lsx train --explanation_mode input",
        "lsx: explainer 'input' gives no gradient to the learner, so an explanation loss could not train it (it is for "
        "evaluation only); set loss.lambda_e and loss.lambda_ft to 0, or choose a differentiable explainer",
    ),
    Mistake(
        "too few images for the critic",
        "lsx train --few_shot_train_percent 0.01",
        "lsx: critic set needs 18 x 64 = 1152 images, the training set has 30; lower critic.batches or "
        "critic.batch_size, or raise data.few_shot_fraction",
    ),
    Mistake(
        "GPU that is not there, for lsx",
        "lsx train --device cuda:77",
        re.compile(r"lsx: device = 'cuda:77' is not on this machine; it has \d+ CUDA GPUs"),
    ),
    Mistake(
        "settings file that is broken",
        "lsx train --config broken.yaml",
        "lsx: config 'broken.yaml' cannot be read: line 2: expected the node content, but found '<stream end>'",
        file("broken.yaml", b"loss: [\n"),
    ),
    Mistake(
        "run below a file",
        "lsx train --out fake.yaml/run",
        "lsx: --out 'fake.yaml/run' cannot be written: [Errno 20] Not a directory: 'fake.yaml/run'",
    ),
    Mistake(
        "run that is there",
        "lsx train --out run",
        "lsx: --out 'run' holds a run already; add --resume to continue it, or choose another --out",
    ),
    Mistake(
        "tracking store of an unknown kind, for lsx",
        "lsx train --tracking-uri http://127.0.0.1:9",
        "lsx: MLflow at 'http://127.0.0.1:9' cannot be used: no server answers there",
    ),
    Mistake(
        "checkpoint that is not there",
        "lsx evaluate no.pt",
        "lsx: checkpoint 'no.pt' cannot be read: No such file or directory",
    ),
    Mistake(
        "damaged checkpoint",
        "lsx evaluate cut.pt",
        "lsx: checkpoint 'cut.pt' is damaged, or is no checkpoint of lsx",
        cut,
    ),
    Mistake(
        "damaged checkpoint to go on from",
        "lsx train --training_mode joint --model_pt cut.pt",
        "lsx: checkpoint 'cut.pt' is damaged, or is no checkpoint of lsx",
        cut,
    ),
    Mistake(
        "checkpoint of another architecture",
        "lsx evaluate other.pt",
        "lsx: the checkpoint's weights do not fit SimpleConvNet: conv1.weight is [4, 1, 5, 5] in the checkpoint and "
        "[20, 1, 5, 5] in the network; use the model and the dataset that it was trained with",
        other_network,
    ),
    Mistake(
        "checkpoint of another architecture to go on from",
        "lsx train --training_mode joint --model_pt run --model Net1 --critic-batches 1 --out more",
        "lsx: the checkpoint's weights do not fit Net1: conv1.weight is [4, 1, 5, 5] in the checkpoint and "
        "[32, 1, 3, 3] in the network; use the model and the dataset that it was trained with",
    ),
    Mistake(
        "image that is none",
        "lsx explain run/checkpoint.pt text.png",
        "lsx: image 'text.png' cannot be read: damaged, or no image",
        file("text.png"),
    ),
    Mistake(
        "image that is not there",
        "lsx explain run/checkpoint.pt no.png",
        "lsx: image 'no.png' cannot be read: No such file or directory",
    ),
    Mistake(
        "data folder that is not there, for lsx",
        "lsx data show --source folder --root nowhere",
        "lsx: data.root 'nowhere' is not a folder; it must hold the idx files of MNIST",
    ),
    Mistake(
        "arrays that are none",
        "lsx data show --dataset npz --root arrays.npz",
        "lsx: 'arrays.npz' cannot be read: it is not an NPZ file, or is damaged",
        file("arrays.npz"),
    ),
    Mistake(
        "picture below a file",
        "lsx data show --picture fake.yaml/x.png",
        re.compile("lsx: --picture 'fake.yaml/x.png' cannot be written: .+"),
    ),
    Mistake(
        "dataset that cannot be downloaded",
        "lsx data download --dataset mnst",
        "lsx: unknown value of dataset 'mnst'; did you mean 'mnist'? Valid: chest_mnist, fashion_mnist, mnist",
    ),
    Mistake(
        "misspelt flag of doctor",
        "lsx doctor --jsn",
        "lsx: unknown flag '--jsn'; did you mean '--json'? `lsx doctor --help` lists all",
    ),
]
TABLE = [*STUDY_FILES, *SETTINGS, *FLAGS, *PLACES, *LOOKS, *FOREGROUND]


class Web(http.server.BaseHTTPRequestHandler):
    """A server of something else."""

    def do_GET(self) -> None:
        self.send_error(404)

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass


class Mail(socketserver.BaseRequestHandler):
    """Speaks first, and not HTTP."""

    def handle(self) -> None:
        self.request.sendall(b"220 mail is ready\r\n")


@contextmanager
def serving(handler: Any) -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, str]]:
    with serving(Web) as web, serving(Mail) as mail:
        yield {"WEB": str(web), "MAIL": str(mail)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of ``lsx train``."""
    out = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lsx.figures.explanations", lambda path, *_, **__: path.write_bytes(b"drawn"))
        assert lsx(["train", *TINY, "--out", str(out)]) == 0
    return out


@pytest.fixture
def here(tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a study and a run in it, where neither Ray nor the environment has a say."""
    monkeypatch.setattr(cluster.ray, "init", lambda **_: pytest.fail("Ray was started"))
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fake.yaml").write_text(yaml.safe_dump(fakes.CONTENT))
    shutil.copytree(run, tmp_path / "run")
    return tmp_path


def listing(folder: Path) -> dict[str, str]:
    """Every path below a folder, with the checksum of what is in it."""
    paths = sorted(folder.rglob("*"))
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file() and not path.is_symlink()
        else ""
        for path in paths
    }


def status_of(door: Callable[[list[str]], int], words: list[str]) -> object:
    try:
        return door(words)
    except SystemExit as ended:
        return ended.code


def test_the_table_is_long_enough_and_names_every_row_once() -> None:
    assert len(TABLE) >= 45
    assert len({row.id for row in TABLE}) == len(TABLE)


@pytest.mark.parametrize("row", [pytest.param(row, id=row.id.replace(" ", "-")) for row in TABLE])
def test_a_mistake_is_one_line_and_leaves_nothing(
    row: Mistake, here: Path, ports: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    def filled(text: str) -> str:
        return text.replace("HERE", str(here)).replace("WEB", ports["WEB"]).replace("MAIL", ports["MAIL"])

    row.make(here)
    before = listing(here)
    capfd.readouterr()
    door, *words = filled(row.words).split()
    status = status_of({"tune": cli.main, "lsx": lsx}[door], words)
    error = capfd.readouterr().err
    if isinstance(row.line, str):
        assert error == filled(row.line) + "\n"
    else:
        assert row.line.fullmatch(error.removesuffix("\n")), error
    assert error.endswith("\n") and error.count("\n") == 1
    assert status == 2
    assert listing(here) == before


@pytest.mark.parametrize("words", [["-m", "lsx", "doctor"], ["tune.py", "show", "--study", "fake"]])
def test_a_terminal_without_our_letters_is_no_reason_for_a_traceback(words: list[str], here: Path) -> None:
    past(here / "lsx-studies")
    command = [sys.executable, *(str(ROOT / word) if word == "tune.py" else word for word in words)]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert "?" in result.stdout and "lsx: starting" not in result.stdout


def test_a_disk_without_room_leaves_no_half_of_a_picture(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(self: Any, path: Path, **_: Any) -> None:
        path.write_bytes(b"half of a pic")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    before = listing(here)
    assert lsx(["data", "show", "--picture", "digits.png"]) == 2
    error = capfd.readouterr().err
    assert error == "lsx: --picture 'digits.png' cannot be written: [Errno 28] No space left on device\n"
    assert listing(here) == before
