"""What a trial takes along: kept, packed and read again, whatever it finds."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lsx.study.environment import quiet

quiet.prepare()

from lsx.study.environment.places import CHECKPOINT  # noqa: E402
from lsx.study.worker import luggage  # noqa: E402
from lsx.study.worker.luggage import DONE, Luggage, Seeded  # noqa: E402
from lsx.training import checkpoint  # noqa: E402


def state(step: int = 0) -> dict[str, Any]:
    """As a trainer gives it."""
    return {
        "format": checkpoint.FORMAT,
        "config": {},
        "data": {"sha256": "x"},
        "stage": "joint",
        "epoch": 1,
        "step": step,
        "totals": {"loss": torch.tensor(0.5)},
        "position": 1,
        "learner": {"weight": torch.ones(1000)},
        "teacher": {"weight": torch.zeros(1000)},
        "optimizer": {"state": {0: torch.ones(1000)}},
        "random": {"batches": torch.zeros(8, dtype=torch.uint8)},
    }


def row(position: int, loss: float) -> dict[str, Any]:
    return {"stage": "joint", "position": position, "metrics": {"loss": loss}}


def test_a_running_seed_and_finished_ones_come_back(tmp_path: Path) -> None:
    one = Luggage(tmp_path)
    assert (one.done, one.state, one.curves) == ([], None, [])
    one.keep(state(), [row(1, 0.5)])
    one.finish(Seeded(3, {"accuracy": 0.5, "iies": math.nan}, {"iies": "one class"}, [row(1, 0.5)]), state())
    one.keep(state(step=7), [row(1, 0.25)])
    again = Luggage(tmp_path)
    assert repr(again.done) == repr(one.done)  # NaN comes back as NaN
    assert again.state is not None and again.state["step"] == 7
    assert torch.equal(again.state["optimizer"]["state"][0], torch.ones(1000))
    assert again.curves == [row(1, 0.25)]


def test_a_finished_seed_leaves_its_learner_only(tmp_path: Path) -> None:
    one = Luggage(tmp_path)
    one.keep(state(), [])
    one.finish(Seeded(3, {}, {}, []), state())
    assert {file.name for file in tmp_path.iterdir()} == {"learner-0.pt", DONE}
    kept = checkpoint.load(tmp_path / "learner-0.pt")
    assert torch.equal(kept["learner"]["weight"], torch.ones(1000))
    assert (kept["teacher"], kept["optimizer"]) == (None, {})
    one.finish(Seeded(4, {}, {}, []), state())
    assert [file.name for file in sorted(tmp_path.glob("*.pt"))] == ["learner-0.pt", "learner-1.pt"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"done": [{"seed": 1}], "curves": []}', '{"done": 3, "curves": []}']
)
def test_what_cannot_be_read_costs_time_only(tmp_path: Path, content: str) -> None:
    (tmp_path / DONE).write_text(content)
    (tmp_path / CHECKPOINT).write_text("half")
    one = Luggage(tmp_path)
    assert (one.done, one.state, one.curves) == ([], None, [])


def test_curves_without_their_state_are_forgotten(tmp_path: Path) -> None:
    Luggage(tmp_path).keep(state(), [row(1, 0.5)])
    (tmp_path / CHECKPOINT).unlink()
    assert Luggage(tmp_path).curves == []


def newest(monkeypatch: pytest.MonkeyPatch, found: Any) -> None:
    monkeypatch.setattr(luggage, "tune", SimpleNamespace(get_checkpoint=lambda: found))


def test_unpacked_is_a_copy_that_is_gone_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest(monkeypatch, None)
    Luggage(tmp_path).keep(state(step=5), [])
    with Luggage.unpacked(str(tmp_path)) as one:
        assert one.folder != tmp_path and one.state is not None and one.state["step"] == 5
        one.keep(state(step=6), [])
    assert not one.folder.exists()
    again = Luggage(tmp_path).state
    assert again is not None and again["step"] == 5
    with Luggage.unpacked(None) as one:
        assert one.state is None


def test_tunes_own_checkpoint_is_newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, step in (("assigned", 1), ("tunes", 2)):
        (tmp_path / name).mkdir()
        Luggage(tmp_path / name).keep(state(step=step), [])

    def to_directory(made: str) -> None:
        for file in (tmp_path / "tunes").iterdir():
            (Path(made) / file.name).write_bytes(file.read_bytes())

    newest(monkeypatch, SimpleNamespace(to_directory=to_directory))
    with Luggage.unpacked(str(tmp_path / "assigned")) as one:
        assert one.state is not None and one.state["step"] == 2


def test_a_checkpoint_that_is_gone_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest(monkeypatch, None)
    with Luggage.unpacked(str(tmp_path / "gone")) as one:
        assert one.state is None and one.done == []


def test_a_summary_has_means_single_values_and_first_reasons() -> None:
    one = Luggage(Path("nowhere"))
    one.done = [
        Seeded(0, {"accuracy": 0.5, "iies": 1.0}, {}, [row(1, 1.0), row(2, 0.5)]),
        Seeded(1, {"accuracy": 0.75, "iies": math.nan}, {"iies": "one class"}, [row(1, 2.0)]),
        Seeded(2, {"accuracy": 1.0}, {"iies": "no class"}, [row(1, 3.0)]),
    ]
    found = one.summary()
    assert found["final"]["accuracy"] == 0.75 and math.isnan(found["final"]["iies"])
    assert repr(found["seeds"]) == repr({"accuracy": [0.5, 0.75, 1.0], "iies": [1.0, math.nan, math.nan]})
    assert found["reasons"] == {"iies": "one class"}
    assert found["curves"] == [row(1, 2.0)]
    json.dumps(found)


def test_seeds_that_train_together_come_back_until_all_are_done(tmp_path: Path) -> None:
    one = Luggage(tmp_path)
    one.keep_all([state(step=2), state(step=2)], [[row(1, 0.5)], [row(1, 0.25)]])
    again = Luggage(tmp_path)
    assert [kept["step"] for kept in again.states] == [2, 2]
    assert (again.all_curves, again.state, again.done) == ([[row(1, 0.5)], [row(1, 0.25)]], None, [])
    again.finish(Seeded(3, {}, {}, []), state())
    half = Luggage(tmp_path)
    assert (len(half.done), len(half.states)) == (1, 2)
    half.finish(Seeded(4, {}, {}, []), state())
    assert {file.name for file in tmp_path.iterdir()} == {"learner-0.pt", "learner-1.pt", DONE}
    assert Luggage(tmp_path).states == []


def test_seeds_that_train_together_and_are_not_all_there_begin_anew(tmp_path: Path) -> None:
    Luggage(tmp_path).keep_all([state(), state()], [[], []])
    (tmp_path / luggage.running_file(1)).write_text("half")
    again = Luggage(tmp_path)
    assert (again.states, again.all_curves) == ([], [])
