"""Tune's snapshots of an experiment: one, at the end, without the trials."""

from types import SimpleNamespace
from typing import Any

from lsx.study.environment import quiet

quiet.prepare()

from ray.tune.execution.experiment_state import _ExperimentCheckpointManager  # noqa: E402
from ray.tune.execution.tune_controller import TuneController  # noqa: E402

from lsx.study.running import snapshots  # noqa: E402


def manager() -> Any:
    """Tune's, as a run with ``num_to_keep=1`` makes it, over a storage that takes everything."""
    snapshots.leave_out()
    snapshots.leave_out()  # a second study of the same process
    syncer = SimpleNamespace(sync_up=lambda *_: True, wait=lambda: None)
    storage: Any = SimpleNamespace(
        syncer=syncer, experiment_driver_staging_path="/staging", experiment_fs_path="/storage"
    )
    return _ExperimentCheckpointManager(storage=storage, checkpoint_period=0, sync_every_n_trial_checkpoints=1)


def test_a_checkpoint_of_a_trial_makes_none() -> None:
    one, saved = manager(), []
    one.on_trial_checkpoint("a trial")
    one.sync_up_experiment_state(save_fn=lambda: saved.append(1))
    assert saved == []


def test_the_end_of_a_run_makes_one() -> None:
    one, saved = manager(), []
    one.sync_up_experiment_state(save_fn=lambda: saved.append(1), force=True, wait=True)
    assert saved == [1]


def test_it_has_no_trials() -> None:
    manager()
    controller: Any = SimpleNamespace(_trials_to_cache={"a trial"}, _trial_metadata={})
    assert TuneController._get_trial_checkpoints(controller) == {}
