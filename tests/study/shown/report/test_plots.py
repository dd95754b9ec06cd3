"""Charts: their data are the trials' own."""

from pathlib import Path
from typing import Any

import pytest

from tests.study.shown.report.lab import BOTH, past, read, reason

from lsx.study.shown.report.charts import BASELINE, FRONT, INFEASIBLE, blended, hex_to_rgb  # isort: skip
from lsx.study.shown.report.plots import BLUES, _place  # isort: skip

Figure = dict[str, Any]


def traces(figure: Figure) -> dict[str, Figure]:
    return {trace["name"]: trace for trace in figure["data"] if "name" in trace}


def points(trace: Figure) -> list[tuple[Any, Any]]:
    return sorted(zip(trace["x"], trace["y"], strict=True))


def test_the_front_has_every_trial_the_baseline_and_the_chosen_one(tmp_path: Path) -> None:
    figure = read(past(tmp_path, *BOTH)).figures["plot-front"]
    found = traces(figure)
    assert points(found["Pareto front"]) == [(0.6, 0.4), (0.7, 0.6)]
    assert points(found["trial"]) == [(0.4, 0.9), (0.5, 0.5)]
    assert points(found["baseline"]) == [BOTH[0]]
    assert points(found["chosen"]) == [BOTH[1]]  # the one that beats the baseline
    assert "error_x" not in found["trial"]
    (line,) = [trace for trace in figure["data"] if trace["mode"] == "lines"]
    assert (points(line), line["line"]["shape"]) == ([(0.6, 0.4), (0.7, 0.6)], "vh")
    assert figure["layout"]["xaxis"]["title"]["text"] == "accuracy ↑"
    assert figure["layout"]["yaxis"]["title"]["text"] == "ridge ↓"


def test_the_pointer_shows_the_configuration(tmp_path: Path) -> None:
    found = past(tmp_path, *BOTH)
    front = traces(read(found).figures["plot-front"])
    texts = dict(zip(front["Pareto front"]["x"], front["Pareto front"]["text"], strict=True))
    assert texts[0.6].startswith("<b>#1, chosen</b><br>published: ")
    for words in ("accuracy 0.6000", "loss.lambda_e: 10", "critic.optimizer: sgd", "critic.learning_rate: 1"):
        assert words in texts[0.6].split("<br>")
    assert f"loss.lambda_e: {found.study.trials[2].params['loss.lambda_e']:.4g}" in texts[0.7]
    assert "stages: pretrain" in front["baseline"]["text"][0]
    assert front["baseline"]["hovertemplate"] == "%{text}<extra></extra>"


def test_intervals_are_those_of_the_seeds(tmp_path: Path) -> None:
    front = traces(read(past(tmp_path, *BOTH, repeats=3)).figures["plot-front"])
    for name, count in (("Pareto front", 2), ("trial", 2), ("baseline", 1)):
        for axis in ("error_x", "error_y"):
            assert front[name][axis]["array"] == pytest.approx([0.024841] * count, abs=1e-5)  # 4.3027 · 0.01 / √3
    assert "accuracy 0.6000 ±0.0248" in front["chosen"]["text"][0]


def test_what_is_outside_of_the_constraints_is_on_no_front(tmp_path: Path) -> None:
    made = read(past(tmp_path, *BOTH, constraints=[{"metric": "accuracy", "low": 0.65}]))
    found = traces(made.figures["plot-front"])
    assert points(found["outside of the constraints"]) == [(0.4, 0.9), (0.5, 0.5), (0.6, 0.4)]
    assert found["outside of the constraints"]["marker"]["color"] == INFEASIBLE
    assert points(found["Pareto front"]) == [(0.7, 0.6)]
    history = traces(made.figures["plot-history-1"])
    assert points(history["outside of the constraints"]) == [(0, 0.5), (1, 0.4), (3, 0.9)]
    assert points(history["trial"]) == [(2, 0.6)]
    dashes = [trace["line"]["dash"] for trace in made.figures["plot-parallel"]["data"] if "customdata" in trace]
    assert sorted(dashes) == ["dot"] * 3 + ["solid"]


def test_constraints_are_todays(tmp_path: Path) -> None:
    """Optuna keeps those that a trial was finished under."""
    past(tmp_path, *BOTH, constraints=[{"metric": "accuracy", "low": 0.95}])
    found = past(tmp_path, constraints=[{"metric": "accuracy", "low": 0.55}], budget={"trials": 4})
    assert points(traces(read(found).figures["plot-front"])["Pareto front"]) == [(0.6, 0.4), (0.7, 0.6)]


def test_three_objectives_are_three_pairs(tmp_path: Path) -> None:
    aims = [
        {"metric": name, "direction": way}
        for name, way in (("accuracy", "maximize"), ("ridge", "minimize"), ("sparseness", "maximize"))
    ]
    made = read(past(tmp_path, (0.5, 0.5, 0.5), (0.6, 0.6, 0.5), (0.4, 0.6, 0.4), objectives=aims))
    assert {"plot-front-0-1", "plot-front-0-2", "plot-front-1-2"} <= made.figures.keys()
    pair = traces(made.figures["plot-front-1-2"])
    assert points(pair["Pareto front"]) == [(0.5, 0.5), (0.6, 0.5)]  # on the front of three objectives
    assert points(pair["trial"]) == [(0.6, 0.4)]
    assert not [trace for trace in made.figures["plot-front-0-1"]["data"] if trace["mode"] == "lines"]
    assert {"plot-history-0", "plot-history-1", "plot-history-2", "plot-history-hypervolume"} <= made.figures.keys()


def test_one_objective_is_a_ranking(tmp_path: Path) -> None:
    aim = [{"metric": "ridge", "direction": "minimize"}]
    made = read(past(tmp_path, (0.5,), (0.6,), (0.4,), objectives=aim, repeats=2))
    (trace,) = made.figures["plot-front"]["data"]
    assert trace["x"] == [0.4, 0.5, 0.6] and trace["y"] == ["#2, chosen", "#0, baseline", "#1"]
    assert trace["marker"]["color"][:2] == [FRONT, BASELINE]
    assert len(trace["error_x"]["array"]) == 3
    assert not [name for name in made.figures if "hypervolume" in name]


def test_history_is_what_was_reached_when(tmp_path: Path) -> None:
    made = read(past(tmp_path, *BOTH))
    for index, best in ((0, [0.5, 0.6, 0.7, 0.7]), (1, [0.5, 0.4, 0.4, 0.4])):
        found = traces(made.figures[f"plot-history-{index}"])
        assert points(found["trial"]) == [(number, values[index]) for number, values in enumerate(BOTH)]
        assert found["best so far"]["y"] == best
        assert found["trial"]["text"][1].startswith("<b>#1, chosen</b>")


def test_hypervolume_is_a_share_of_the_box(tmp_path: Path) -> None:
    (trace,) = read(past(tmp_path, (0.5, 0.5), (0.6, 0.4), (0.4, 0.6))).figures["plot-history-hypervolume"]["data"]
    # Ranges of 0.2, and 0.02 beyond the worst: (0.12 / 0.22)², and then all of it.
    assert trace["y"] == pytest.approx([0.297521, 1, 1], abs=1e-5)


def test_importances_are_there_for_every_objective(tmp_path: Path) -> None:
    found = read(past(tmp_path, *BOTH, (0.55, 0.3), (0.65, 0.2), (0.3, 0.8))).figures["plot-importances"]["data"]
    assert [trace["name"] for trace in found] == ["accuracy", "ridge"]
    names = {"loss.lambda_e", "critic.optimizer", "critic.learning_rate@adam", "critic.learning_rate@sgd"}
    for trace in found:
        assert set(trace["y"]) == names
        assert min(trace["x"]) >= 0 and max(trace["x"]) > 0
    assert found[0]["x"] != found[1]["x"]


def test_importances_need_two_searched_trials(tmp_path: Path) -> None:
    found = past(tmp_path, *BOTH[:2])
    assert reason("importances", found) == "Importances need two complete trials with searched settings."


def test_parallel_coordinates_have_a_line_for_every_trial_and_whole_names(tmp_path: Path) -> None:
    figure = read(past(tmp_path, *BOTH, "pruned")).figures["plot-parallel"]
    lines = [trace for trace in figure["data"] if trace["mode"] == "lines" and "customdata" in trace]
    values = sorted((line["customdata"][0][1], line["customdata"][1][1]) for line in lines)
    assert values == sorted((f"{x:g}", f"{y:g}") for x, y in BOTH)
    heads = figure["layout"]["xaxis"]["ticktext"]
    assert heads[:2] == ["accuracy", "ridge"]
    assert sorted(heads[2:]) == heads[2:] and "critic.learning_rate@sgd" in heads
    assert all(len(heads) == len(line["x"]) for line in lines)


def test_optunas_blues_are_mapped_end_to_end() -> None:
    assert [_place(color) for color in (BLUES[0], BLUES[-1])] == [0, 1]
    assert 0 < _place(BLUES[3]) < _place(BLUES[5]) < 1
    assert blended(1) == f"rgb{hex_to_rgb(FRONT)}"


def test_the_timeline_shows_every_end(tmp_path: Path) -> None:
    made = read(past(tmp_path, *BOTH[:2], "pruned", "boom", "running", budget={"trials": 9}))
    found = traces(made.figures["plot-timeline"])
    numbers = {name: trace["y"] for name, trace in found.items()}
    assert numbers == {"complete": [0, 1], "pruned": [2], "failed": [3], "running": [4]}
    assert "boom" in found["failed"]["text"][0] and "stopped by the scheduler" in found["pruned"]["text"][0]
    assert len({str(trace["marker"]["color"]) for trace in found.values()}) == 4
