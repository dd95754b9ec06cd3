"""Everything that keeps Ray, Optuna, alembic and MLflow from writing over the display, in one place."""

import logging
import os
import secrets
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What a person has set stays.
ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of a config mean the same in a worker as in the driver
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the runner stops a study itself
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # the last report of a trial has no guard metric
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # with credentials, if the URI has some
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the outbox tries again; MLflow repeats what makes a second run
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "GIT_PYTHON_REFRESH": "quiet",
}

LOGGERS = (
    "ray",
    "ray.tune",
    "ray.train",
    "ray.data",
    "mlflow",
    "alembic",
    "optuna",
    "sqlalchemy",
    "matplotlib",
    "urllib3",
)


def prepare() -> None:
    """Set environment and loggers; before Ray or MLflow is imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _let_workers_import()
    hush()


def hush() -> None:
    """Silence loggers and deprecation warnings; again after an import that configures logging itself."""
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for category in (DeprecationWarning, FutureWarning, UserWarning):
        warnings.filterwarnings("ignore", category=category, module=r"(ray|mlflow|optuna|alembic|sqlalchemy)(\.|$)")
    _hush_optuna()


def _hush_optuna() -> None:
    if "optuna" not in sys.modules:
        return
    import optuna

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


@contextmanager
def cluster_access(*, local: bool) -> Iterator[None]:
    """The environment in which Ray is started or joined; as it was before, afterwards.

    A Ray of our own listens on the loopback interface only, with a token of its own. Left to itself, Ray listens on all
    interfaces and writes a token to the home directory, which switches authentication on for later clusters of the same
    person; switched off, anyone who reaches its ports can run code. A cluster has its own rules: those of the person.
    """
    ours = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"} if local else {}
    if local and "RAY_AUTH_MODE" not in os.environ:
        ours |= {"RAY_AUTH_MODE": "token"}
        ours |= {} if "RAY_AUTH_TOKEN" in os.environ else {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _let_workers_import() -> None:
    """Workers inherit the environment, not ``sys.path``: name the folder of this package, and the script's."""
    here = str(Path(__file__).parents[3])
    known = [here, *(path for path in sys.path[:1] if path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path for path in known if path))
