"""One small real study, MLflow's UI on it, and a real browser."""

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from lsx.study.environment import quiet
from tests.study.servers import Server

quiet.prepare()

from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Run  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
LOCAL = ("127.0.0.1", "localhost", "")
SECONDS = 30

STUDY: dict[str, Any] = {
    "name": "small",
    "question": "Does a critic help?",
    "settings": {
        "data": {"dataset": "decoy_mnist", "source": "embedded", "few_shot_fraction": 0.05},
        "model.name": "SimpleConvNet",
        "pretrain": {"epochs": 2, "batch_size": 32},
        "joint": {"epochs": 1, "batch_size": 50},
        "finetune": {"epochs": 1, "batch_size": 50},
        "critic": {"model": "SimpleConvNet", "batch_size": 16, "batches": 2},
        "evaluation": {"encoder_epochs": 0, "max_images": 32, "metrics": ["accuracy", "reference_relevance_mass"]},
    },
    "space": {
        "loss.lambda_e": {"type": "float", "low": 1, "high": 100, "log": True},
        "explainer.method": {"type": "categorical", "choices": ["input_x_gradient", "gradcam"]},
    },
    "objectives": [
        {"metric": "accuracy", "direction": "maximize"},
        {"metric": "reference_relevance_mass", "direction": "minimize"},
    ],
    "reference_trials": {"baseline": {"stages": ["pretrain"]}},
    "scheduler": {"type": "none"},
    "sampler": {"type": "random"},
    "budget": {"trials": 3},
}


@dataclass
class Tracked:
    """A finished study and the MLflow server that shows it.

    Attributes:
        uri: of the server.
        folder: of the study.
        experiment: id.
        parent, runs: the study's run, and its trials', by number.
    """

    uri: str
    folder: Path
    experiment: str
    parent: Run
    runs: list[Run]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, headless; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install lsx[test]")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    with playwright.sync_playwright() as started:
        if program is None and not Path(started.chromium.executable_path).exists():
            pytest.skip(f"no browser is installed: none of {', '.join(BROWSERS)}, and no `playwright install chromium`")
        opened = started.chromium.launch(executable_path=program, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def tracked(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracked]:
    """The study, run; it asks for the browser, so that nothing is run where there is none."""
    import lsx.study

    folder = tmp_path_factory.mktemp("browser")
    server = Server(folder)
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(_started, server)  # it takes as long as Ray does
        spec = lsx.study.StudySpec.build(STUDY)
        done = lsx.study.run(spec, folder=folder, tracking_uri=f"sqlite:///{server.database}")
        started.result()
    assert done.status == "complete"
    client = MlflowClient(tracking_uri=server.uri)
    experiment = client.get_experiment_by_name("small").experiment_id
    runs = client.search_runs([experiment])
    try:
        yield Tracked(
            server.uri,
            done.folder,
            experiment,
            next(run for run in runs if run.data.tags["lsx.role"] == "study"),
            sorted((run for run in runs if "lsx.trial" in run.data.tags), key=lambda run: run.info.run_name),
        )
    finally:
        server.kill()


def _started(server: Server) -> None:
    end = time.monotonic() + 60
    while not server.database.exists() and time.monotonic() < end:
        time.sleep(0.1)  # two that make a store at once fail
    server.start()


@dataclass
class Window:
    """A page, and what must not happen on it.

    Attributes:
        page: Playwright's.
        errors: uncaught exceptions, and what was written to the console as an error.
        outside: addresses that are not on this machine; they are not reached.
    """

    page: Any
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Begin to note both."""
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.context.route("**/*", self._pass)

    def _pass(self, route: Any) -> None:
        if urlsplit(route.request.url).hostname in (*LOCAL, None):
            route.continue_()
        else:
            self.outside.append(route.request.url)
            route.abort()


@pytest.fixture
def window(browser: Any) -> Iterator[Window]:
    """A page as of a new visitor; no request may leave the machine."""
    context = browser.new_context(viewport={"width": 2200, "height": 1200}, service_workers="block")
    context.set_default_timeout(SECONDS * 1000)
    # MLflow's assistant opens by itself, over half of the page.
    context.add_init_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
    opened = Window(context.new_page())
    opened.watch()
    yield opened
    context.close()
    assert opened.outside == []
