"""What a person sees who opens MLflow on a finished study."""

import json
from pathlib import Path
from urllib.parse import quote

import pytest

from lsx.cli import main
from lsx.study.tracked import views
from tests.browser.conftest import MlflowClient, Tracked, Window


def show(window: Window, tracked: Tracked, path: str) -> None:
    window.page.goto(f"{tracked.uri}/{path}", wait_until="domcontentloaded")


def sees(window: Window, *texts: str) -> None:
    for text in texts:
        window.page.get_by_text(text).first.wait_for(state="visible")


def headers(window: Window) -> list[str]:
    """Ids of the table's columns, from left to right."""
    window.page.locator(".ag-header-cell").first.wait_for()
    found = window.page.locator(".ag-header-cell").evaluate_all(
        "cells => cells.map(cell => [cell.getBoundingClientRect().x, cell.getAttribute('col-id')])"
    )
    return [name for _, name in sorted(found)]


def left(window: Window, run_id: str) -> float:
    """Where the link to a run begins."""
    link = window.page.locator(f"a[href*='/runs/{run_id}']").first
    link.wait_for(state="visible")
    return float(link.bounding_box()["x"])


def names(tracked: Tracked) -> list[str]:
    return [run.info.run_name for run in tracked.runs]


def test_the_experiment_shows_trials_below_their_study(window: Window, tracked: Tracked) -> None:
    assert names(tracked)[0] == "000 baseline: classification only"
    assert all(" λe=" in name and " λft=" in name for name in names(tracked)[1:])
    show(window, tracked, f"#/experiments/{tracked.experiment}/runs?workflowType=machine_learning")
    sees(window, "4 matching runs", "decoy_mnist-train", "Pareto front")
    study, *trials = (left(window, run.info.run_id) for run in (tracked.parent, *tracked.runs))
    assert min(trials) > study  # unfolded, and indented


def test_figures_and_settings_are_the_first_columns(window: Window, tracked: Tracked) -> None:
    show(window, tracked, views.address(experiment=tracked.experiment))
    sees(window, "3 matching runs", names(tracked)[0])
    expected = [
        views.NAME,
        views.CREATED,
        "metrics.`final/accuracy`",
        "metrics.`final/reference_relevance_mass`",
        "params.`explainer.method`",
        "params.`loss.lambda_c`",
        "params.`loss.lambda_e`",
        "params.`loss.lambda_ft`",
        "params.`critic.images`",
        "metrics.`joint/critic_loss_last_to_chance`",
        "metrics.`test/accuracy`",
    ]
    shown = headers(window)
    assert [name for name in shown if "`" in name or name == views.CREATED][: len(expected)] == expected


def test_tags_filter_the_front(window: Window, tracked: Tracked) -> None:
    front = [run.info.run_name for run in tracked.runs if run.data.tags["lsx.front"] == "true"]
    show(window, tracked, views.address(views.FRONT, tracked.experiment))
    sees(window, f"{len(front)} matching run", *front)


def test_tags_filter_runs(window: Window, tracked: Tracked) -> None:
    counts = {
        "tags.`lsx.baseline` = 'true'": 1,
        "tags.`lsx.source` = 'sampler'": 2,
        "tags.`lsx.explainer` = 'none'": 1,
        "tags.`lsx.pruned` = 'false' and tags.`lsx.status` = 'complete'": 3,
    }
    for condition, count in counts.items():
        filtered = f"searchFilter={quote(condition)}&workflowType=machine_learning"
        show(window, tracked, f"#/experiments/{tracked.experiment}/runs?{filtered}")
        sees(window, f"{count + 1} matching runs")  # with their study


def test_a_study_says_what_came_of_it(window: Window, tracked: Tracked) -> None:
    show(window, tracked, f"#/experiments/{tracked.experiment}/runs/{tracked.parent.info.run_id}")
    sees(window, "Answer.", "The baseline reaches accuracy", "trials/complete", names(tracked)[0])
    window.page.get_by_text("Show more").click()
    sees(window, "Does a critic help?", "000 (baseline", "lsx explain --run-id")


def test_a_trial_says_what_it_is(window: Window, tracked: Tracked) -> None:
    show(window, tracked, f"#/experiments/{tracked.experiment}/runs/{tracked.runs[1].info.run_id}")
    sees(window, names(tracked)[1], "on validation images", "decoy_mnist-train", "lsx.explainer", "final/accuracy")


def test_curves_are_grouped_by_stage_along_one_axis(window: Window, tracked: Tracked) -> None:
    show(window, tracked, f"#/experiments/{tracked.experiment}/runs/{tracked.runs[1].info.run_id}/model-metrics")
    for stage in ("pretrain", "joint", "finetune", "final"):
        window.page.get_by_text(stage, exact=True).first.wait_for()
    window.page.locator(".js-plotly-plot").first.wait_for()
    client = MlflowClient(tracking_uri=tracked.uri)
    names = ("pretrain/loss", "joint/loss", "finetune/loss", "final/accuracy")
    steps = [[one.step for one in client.get_metric_history(tracked.runs[1].info.run_id, name)] for name in names]
    assert steps == [[1, 2], [3], [4], [4]]


def test_pictures_are_in_the_artifact_pane(window: Window, tracked: Tracked) -> None:
    for run, name in ((tracked.runs[0], "explanations.png"), (tracked.parent, "front.png")):
        show(window, tracked, f"#/experiments/{tracked.experiment}/runs/{run.info.run_id}/artifacts/{name}")
        picture = window.page.locator("img[src^='blob:'], .image-container img, img[alt*='png']").first
        picture.wait_for(state="visible")
        window.page.wait_for_function("picture => picture.naturalWidth > 200", arg=picture.element_handle())


def test_three_runs_are_compared(window: Window, tracked: Tracked) -> None:
    chosen = quote(json.dumps([run.info.run_id for run in tracked.runs]))
    show(window, tracked, f"#/compare-runs?runs={chosen}&experiments={quote(json.dumps([tracked.experiment]))}")
    sees(window, "Comparing 3 Runs from 1 Experiment", *names(tracked))
    window.page.locator(".js-plotly-plot").first.wait_for()
    sees(window, "loss.lambda_e", "final/accuracy")


def test_models_of_the_front_are_loaded_and_explained(
    tracked: Tracked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.pytorch
    import torch

    from lsx import Config, load_data, load_learner

    run = next(run for run in tracked.runs if run.data.tags["lsx.front"] == "true")
    folder = tracked.folder / "trials" / f"{int(run.data.tags['lsx.trial']):04d}"
    dataset = load_data(Config.load(folder / "config.yaml"))
    learner, _ = load_learner(folder / "learner-0.pt", dataset)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracked.uri)
    loaded = mlflow.pytorch.load_model(f"runs:/{run.info.run_id}/model")
    images = dataset.test.images[:5]
    assert torch.allclose(loaded(images), learner.eval()(images), atol=1e-5)
    words = ["explain", "--run-id", run.info.run_id, "--tracking-uri", tracked.uri, "--count", "2"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "gallery.png").stat().st_size > 5000
