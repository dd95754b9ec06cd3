"""What the README shows works as it stands there."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n", 1)[0])
def test_python_in_the_readme_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(block, names)
    if "learner" in names:
        scores = names["scores"]
        assert isinstance(scores, dict)
        assert scores["accuracy"] > 0.5
        assert 0 <= scores["relevance_mass"] <= 1


def test_nothing_is_left_to_be_filled_in() -> None:
    assert "@@" not in README


def test_the_readme_shows_ten_lines_of_python() -> None:
    first = [line for line in BLOCKS[0].splitlines() if line.strip()]
    assert len(first) == 10
    assert first[0] == "import lsx"


def test_pictures_and_files_that_the_readme_names_exist() -> None:
    root = Path(__file__).parents[1]
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (root / link).exists()] == []
