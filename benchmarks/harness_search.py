"""The part of benchmarks/harness.py that needs no trials: what a suggestion costs in studies of several sizes."""

import time
from collections.abc import Sequence
from typing import Any

from harness_parts import declared, summary, temporary
from harness_trials import outcome
from optuna.trial import TrialState, create_trial

from lsx.study.declared.spec import StudySpec
from lsx.study.search import optunastore
from lsx.study.search.ledger import Ledger
from lsx.study.search.proposer import Proposer


def suggest_part(sizes: Sequence[int], asked: int) -> dict[str, Any]:
    """Seconds of one suggestion, with its entry in the journal, in studies of several sizes."""
    found = []
    for size in sizes:
        with temporary() as folder:
            spec = declared(size + 2 * asked)
            opened = optunastore.open_study(spec, folder / "journal.log")
            proposer, writes = Proposer(declared(10, sampler={"type": "random"}), []), []
            for number in range(size):
                before = time.perf_counter()
                opened.add_trial(_past(spec, proposer, number))
                writes.append(time.perf_counter() - before)
            start = time.perf_counter()
            ledger = Ledger(spec, optunastore.open_study(spec, folder / "journal.log"))
            opening = time.perf_counter() - start
            wall, cpu = zip(*(_suggestion(ledger) for _ in range(asked + 2)), strict=True)
            found.append(
                {
                    "trials": size,
                    "seconds": summary(wall[2:]),
                    "cpu_seconds": summary(cpu[2:]),
                    "opening_seconds": opening,
                    "journal_bytes": (folder / "journal.log").stat().st_size,
                    "entering_a_trial_seconds": summary(writes),
                }
            )
    return {"sizes": found}


def _past(spec: StudySpec, proposer: Proposer, number: int) -> Any:
    proposal = proposer.propose(number)
    assert proposal is not None
    metrics = outcome(number)
    return create_trial(
        state=TrialState.COMPLETE,
        values=[metrics[one.metric] for one in spec.objectives],
        params=proposal.params,
        distributions=proposal.distributions,
        user_attrs={"role": "search", "config": spec.configure(proposal.values).flat(), "metrics": metrics},
    )


def _suggestion(ledger: Ledger) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    planned = ledger.next()
    spent = time.perf_counter() - wall, time.process_time() - cpu
    assert planned is not None
    metrics = outcome(planned.number)
    ledger.complete(planned.number, ledger.values(metrics), metrics)
    return spent
