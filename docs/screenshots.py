"""Draws mlflow_*.png: what MLflow shows of a small study. ``python docs/screenshots.py`` takes some minutes.

A study is run in a temporary folder, ``mlflow ui`` is started on it on the loopback interface, and Chromium, from the
system or from Playwright, takes the pictures. ``--uri URI --study NAME`` takes them of a study that is there.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from lsx.study.environment import quiet

quiet.prepare()

from mlflow import MlflowClient  # noqa: E402

from lsx.study.tracked import views  # noqa: E402

DOCS = Path(__file__).parent
COMMAND = ["--study", "decoy_mnist", "--trials", "8", "--set", "name=decoy_mnist_small", "--set", "scheduler.type=none"]
COMMAND += ["--set", "data.few_shot_fraction=0.2", "--set", "model.name=SimpleConvNet"]
COMMAND += ["--set", "evaluation.encoder_epochs=0", "--set", "evaluation.max_images=100", "--set", "finetune.epochs=2"]
NAME = "decoy_mnist_small"
TRAINING = "workflowType=machine_learning"
SIZE = {"width": 1440, "height": 800}
COLORS = 256
"""A screenshot has few; with a palette it is a third of the size."""


def main() -> None:
    """Write the pictures beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uri", help="of MLflow, with a finished study")
    parser.add_argument("--study", default=NAME, help="its name (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        uri = args.uri or studied(Path(folder))
        with served(uri) as address, opened() as page:
            draw(page, address, args.study)


def studied(folder: Path) -> str:
    """Run the study; returns where it is tracked."""
    uri = f"sqlite:///{folder}/mlflow.db"
    tune = [sys.executable, str(DOCS.parent / "tune.py"), *COMMAND]
    subprocess.run([*tune, "--folder", str(folder), "--tracking-uri", uri], cwd=folder, check=True)
    return uri


@contextlib.contextmanager
def served(uri: str) -> Iterator[str]:
    """``mlflow ui`` on a store; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", "127.0.0.1", "--port", port]
    off = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen(
        [*command, "--workers", "1"], env={**os.environ, **off}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=1):
                break
            time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def opened() -> Iterator[Any]:
    """A page of a headless browser."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport=SIZE)
        # MLflow's assistant opens by itself, over a third of the page.
        page.add_init_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
        yield page
        browser.close()


def draw(page: Any, address: str, study: str) -> None:
    """All pictures of one study."""
    client = MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name(study).experiment_id
    runs = sorted(client.search_runs([experiment]), key=lambda run: run.info.run_name)
    parent = next(run.info.run_id for run in runs if run.data.tags["lsx.role"] == "study")
    trials = [run for run in runs if run.data.tags.get("lsx.status") == "complete"]
    searched = next(
        (run for run in trials if run.data.tags["lsx.front"] == "true" and "joint/loss" in run.data.metrics), trials[-1]
    )
    base, chosen = f"#/experiments/{experiment}/runs", quote(json.dumps([run.info.run_id for run in trials[:3]]))
    pictures = {
        "runs": f"{base}?{TRAINING}",
        "trials": views.address(experiment=experiment),
        "study": f"{base}/{parent}?{TRAINING}",
        "curves": f"{base}/{searched.info.run_id}/model-metrics?{TRAINING}",
        "pictures": f"{base}/{searched.info.run_id}/artifacts/explanations.png?{TRAINING}",
        "comparison": f"#/compare-runs?runs={chosen}&experiments=%5B%22{experiment}%22%5D&{TRAINING}",
    }
    for name, path in pictures.items():
        page.goto(f"{address}/{path}", wait_until="domcontentloaded")
        page.wait_for_timeout(5000)  # until its figures are drawn
        if name == "study":
            page.get_by_text("Show more").click()
        if name == "curves":
            page.get_by_text("joint", exact=True).first.scroll_into_view_if_needed()
        page.wait_for_timeout(1000)
        save(page, DOCS / f"mlflow_{name}.png")


def save(page: Any, path: Path) -> None:
    """What is seen now, with a palette."""
    page.screenshot(path=path)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(COLORS).save(path, optimize=True)


if __name__ == "__main__":
    main()
