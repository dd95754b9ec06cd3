"""One thread: the networks are small, and results must not depend on the machine's cores."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

LONG = ("chaos", "cluster")
"""Folders whose tests run whole studies under faults, minutes each; those in SHORT run with all others."""
SHORT = (
    "test_a_server_that_is_dead_from_the_start_is_told_in_one_line",
    "test_a_checkpoint_that_finds_no_room",
    "test_a_tracking_file_that_takes_no_writes",
    "test_driver_killed_again_and_again",
    "test_trials_that_go_wrong",
    "test_damaged_journal",
    "test_a_server_that_is_killed_and_comes_back",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(item.path).parent.name in LONG and not item.name.startswith(SHORT):
            item.add_marker(pytest.mark.long)
