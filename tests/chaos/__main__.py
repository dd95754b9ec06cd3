"""Seeded faults at random moments, for as long as asked: ``python -m tests.chaos --seed 1 --rounds 100``.

Every round takes a study of its own through a fault to its end and checks what must hold (see
:mod:`tests.chaos.invariants`). The first violation ends it, with the study's folder kept, and exit status 1.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.chaos import invariants
from tests.chaos.faults import FAULTS, Round
from tests.chaos.study import VARIANTS, Study


def main() -> int:
    """Run rounds; returns 1 after a violation."""
    args = _arguments()
    root, references, began = Path(tempfile.mkdtemp(prefix="lsx-chaos-")), dict[str, list[Any]](), time.monotonic()
    for number in range(args.rounds):
        chance = random.Random(f"{args.seed}/{number}")
        name, variant = chance.choice(args.fault or sorted(FAULTS)), chance.choice(args.variant or sorted(VARIANTS))
        if variant not in references:
            references[variant] = _reference(root, variant)
        started = time.monotonic()
        study = Study(_folder(root, f"{number:04d}-{name}"), variant)
        told, violations = _round(study, name, chance, references[variant])
        spent, used = time.monotonic() - started, time.monotonic() - began
        eta = used / (number + 1) * (args.rounds - number - 1)
        _say(
            f"{number + 1}/{args.rounds} {name}, {variant}: {'; '.join(told)}: {'; '.join(violations) or 'all holds'} "
            f"({len(study.drivers)} drivers, {spent:.0f} s; about {eta / 60:.0f} min to go)"
        )
        if violations:
            _say(f"kept: {study.path}\n{study.last_words()}")
            return 1
        if not args.keep:
            shutil.rmtree(study.path)
    _say(f"{args.rounds} rounds without a violation in {(time.monotonic() - began) / 60:.1f} min")
    if not args.keep:
        shutil.rmtree(root)
    return 0


def _round(study: Study, name: str, chance: random.Random, reference: list[Any]) -> tuple[list[str], list[str]]:
    """What was injected, and what does not hold."""
    this = Round(study, chance)
    try:
        FAULTS[name](this)
        study.finish()
        violations = invariants.check(study, reference if this.comparable else None, this.failed)
    except AssertionError as error:
        violations = [str(error) or "an assertion failed"]
    finally:
        study.end()
    return this.told, violations


def _reference(root: Path, variant: str) -> list[Any]:
    study = Study(_folder(root, f"reference-{variant}"), variant)
    study.finish()
    assert not (violations := invariants.check(study)), violations
    return study.trials()


def _folder(root: Path, name: str) -> Path:
    path = root / name
    path.mkdir()
    return path


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", default="0", help="of what happens when")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--fault", action="append", choices=sorted(FAULTS), help="all by default; may be repeated")
    parser.add_argument("--variant", action="append", choices=sorted(VARIANTS), help="of the study; all by default")
    parser.add_argument("--keep", action="store_true", help="keep the folders of all rounds")
    return parser.parse_args()


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
