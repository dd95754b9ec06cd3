"""Results on studies made by hand: the front, the choice, and what is said about both."""

import io
import itertools
import math
import random

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from rich.cells import cell_len
from rich.console import Console

from lsx.config import Config
from lsx.study.declared.spec import StudySpec
from lsx.study.shown.results import answer, choose, closing, front, table, write_best

optuna.logging.set_verbosity(optuna.logging.ERROR)

SPEC = StudySpec.build(
    {
        "name": "decoys",
        "settings": {"data.dataset": "decoy_mnist"},
        "objectives": [
            {"metric": "accuracy", "direction": "maximize"},
            {"metric": "reference_relevance_mass", "direction": "minimize"},
        ],
        "reference_trials": {"baseline": {"stages": ["pretrain"]}},
    }
)


MASS = "reference_relevance_mass"


def make(*trials: dict, spec: StudySpec = SPEC) -> optuna.Study:
    """A study of trials given as role, values, state, settings and other user attributes."""
    study = optuna.create_study(directions=[objective.direction for objective in spec.objectives])
    for given in trials:
        role = given.get("role", "search")
        base = spec.reference_trials.get(role, {})
        attrs = {"role": role, "config": spec.configure({**base, **given.get("settings", {})}).flat()}
        attrs |= {
            key: value for key, value in given.items() if key in ("test", "last", "metrics", "seeds", "test_seeds")
        }
        state = given.get("state", TrialState.COMPLETE)
        study.add_trial(create_trial(state=state, values=given.get("values"), user_attrs=attrs))
    return study


def numbers(trials) -> list[int]:
    return [trial.number for trial in trials]


STUDY = (
    {"role": "baseline", "values": [0.90, 0.050]},
    {"values": [0.95, 0.040], "settings": {"loss.lambda_e": 12.5}, "last": {"critic_loss_last_to_chance": 0.71}},
    {"values": [0.96, 0.060]},
    {"values": [0.80, 0.010]},
    {"values": [0.94, 0.045]},
    {"state": TrialState.FAIL},
    {"state": TrialState.PRUNED},
    {"values": [math.inf, 0.0]},
)


@pytest.mark.parametrize("seed", range(8))
def test_the_front_is_what_brute_force_finds(seed):
    draw = random.Random(seed)
    # A coarse grid, so that ties and equal points occur.
    points = [(draw.randrange(6), draw.randrange(6)) for _ in range(25)]
    expected = [
        i for i, (a, b) in enumerate(points) if not any(c >= a and d <= b and (c > a or d < b) for c, d in points)
    ]
    found = front(make(*({"values": list(map(float, point))} for point in points)), SPEC)
    assert sorted(numbers(found)) == expected
    assert [trial.values[0] for trial in found] == sorted((trial.values[0] for trial in found), reverse=True)


def test_only_complete_trials_with_finite_values_are_on_the_front():
    assert numbers(front(make(*STUDY), SPEC)) == [2, 1, 3]


def test_the_front_agrees_with_optuna_where_all_values_are_finite():
    study = make(*STUDY[:-1])
    assert sorted(numbers(front(study, SPEC))) == sorted(numbers(study.best_trials))


def test_the_chosen_trial_is_the_knee():
    # Scaled to the front's ranges: trial 1 is (1/16, 3/5) away from the ideal point, 2 is (0, 1), 3 is (1, 0).
    assert choose(make(*STUDY[1:]), SPEC).values == [0.95, 0.040]


def test_a_trial_that_beats_the_baseline_is_chosen_before_a_knee_that_does_not():
    base, knee, safe = ({"values": values} for values in ([0.90, 0.060], [0.88, 0.020], [0.905, 0.055]))
    extreme = {"values": [0.50, 0.010]}
    assert choose(make(base, knee, safe, extreme), SPEC).values == [0.88, 0.020]
    assert choose(make(base | {"role": "baseline"}, knee, safe, extreme), SPEC).values == [0.905, 0.055]
    unbeaten = {"role": "baseline", "values": [0.91, 0.050]}
    assert choose(make(unbeaten, knee, safe, extreme), SPEC).values == [0.88, 0.020]


@pytest.mark.parametrize("order", itertools.permutations([[0.9, 0.5], [0.6, 0.2]]))
def test_ties_go_to_accuracy(order):
    chosen = choose(make(*({"values": values} for values in order)), SPEC)
    assert chosen.values == [0.9, 0.5]


def test_equal_trials_go_to_the_earlier():
    assert choose(make({"values": [0.9, 0.5]}, {"values": [0.9, 0.5]}), SPEC).number == 0


def test_one_and_three_objectives():
    objectives = [
        {"metric": "accuracy", "direction": "maximize"},
        {"metric": "ridge", "direction": "maximize"},
        {"metric": "iies", "direction": "minimize"},
    ]
    one, three = (StudySpec.build({"objectives": objectives[:count]}) for count in (1, 3))
    single = make({"values": [0.5]}, {"values": [0.7]}, {"values": [0.6]}, spec=one)
    assert numbers(front(single, one)) == [1] and choose(single, one).number == 1
    values = ([0.9, 0.1, 1.0], [0.1, 0.9, 1.0], [0.8, 0.8, 0.1], [0.7, 0.7, 0.2])
    triple = make(*({"values": each} for each in values), spec=three)
    assert numbers(front(triple, three)) == [0, 2, 1] and choose(triple, three).number == 2


def test_the_best_configuration_is_written_and_loads(tmp_path):
    path = write_best(make(*STUDY), SPEC, tmp_path)
    assert path == tmp_path / "best.yaml"
    assert Config.load(path) == SPEC.configure({"loss.lambda_e": 12.5})
    assert path.read_text().startswith("# Trial 1 of study decoys: accuracy 0.9500, reference_relevance_mass 0.0400.\n")
    assert list(tmp_path.iterdir()) == [path]


def test_without_a_complete_trial_nothing_is_chosen_or_written(tmp_path):
    study = make({"state": TrialState.FAIL})
    assert front(study, SPEC) == [] and choose(study, SPEC) is None
    assert write_best(study, SPEC, tmp_path) is None and not list(tmp_path.iterdir())
    assert "No trial completed" in answer(study, SPEC)
    assert "No trial completed" in shown(closing(study, SPEC, tmp_path, "uri", "mlflow ui"))


def shown(renderable, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(renderable)
    return console.file.getvalue()


def rows(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip().startswith("#")]


def test_the_table_has_the_baseline_first_and_then_the_front():
    text = shown(table(make(*STUDY), SPEC), 160)
    assert [line.split()[0] for line in rows(text)] == ["#0", "#2", "#1", "#3"]
    assert rows(text)[0].split()[1:] == ["0.9000", "0.0500", *["–"] * 5]  # no joint training, no critic, no explainer
    assert rows(text)[2].split()[1:] == [
        *("←", "0.9500", "0.0400", "1", "12", "100", "input", "x", "gradient,", "batch", "confounded,", "0.710")
    ]
    assert "accuracy ↑" in text and "mass ↓" in text


def test_a_baseline_on_the_front_is_shown_once():
    text = shown(table(make({"role": "baseline", "values": [0.99, 0.01]}, {"values": [0.9, 0.02]}), SPEC))
    assert len(rows(text)) == 1


def test_the_closing_fits_80_columns_and_names_the_next_steps(tmp_path):
    settings = {"explainer.method": "input_x_integrated_gradient", "explainer.normalization": "sample"}
    settings |= {"loss.lambda_e": 123.456, "loss.lambda_ft": 0.0123}
    test = {"accuracy": 0.93, "reference_relevance_mass": 0.041, "ridge": 0.5}
    study = make(
        *STUDY,
        {
            "values": [0.951, 0.0399],
            "settings": settings,
            "test": test,
            "last": {"joint/critic_loss_last_to_chance": 0.625},
        },
    )
    text = shown(closing(study, SPEC, "lsx-studies/decoys", "sqlite:///mlflow.db", "mlflow ui --port 5000"))
    assert max(cell_len(line) for line in text.splitlines()) <= 80
    assert "…" not in text  # nothing is cut off
    assert "integrated" in text and "confounded," in text and "0.625" in text
    assert "0.9300" in text and "0.0410" in text and "second line" in text
    text = " ".join(text.split())
    for part in (
        "lsx-studies/decoys/best.yaml",
        "python tune.py rerun --study decoys 8",
        "sqlite:///mlflow.db",
        "mlflow ui --port 5000",
        "python tune.py --study decoys --trials 40",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("command", "again"),
    [
        ("python tune.py --study decoys --set seed=3", "python tune.py rerun --study decoys 1"),
        (
            "python tune.py --max-concurrent 2 --profile=paper --study 'my study.yaml' --folder 'all studies'",
            "python tune.py rerun --profile=paper --study 'my study.yaml' --folder 'all studies' 1",
        ),
        ("python -m somewhere.else --study s", "python -m somewhere.else rerun --study s 1"),
    ],
)
def test_the_line_that_trains_again_names_the_study_as_the_command_did(command, again):
    text = shown(closing(make(*STUDY), SPEC, "folder", "uri", "mlflow ui", command), 200)
    (line,) = [line for line in text.splitlines() if line.startswith("run it again")]
    assert line.removeprefix("run it again").strip() == again


def test_the_answer_counts_what_beats_the_baseline():
    assert answer(make(*STUDY), SPEC) == (
        "The baseline reaches accuracy 0.9000, reference_relevance_mass 0.0500; 2 of the 4 other complete trials are "
        "at least as good in every objective and better in one. The chosen trial 1 reaches accuracy 0.9500, "
        "reference_relevance_mass 0.0400 (one seed each, so small differences may be chance)."
    )


def test_the_answer_tells_costs_and_failures():
    traded = answer(
        make({"role": "baseline", "values": [0.9, 0.05]}, {"values": [0.85, 0.01]}, {"values": [0.7, 0]}), SPEC
    )
    assert "no other complete trial is at least as good" in traded
    assert "chosen trial 1" in traded and "at the cost of accuracy" in traded
    kept = answer(make({"role": "baseline", "values": [0.9, 0.01]}, {"values": [0.85, 0.02]}), SPEC)
    assert "is the baseline itself: this study found no better compromise" in kept
    assert answer(make({"values": [0.85, 0.02]}), SPEC).startswith("No baseline completed")


def test_the_answer_quotes_test_figures_where_they_were_measured():
    test = {"accuracy": 0.88, "reference_relevance_mass": 0.055}
    text = answer(make({"role": "baseline", "values": [0.9, 0.05], "test": test}, {"values": [0.95, 0.04]}), SPEC)
    assert "accuracy 0.9000 (test 0.8800), reference_relevance_mass 0.0500 (test 0.0550)" in text


def test_paths_below_the_working_folder_are_shown_short(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    console = Console(file=io.StringIO(), width=200)
    console.print(closing(make(*STUDY), SPEC, tmp_path / "lsx-studies" / "decoys", "sqlite:///x.db", "mlflow ui"))
    assert " lsx-studies/decoys/best.yaml" in console.file.getvalue()
    assert str(tmp_path) not in console.file.getvalue()


REPEATED = StudySpec.build({**SPEC.plain(), "repeats": 3})
SEEDS = (
    {"role": "baseline", "values": [0.9, 0.05], "seeds": {"accuracy": [0.89, 0.9, 0.91], MASS: [0.04, 0.05, 0.06]}},
    {"values": [0.95, 0.04], "seeds": {"accuracy": [0.93, 0.95, 0.97], MASS: [0.03, 0.04, 0.05]}},
)


def test_several_seeds_have_intervals_and_paired_differences(tmp_path):
    test = {"test": {"accuracy": 0.94}, "test_seeds": {"accuracy": [0.93, 0.94, 0.95]}}
    study = make(SEEDS[0], {**SEEDS[1], **test}, spec=REPEATED)
    # t of two degrees of freedom is 4.3027: 4.3027 · 0.02 / √3, and 4.3027 · 0.01 / √3.
    assert rows(shown(table(study, REPEATED), 160))[1].split()[2:4] == ["0.9500", "±0.0497"]
    assert "0.9400 ±0.0248" in shown(table(study, REPEATED), 160)
    assert "95 % interval over 3 seeds" in shown(closing(study, REPEATED, tmp_path, "uri", "mlflow ui"), 160)
    # Seed by seed: 0.04, 0.05, 0.06 more accurate, and 0.01 less mass every time.
    text = answer(study, REPEATED)
    assert f"over 3 seeds: accuracy +0.0500 ± 0.0248, {MASS} -0.0100 ± 0.0000." in text
    assert "one seed each" not in text


def test_only_what_satisfies_the_constraints_is_on_the_front_or_chosen(tmp_path):
    bounds = [{"metric": "accuracy", "low": 0.9}, {"metric": "degenerate_maps", "high": 0.1}]
    spec = StudySpec.build({**SPEC.plain(), "constraints": bounds})

    def trial(accuracy, mass, maps):
        return {"values": [accuracy, mass], "metrics": {"accuracy": accuracy, "degenerate_maps": maps}}

    study = make(trial(0.95, 0.04, 0.0), trial(0.96, 0.01, 0.5), trial(0.8, 0.001, 0.0), trial(0.9, 0.03, 0.1))
    assert numbers(front(study, spec)) == [0, 3]
    assert choose(study, spec).number in (0, 3)
    text = " ".join(shown(closing(study, spec, tmp_path, "uri", "mlflow ui"), 200).split())
    assert "2 complete trials outside of accuracy ≥ 0.9 and degenerate_maps ≤ 0.1" in text
    none = make(trial(0.8, 0.001, 0.0))
    assert choose(none, spec) is None and write_best(none, spec, tmp_path) is None
    assert answer(none, spec).startswith("None of 1 complete trial is within accuracy ≥ 0.9 and degenerate_maps ≤ 0.1")


def test_a_baseline_outside_of_the_constraints_is_still_compared_with():
    spec = StudySpec.build({**SPEC.plain(), "constraints": [{"metric": "accuracy", "low": 0.92}]})
    outside = {"role": "baseline", "values": [0.9, 0.05], "metrics": {"accuracy": 0.9}}
    study = make(outside, {"values": [0.95, 0.04], "metrics": {"accuracy": 0.95}}, spec=spec)
    assert "The baseline reaches accuracy 0.9000" in answer(study, spec)
    assert [line.split()[0] for line in rows(shown(table(study, spec), 160))] == ["#0", "#1"]
