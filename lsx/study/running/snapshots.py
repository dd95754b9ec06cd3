"""Tune's snapshots of an experiment, which nothing of ours reads, kept from being made."""

from typing import Any

from ray.tune.execution import experiment_state, tune_controller


def leave_out() -> None:
    """Let Tune (Ray 2.60) write one snapshot, at the end of a run, without the trials: its results want a file there.

    With ``num_to_keep`` it else writes one after every checkpoint, with all trials that there ever were, waits until
    the one before is in the storage, and copies a folder for each trial there: the driver's time would grow with the
    square of the number of trials. Every driver starts a Tune of its own from Optuna's storage instead.
    """
    manager: Any = experiment_state._ExperimentCheckpointManager
    original = manager.sync_up_experiment_state
    if getattr(original, "at_the_end", False):
        return

    def at_the_end(self: Any, save_fn: Any, force: bool = False, wait: bool = False) -> None:
        if force:
            original(self, save_fn, force=force, wait=wait)

    at_the_end.at_the_end = True  # type: ignore[attr-defined]
    manager.sync_up_experiment_state = at_the_end
    manager.on_trial_checkpoint = lambda self, trial: None
    controller: Any = tune_controller.TuneController
    controller._get_trial_checkpoints = lambda self: {}
    controller._mark_trial_to_checkpoint = lambda self, trial: None
