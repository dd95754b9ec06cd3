"""Where trials' checkpoints lie: a folder, or a bucket that pyarrow reads; and what the files in them are called."""

import contextlib
import posixpath
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pyarrow import fs

from lsx.errors import StudyError
from lsx.study.environment.credentials import redacted

CHECKPOINT = "checkpoint.pt"
"""The running seed's training state."""
PICTURE = "explanations.png"
MAPS = "maps.npz"
"""Explanations of a few images after every stage, see :mod:`lsx.study.worker.maps`."""
DONE = "seeds.json"
"""The finished seeds with their curves, see :class:`lsx.study.worker.luggage.Seeded`."""
MARKER = ".lsx-storage"


def learner_file(index: int) -> str:
    """The finished learner of a trial's seed, the first being 0."""
    return f"learner-{index}.pt"


def joined(root: str, relative: str) -> str:
    """A path or URI below another; a URI keeps its query.

    Example:
        >>> joined("s3://bucket/a?region=x", "b")
        's3://bucket/a/b?region=x'
    """
    if "://" not in root:
        return posixpath.join(root, relative)
    parts = urlsplit(root)
    return urlunsplit(parts._replace(path=posixpath.join(parts.path or "/", relative)))


class Storage:
    """A study's share of the checkpoint storage.

    Args:
        root: a folder, or a URI such as ``s3://bucket/folder``; the study's own.

    Attributes:
        root: absolute.
        remote: whether it is a URI.

    Raises:
        StudyError: pyarrow does not know the URI's scheme, or refuses it.
    """

    def __init__(self, root: str | Path) -> None:
        self.remote = "://" in str(root)
        self.root = str(root).rstrip("/") if self.remote else str(Path(root).absolute())
        self._files, self._base = _opened(self.root)

    def uri(self, relative: str) -> str:
        """What names a file below the root to a worker on any node."""
        return joined(self.root, relative)

    def relative(self, path: str) -> str:
        """A path of the file system, as Tune has it, below the root."""
        return posixpath.relpath(path, self._base)

    def has(self, relative: str) -> bool:
        """Whether there is such a folder or file."""
        found = self._files.get_file_info(posixpath.join(self._base, relative))
        return bool(found.type != fs.FileType.NotFound)

    def fetch(self, relative: str, names: Iterable[str], folder: Path) -> list[Path]:
        """Copy files of a stored folder, each whole or not at all; those that are not there are left out."""
        fetched = []
        for name in names:
            source = posixpath.join(self._base, relative, name)
            if self._files.get_file_info(source).type != fs.FileType.File:
                continue
            part = folder / f"{name}.part"
            fs.copy_files(source, str(part), source_filesystem=self._files, destination_filesystem=fs.LocalFileSystem())
            fetched.append(part.replace(folder / name))
        return fetched

    def sweep(self, keep: Collection[str] = ()) -> None:
        """Delete what earlier runs of the driver left, but for runs with a checkpoint (relative) that is kept."""
        kept = {one.split("/", 1)[0] for one in keep}
        selector = fs.FileSelector(self._base, allow_not_found=True)
        with contextlib.suppress(OSError):
            for found in self._files.get_file_info(selector):
                if found.type == fs.FileType.Directory and found.base_name not in kept:
                    self._files.delete_dir(found.path)

    def check(self) -> None:
        """Try to write.

        Raises:
            StudyError: nothing can be written there.
        """
        probe = posixpath.join(self._base, MARKER)
        try:
            self._files.create_dir(self._base, recursive=True)
            with self._files.open_output_stream(probe) as stream:
                stream.write(b"lsx\n")
        except Exception as error:  # pyarrow and the clients below it raise many types
            reason = redacted(" ".join(str(error).split())[:300])
            raise StudyError(f"storage {redacted(self.root)!r} cannot be written: {reason}") from None


def download(uri: str, folder: Path) -> None:
    """Copy a stored folder.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    files, path = _opened(uri)
    fs.copy_files(path, str(folder), source_filesystem=files, destination_filesystem=fs.LocalFileSystem())


def _opened(uri: str) -> tuple[Any, str]:
    if "://" not in uri:
        return fs.LocalFileSystem(), uri
    try:
        files, path = fs.FileSystem.from_uri(uri)
    except Exception as error:  # ArrowInvalid for an unknown scheme, others for what its client refuses
        reason = redacted(" ".join(str(error).split())[:300])
        raise StudyError(
            f"storage {redacted(uri)!r} cannot be used: {reason}; valid: a folder, or a URI such as s3://bucket/folder "
            "or gs://bucket/folder"
        ) from None
    return files, path.rstrip("/")
