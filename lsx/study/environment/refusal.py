"""What would keep a new study from starting, found before anything of it is made."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from lsx.errors import StudyError, unknown
from lsx.study.declared.spec import StudySpec
from lsx.study.environment import reachable
from lsx.study.environment.credentials import redacted
from lsx.study.environment.whereabouts import Whereabouts

STORES = ("databricks", "http", "https", "mssql", "mysql", "postgresql", "sqlite")
SQLITE = (b"", b"SQLite format 3\0")


def refuse(spec: StudySpec, where: Whereabouts, address: str | None) -> None:
    """Refuse what cannot work, as far as it can be told without writing and without starting Ray.

    Args:
        spec: the study.
        where: its parts are to be.
        address: of a Ray cluster; RAY_ADDRESS, or a Ray of its own by default.

    Raises:
        StudyError: one line.
    """
    _refuse_database(where.optuna_storage)
    if where.storage is not None and "://" not in where.storage:
        _refuse_folder(Path(where.storage))
    _refuse_machines(spec, address or os.environ.get("RAY_ADDRESS") or "local")
    _refuse_tracking(where.tracking_uri)  # last, since a server is asked


def _refuse_tracking(uri: str) -> None:
    shown, scheme = redacted(uri), urlsplit(uri).scheme.partition("+")[0]
    if scheme in ("", "file"):
        raise StudyError(f"MLflow at {shown!r} cannot be used: it keeps no runs in folders; name sqlite:///mlflow.db")
    if scheme not in STORES:
        raise StudyError(f"MLflow at {shown!r} cannot be used: {unknown('kind of store', scheme, STORES)}")
    if scheme == "sqlite":
        _refuse_file(uri)
    elif scheme in ("http", "https"):
        reachable.tracking(uri)


def _refuse_database(url: str | None) -> None:
    if url is None:
        return
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    begin = f"study storage {redacted(url)!r} cannot be used"
    try:
        make_url(url).get_dialect().import_dbapi()
    except NoSuchModuleError:
        raise StudyError(f"{begin}: {unknown('kind of database', urlsplit(url).scheme, STORES[3:])}") from None
    except (ArgumentError, ValueError):
        raise StudyError(
            f"{begin}: it is no URL of a database, such as postgresql://host/name or sqlite:///studies.db"
        ) from None
    except ModuleNotFoundError as error:
        raise StudyError(f"{begin}: its driver is not installed; python -m pip install {error.name}") from None
    if url.startswith("sqlite"):
        _refuse_file(url)


def _refuse_file(uri: str) -> None:
    path = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    if path.is_file():
        with path.open("rb") as file:
            if file.read(16) not in SQLITE:
                raise StudyError(f"{str(path)!r} is no SQLite database; name a file that is one, or that is not there")
    _refuse_folder(path.parent)


def _refuse_folder(folder: Path) -> None:
    nearest = reachable.standing(folder)
    if not nearest.is_dir():
        raise StudyError(f"folder {str(folder)!r} cannot be made: {str(nearest)!r} is no folder")


def _refuse_machines(spec: StudySpec, address: str) -> None:
    if address != "local":
        from lsx.study.running.cluster import reach

        reach(address)
        return
    from lsx.study.running import packing

    here, resources = packing.machines(), spec.resources
    gpus = 0.0 if resources.gpus_per_trial == "auto" else resources.gpus_per_trial
    for name, wanted in (("CPU", resources.cpus_per_trial), ("GPU", gpus)):
        if wanted > here.total(name):
            key = f"resources.{name.lower()}s_per_trial"
            raise StudyError(f"a trial needs {wanted:g} {name}s ({key}), this machine has {here.total(name):g}")
