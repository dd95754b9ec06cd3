"""An append-only file of entries that wait for delivery, which a writer killed at any moment leaves readable.

One JSON object a line: a header with the state of the last rewriting (``spool``), entries with a running number
(``n``), run ids as they become known (``id``), and what has been delivered (``ack``: numbers). They share one file, so
that there is no moment at which two files contradict each other.
"""

import contextlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

COMPACT_BYTES = 4_000_000
Entry = dict[str, Any]


class Waiting(NamedTuple):
    """An entry as it lies in the file; a backlog of days is kept in memory, and bytes are small."""

    number: int
    run: int | None
    line: bytes

    @property
    def entry(self) -> Entry:
        """Its content."""
        entry: Entry = json.loads(self.line)
        return entry


@dataclass
class State:
    """What must be known about entries that are gone from the file.

    Attributes:
        following: number of the next entry.
        positions: largest position that was ever appended, by trial.
        runs: MLflow run ids, by trial.
        openings: name, params and tags with which a trial's run is opened; params only until it has ended.
        endings: how and when (ms) trials ended.
    """

    following: int = 1
    positions: dict[int, int] = field(default_factory=dict)
    runs: dict[int, str] = field(default_factory=dict)
    openings: dict[int, Entry] = field(default_factory=dict)
    endings: dict[int, list[Any]] = field(default_factory=dict)

    def header(self) -> Entry:
        """As the first line of a file."""
        return {"spool": 1, **vars(self)}

    @classmethod
    def of(cls, header: Mapping[str, Any]) -> "State":
        """From the first line of a file."""
        tables = ("positions", "runs", "openings", "endings")
        return cls(header["following"], *({int(key): one for key, one in header[name].items()} for name in tables))

    def note(self, entry: Entry) -> None:
        """What an appended entry changes."""
        self.following = max(self.following, entry["n"] + 1)
        if (run := entry["run"]) is None:
            return
        if entry["do"] == "open":
            self.openings[run] = {key: entry[key] for key in ("name", "params", "tags", "at")}
            self.endings.pop(run, None)
        elif entry["do"] == "log" and entry["position"] is not None:
            self.positions[run] = max(self.positions.get(run, 0), entry["position"])
        elif entry["do"] == "end":
            self.endings[run] = [entry["ending"], entry["at"]]


class Spool:
    """The file and what it says. It has no lock: its owner serialises the calls.

    Args:
        path: of the file; made when it is not there.

    Attributes:
        state: see :class:`State`.
        waiting: entries that are not delivered yet, by their number, in its order.
        damaged: lines in the middle that could not be read; a torn last line was never acknowledged, and is cut.

    Raises:
        OSError: the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = State()
        self.waiting: OrderedDict[int, Waiting] = OrderedDict()
        self.damaged: list[bytes] = []
        self._delivered = self._backlog = 0
        self._torn = False
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._load()

    def append(self, entry: Entry) -> None:
        """Add an entry; it is on disk afterwards, or nothing of it.

        Raises:
            OSError: it cannot be written.
        """
        entry = {"n": self.state.following, **entry}
        line = _line(entry)
        self._write(line)
        self._take(entry, line)

    def acknowledge(self, numbers: Sequence[int]) -> None:
        """These entries are delivered. Not synced: what is forgotten is delivered again.

        Raises:
            OSError: it cannot be written; they do not wait any longer all the same.
        """
        self._drop(numbers)
        self._write(_line({"ack": list(numbers)}), sync=False)

    def note_run(self, number: int, run_id: str) -> None:
        """The MLflow run of a trial is known.

        Raises:
            OSError: it cannot be written; it is remembered all the same.
        """
        self.state.runs[number] = run_id
        self._write(_line({"run": number, "id": run_id}), sync=False)

    @property
    def bloated(self) -> bool:
        """Whether rewriting is worth it: it costs what waits, so that it must gain as much."""
        return self._delivered > max(COMPACT_BYTES, self._backlog)

    def compact(self) -> None:
        """Rewrite the file, whole or not at all: the state, and what waits.

        Raises:
            OSError: it cannot be written; the old file stays.
        """
        self._delivered = 0  # also after a failure: not tried again at every delivery
        self._forget_params()
        part = self.path.with_name(f"{self.path.name}.part")
        part.unlink(missing_ok=True)
        fresh = os.open(part, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            _write_all(fresh, _line(self.state.header()) + b"".join(one.line for one in self.waiting.values()))
            os.fsync(fresh)
            part.replace(self.path)
        except OSError:
            os.close(fresh)
            part.unlink(missing_ok=True)
            raise
        os.close(self._file)
        self._file, self._torn = fresh, False
        sync_folder(self.path.parent)

    def close(self) -> None:
        """No more writing."""
        os.close(self._file)

    def _load(self) -> None:
        content = self.path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            os.ftruncate(self._file, end)
        for line in content[:end].splitlines(keepends=True):
            try:
                self._replay(json.loads(line), line)
            except (ValueError, TypeError, KeyError, AttributeError):
                if line.strip():
                    self.damaged.append(line)

    def _replay(self, value: Any, line: bytes) -> None:
        if "spool" in value:
            self.state = State.of(value)
        elif "ack" in value:
            self._drop(value["ack"])
        elif "id" in value:
            self.state.runs[value["run"]] = value["id"]
        else:
            self._take(value, line)

    def _take(self, entry: Entry, line: bytes) -> None:
        self.state.note(entry)
        self.waiting[entry["n"]] = Waiting(entry["n"], entry["run"], line)
        self._backlog += len(line)

    def _drop(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            if (one := self.waiting.pop(number, None)) is not None:  # else its line was damaged
                self._backlog -= len(one.line)
                self._delivered += len(one.line)

    def _forget_params(self) -> None:
        """Thousands of ended trials must not make the header huge."""
        wanted = {one.run for one in self.waiting.values()}
        for number in self.state.endings.keys() - wanted:
            if number in self.state.openings:
                self.state.openings[number]["params"] = {}

    def _write(self, line: bytes, sync: bool = True) -> None:
        size = os.fstat(self._file).st_size
        try:
            _write_all(self._file, b"\n" + line if self._torn else line)
            if sync:
                os.fsync(self._file)
        except OSError:
            self._torn = True
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, size)
                self._torn = False
            raise
        self._torn = False


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last, where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _line(value: Entry) -> bytes:
    return json.dumps(value).encode() + b"\n"  # NaN and Infinity are written as such, and read again


def _write_all(file: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(file, left) :]
