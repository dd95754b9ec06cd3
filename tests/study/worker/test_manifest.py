"""What a manifest holds, what it keeps to itself, and what it takes for a difference."""

import copy
import getpass
import json
import math
import platform
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import lsx
from lsx.config import Config
from lsx.study.worker import manifest as module
from lsx.study.worker.manifest import (
    DEPENDENCIES,
    GPU_TOLERANCE,
    HARMLESS,
    code,
    compare,
    differences,
    manifest,
    packages,
)

PROVENANCE = {"dataset": "mnist", "sha256": "ab" * 32, "sizes": {"train": np.int64(3)}, "mean": (0.1, math.nan)}
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="Git is not installed")


def make(config: Config | None = None, **changes):
    arguments = {"seeds": (1, 2), "threads": 1, "device": "cpu"} | changes
    return manifest(config or Config(), PROVENANCE, **arguments)


def test_a_manifest_is_plain_data():
    made = make(Config.build({"loss.lambda_e": 3}))
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert made["config"]["loss.lambda_e"] == 3.0
    assert made["seeds"] == [1, 2] and made["threads"] == 1 and made["device"] == "cpu"
    assert made["data"] == {**PROVENANCE, "sizes": {"train": 3}, "mean": [0.1, "nan"]}
    assert (
        made["packages"]["torch"] == torch.__version__.split("+")[0] or made["packages"]["torch"] == torch.__version__
    )
    assert made["packages"]["python"] == platform.python_version()
    assert made["hardware"]["cores"] >= 1 and made["hardware"]["threads"] == torch.get_num_threads()
    assert made["hardware"]["memory"] is None or made["hardware"]["memory"] > 2**20
    assert made["code"]["version"] == lsx.__version__ and len(made["code"]["sha256"]) == 64


def test_it_says_whether_torch_is_deterministic():
    before = torch.are_deterministic_algorithms_enabled()
    try:
        for wanted in (True, False):
            torch.use_deterministic_algorithms(wanted)
            assert make()["deterministic"] is wanted
    finally:
        torch.use_deterministic_algorithms(before)


def test_it_holds_no_credentials():
    config = Config.build({"data.root": "s3://key:hush@bucket/x"})
    provenance = {"root": "http://u:hush@h", "files": [{"from http://v:hush@h": "http://h/?token=hush"}]}
    made = manifest(config, provenance, seeds=[0], threads=1, device="cpu")
    assert "hush" not in json.dumps(made)
    assert made["config"]["data.root"] == "s3://***@bucket/x"
    assert made["data"]["files"] == [{"from http://***@h": "http://h/?token=***"}]


def test_it_names_no_host_person_or_place():
    made = make()
    text = json.dumps({name: made[name] for name in ("code", "packages", "hardware")})
    texts = [value for value in _leaves([made["code"], made["packages"], made["hardware"]]) if isinstance(value, str)]
    assert platform.node() not in texts and getpass.getuser() not in texts
    assert str(Path.home()) not in text and str(Path(lsx.__file__).parent) not in text


def _leaves(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return [value] if inner is None else [leaf for one in inner for leaf in _leaves(one)]


def test_it_needs_no_harness():
    script = (
        "import sys; from lsx.config import Config; from lsx.study.worker.manifest import manifest; "
        "manifest(Config(), {}, seeds=[0], threads=1, device='cpu'); "
        "print({name.split('.')[0] for name in sys.modules} & {'ray', 'mlflow', 'optuna'})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_packages_are_found_without_an_installed_lsx(monkeypatch):
    def none(name):
        raise module.metadata.PackageNotFoundError(name)

    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    declared = [text.split(">")[0].split("[")[0] for text in project["dependencies"]]
    assert list(DEPENDENCIES) == declared
    assert set(HARMLESS) < set(DEPENDENCIES)
    monkeypatch.setattr(module.metadata, "requires", none)
    assert list(packages()) == ["python", *declared]
    monkeypatch.setattr(module.metadata, "version", none)
    assert packages()["torch"] is None


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package in a folder of its own, which no repository above it tracks."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    folder = tmp_path / "project" / "pack"
    (folder / "inner").mkdir(parents=True)
    for name in ("__init__.py", "b.py", "inner/a.py"):
        (folder / name).write_text(f"# {name}\n")
    module.code.cache_clear()
    yield folder
    module.code.cache_clear()


def fresh(folder: Path):
    module.code.cache_clear()
    return code(folder)


def git(folder: Path, *command: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    return subprocess.run(["git", *who, *command], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_the_checksum_is_that_of_names_and_contents(package):
    first = fresh(package)["sha256"]
    (package / "notes.txt").write_text("no code")
    assert fresh(package)["sha256"] == first
    (package / "inner/a.py").write_text("changed\n")
    changed = fresh(package)["sha256"]
    (package / "inner/a.py").write_text("# inner/a.py\n")
    assert changed != first and fresh(package)["sha256"] == first
    (package / "b.py").rename(package / "c.py")
    assert fresh(package)["sha256"] not in (first, changed)


def test_the_code_is_that_of_the_first_question(package):
    first = code(package)
    (package / "b.py").write_text("edited while a trial runs\n")
    assert code(package) == first


@needs_git
def test_the_commit_is_that_of_the_repository_that_tracks_the_package(package):
    assert fresh(package)["commit"] is None and fresh(package)["dirty"] is None
    git(package.parent, "init", "-q")
    (package.parent / "README").write_text("x")
    git(package.parent, "add", "README")
    git(package.parent, "commit", "-q", "-m", "without the package")
    assert fresh(package)["commit"] is None and fresh(package)["dirty"] is None
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-q", "-m", "with it")
    found = fresh(package)
    assert found["commit"] == git(package, "rev-parse", "HEAD").strip() and found["dirty"] is False


@needs_git
def test_changed_files_and_new_modules_make_it_dirty(package, monkeypatch):
    git(package.parent, "init", "-q")
    (package.parent / "README").write_text("x")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-q", "-m", "all")
    monkeypatch.setenv("GIT_DIR", str(package / "nowhere"))  # as a hook of another repository would
    (package.parent / "result.txt").write_text("x")
    assert fresh(package)["dirty"] is False
    (package / "new.py").write_text("x = 1\n")
    assert fresh(package)["dirty"] is True
    (package / "new.py").unlink()
    (package.parent / "README").write_text("y")
    assert fresh(package)["dirty"] is True


def test_a_git_that_is_missing_or_hangs_is_none(package, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fresh(package)["commit"] is None
    program = tmp_path / "git"
    program.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    program.chmod(0o755)
    monkeypatch.setattr(module, "SECONDS", 0.2)
    found = fresh(package)
    assert found["commit"] is None and found["dirty"] is None and len(found["sha256"]) == 64


def test_a_gpu_is_described(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91000)
    monkeypatch.setattr(module, "_output", lambda *command, **_: asked.append(command[0]) or "580.1\n580.1")
    found = module.hardware("cuda:1")["gpu"]
    assert found == {"name": "GPU 1", "driver": "580.1", "cuda": "13.0", "cudnn": 91000}
    assert "nvidia-smi" in asked
    monkeypatch.setattr(module, "_output", lambda *command, **_: None)
    assert module.hardware("cuda")["gpu"]["driver"] is None


CHANGES = [
    (("code", "sha256"), "f" * 64, "became ffffffffffff"),
    (("packages", "torch"), "9.9", "torch: {old} became 9.9"),
    (("packages", "numpy"), None, "numpy: {old} became nothing"),
    (("data", "sha256"), "cd" * 32, "data sha256: abababababab became cdcdcdcdcdcd"),
    (("hardware", "processor"), "Other", "processor: {old} became Other"),
    (("hardware", "instructions"), "NEON", "instructions: {old} became NEON"),
    (("hardware", "platform", "machine"), "vax", "platform machine: {old} became vax"),
    (("threads",), 7, "threads: 1 became 7"),
    (("device",), "cuda:0", "device: cpu became cuda:0"),
    (("deterministic",), True, "deterministic: False became True"),
    (("seeds",), [3], "seeds: [1, 2] became [3]"),
    (("config", "loss.lambda_e"), 7.0, "loss.lambda_e: 100.0 became 7.0"),
]


def change(made, path, value):
    changed = copy.deepcopy(made)
    section = changed
    for part in path[:-1]:
        section = section[part]
    old, section[path[-1]] = section[path[-1]], value
    return old, changed


@pytest.mark.parametrize(("path", "value", "line"), CHANGES, ids=[".".join(one[0]) for one in CHANGES])
def test_what_may_change_results_is_told(path, value, line):
    made = make()
    old, changed = change(made, path, value)
    [told] = differences(made, changed)
    assert line.format(old=old) in told
    assert differences(changed, copy.deepcopy(changed)) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("code", "commit"), "other"),
        (("packages", "mlflow"), "9.9"),
        (("hardware", "memory"), 1),
        (("hardware", "cores"), 99),
        (("hardware", "gpu"), {"name": "unused"}),
        (("config", "data.root"), "elsewhere"),
        (("config", "device"), "cpu"),
        (("data", "dataset"), "renamed"),
    ],
)
def test_what_cannot_change_results_is_not_told(path, value):
    made = make()
    assert differences(made, change(made, path, value)[1]) == []


def test_the_gpu_counts_where_it_was_used():
    made = make(device="cuda:0")
    other = change(made, ("hardware", "gpu"), {"name": "Other", "driver": "1"})[1]
    assert "gpu driver: nothing became 1" in differences(change(made, ("hardware", "gpu"), None)[1], other)


def test_a_manifest_without_sections_differs_in_what_it_lacks():
    made = make()
    lines = differences({}, made)
    assert f"torch: nothing became {made['packages']['torch']}" in lines
    assert differences({}, {}) == []


def test_on_a_cpu_equal_means_the_same_floats():
    old = {"accuracy": 0.1 + 0.2, "iies": math.nan, "zero": 0.0, "loss": math.inf}
    same = compare(old, {**old, "zero": -0.0}, "cpu")
    assert same.equal and same.worst is None and same.tolerance == 0
    other = compare(old, {**old, "accuracy": 0.3}, "cpu")
    assert not other.equal and other.worst == ("accuracy", 0.1 + 0.2, 0.3)
    tiny = compare({"a": 5e-324}, {"a": 1e-323}, "cpu")
    assert not tiny.equal


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
def test_on_a_gpu_a_small_difference_is_equal(device):
    near = compare({"a": 1.0, "b": 2.0}, {"a": 1.0 + GPU_TOLERANCE / 4, "b": 2.0 - GPU_TOLERANCE}, device)
    assert near.equal and near.worst is not None and near.worst[0] == "b"
    assert near.tolerance == GPU_TOLERANCE
    far = compare({"a": 1.0, "b": 2.0}, {"a": 1.0 - 2 * GPU_TOLERANCE, "b": 2.0 + GPU_TOLERANCE / 2}, device)
    assert not far.equal and far.worst == ("a", 1.0, 1.0 - 2 * GPU_TOLERANCE)
    assert not compare({"a": 1e-9}, {"a": -1e-9}, device).equal


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_missing_and_broken_metrics_are_differences(device):
    assert compare({"a": 1.0, "b": 2.0}, {"a": 1.0}, device).worst == ("b", 2.0, None)
    assert compare({"a": 1.0}, {"a": 1.0, "b": 2.0}, device).worst == ("b", None, 2.0)
    for value in (math.nan, math.inf):
        assert not compare({"a": 1.0}, {"a": value}, device).equal
    assert not compare({"a": -math.inf}, {"a": math.inf}, device).equal
    assert not compare({}, {"a": math.nan}, device).equal
    assert compare({}, {}, device).equal
