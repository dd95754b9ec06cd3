"""Imports run one way, and only the study's rooms know Ray, Optuna and MLflow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lsx"
FILES = sorted(PACKAGE.rglob("*.py"))
HARNESS = {"ray", "optuna", "mlflow"}
# Which rooms each room may import from; config, errors and registry are everybody's.
BASE = {"config", "errors", "registry"}
ALLOWED = {
    "config": BASE | {"yamlfile"},
    "errors": set(),
    "registry": BASE,
    "yamlfile": {"errors"},
    "optim": BASE,
    "links": set(),
    "chain": {"links"},
    "models": BASE | {"chain"},
    "data": BASE,
    "explainers": BASE | {"chain", "models"},
    "critic": BASE | {"chain", "data", "explainers", "models", "optim"},
    "metrics": BASE | {"data", "explainers", "models", "optim"},
    "figures": BASE,
    "training": BASE | {"chain", "critic", "data", "explainers", "links", "metrics", "models", "optim"},
    "progress": BASE | {"training"},
    "gallery": BASE | {"data", "explainers", "figures", "models", "training"},
    "tensorboard": BASE | {"data", "figures", "gallery", "training", "yamlfile"},
}


def imports(path: Path) -> set[str]:
    """Dotted names of everything that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    names = imports(path)
    if room(path) != "study":
        assert not {name.split(".")[0] for name in names} & HARNESS
    allowed = ALLOWED.get(room(path))
    if allowed is not None:
        used = {name.split(".")[1] for name in names if name.startswith("lsx.")}
        assert used <= allowed | {room(path)}


def test_every_room_has_its_rule() -> None:
    # The doors, and the one room that may import from all.
    outer = {"__init__", "__main__", "cli", "study"}
    assert {room(path) for path in FILES} - outer == set(ALLOWED)


def test_importing_lsx_loads_no_harness() -> None:
    code = "import sys, lsx; print(sorted({m.split('.')[0] for m in sys.modules} & {'ray', 'optuna', 'mlflow'}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
