"""YAML from strangers: plain data, or one line."""

import time
from pathlib import Path

import pytest

from lsx.yamlfile import MOST_VALUES, YAMLFault, dump_plain, load_plain


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch hacked']",
        "a: !!python/name:os.system",
        "a: !!python/object/new:subprocess.Popen [[touch, hacked]]",
        "!!python/module:antigravity",
    ],
)
def test_nothing_is_executed(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(YAMLFault, match="^line 1: "):
        load_plain(text)
    assert list(tmp_path.iterdir()) == []


def test_aliases_that_would_fill_the_memory_are_refused() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 9)]
    began = time.monotonic()
    with pytest.raises(YAMLFault, match=f"more than {MOST_VALUES:,} values"):
        load_plain("\n".join(levels))
    assert time.monotonic() - began < 60  # and not the hours of a billion values


def test_aliases_that_people_use_are_kept() -> None:
    assert load_plain("a: &one {epochs: 3}\nb: *one") == {"a": {"epochs": 3}, "b": {"epochs": 3}}


def test_data_comes_back() -> None:
    data = {"a": [1, 2.5, "1e3", "2024-01-01", None, True], "b": {"c": "yes"}}
    assert load_plain(dump_plain(data)) == data
