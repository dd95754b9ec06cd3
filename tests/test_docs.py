"""The pages in docs/ say what is so: their code runs as it stands there, and their tables and links are not stale.

The word after a block's language says what becomes of it: nothing, it runs; ``no-run``, it does not (downloads,
servers, GPUs, signatures); a file's name, it is written to that file. Blocks of a page run in order, in one folder.
"""

import argparse
import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import yaml

import lsx
from lsx.cli import main
from lsx.study.declared.spec import load as load_study

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NOT_RUN = "no-run"


class Block(NamedTuple):
    """A piece of code on a page: where it starts, its language, the word after that, and the code."""

    line: int
    language: str
    word: str
    text: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(text.count("\n", 0, match.start()) + 2, match[1], match[2] or "", match[3])
        for match in BLOCK.finditer(text)
    ]


RUNNABLE = [
    page for page in PAGES if any(block.language in ("python", "sh") and not block.word for block in blocks(page))
]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in; what a page registers or imports is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for registry in (lsx.models.MODELS, lsx.explainers.EXPLAINERS, lsx.data.DATASETS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(lsx.metrics.METRICS, "_metrics", dict(lsx.metrics.METRICS._metrics))
    yield tmp_path
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.stem)
def test_what_a_page_shows_runs(page: Path, workplace: Path) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.word == NOT_RUN:
            continue
        if block.word:
            (workplace / block.word).write_text(block.text)
            if block.word == "study.yaml":
                load_study(block.word)
        elif block.language == "python":
            # Line numbers of tracebacks are the page's.
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)
        elif block.language == "sh":
            for command in commands(block):
                run(command, page, block)


def commands(block: Block) -> list[str]:
    joined = block.text.replace("\\\n", " ").splitlines()
    return [line for line in joined if line.strip() and not line.startswith("#")]


def run(command: str, page: Path, block: Block) -> None:
    words = shlex.split(command, comments=True)
    if words[:3] == ["python", "-m", "lsx"]:
        words = words[2:]
        sys.path.insert(0, str(Path.cwd()))  # as Python does, and an installed script does not
    assert words[0] == "lsx", f"{page.name}:{block.line}: {command!r} cannot be run here; mark the block no-run"
    assert main(words[1:]) == 0, f"{page.name}:{block.line}: {command}"


def test_generated_parts_are_not_stale() -> None:
    generate = imported("generate")
    stale = [page.name for page in PAGES if generate.page(page.read_text()) != page.read_text()]
    assert stale == [], "run: python docs/generate.py"


def test_parts_are_generated() -> None:
    generate = imported("generate")
    text = "<!-- generated: modes -->\nold\n<!-- end -->\n"
    assert "old" not in generate.page(text)
    assert "pretrain_and_joint" in generate.page(text)


def imported(name: str) -> ModuleType:
    """A script of docs/, which is no package."""
    spec = spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_pictures_are_there(page: Path) -> None:
    text = BLOCK.sub("", page.read_text())
    missing = []
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            missing.append(link)
    assert missing == []


def anchors(page: Path) -> set[str]:
    """What GitHub calls a page's headings."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text()
    assert [page.name for page in PAGES if page.name != "README.md" and f"({page.name})" not in index] == []


def test_the_data_errors_that_are_explained_exist() -> None:
    known = [text for path in (Path(lsx.__file__).parent / "data").glob("*.py") for text in texts(path)]
    rows = re.findall(r"^\| `(.+?)` \|", section(DOCS / "data.md", "What each error means"), re.MULTILINE)
    assert len(rows) > 10
    patterns = {row: ".*".join(map(re.escape, row.split("…"))) for row in rows}
    assert [row for row, pattern in patterns.items() if not any(re.search(pattern, text) for text in known)] == []


def section(page: Path, title: str) -> str:
    return page.read_text().split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def texts(path: Path) -> list[str]:
    """String literals of a module; values put into them are left out."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        constants = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        found.append("…".join(constants))
    return found


def tune_parser() -> argparse.ArgumentParser:
    from lsx.study import cli

    return cli._parser()


def test_every_flag_of_tune_is_explained() -> None:
    from lsx.study import commands

    flags = {option for action in tune_parser()._actions for option in action.option_strings} - {"-h", "--help"}
    rows = re.findall(r"^\| `(--[\w-]+)` \|", section(DOCS / "tune.md", "Flags"), re.MULTILINE)
    assert sorted(rows) == sorted(flags)
    text = section(DOCS / "tune.md", "What has been run")
    assert [name for name in commands.COMMANDS if f"`tune.py {name}" not in text] == []


def test_the_cluster_files_hold_together() -> None:
    (job,) = yaml.safe_load_all((DOCS / "rayjob.yaml").read_text())
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in groups):
        (container,) = pod["containers"]
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod["volumes"]}
        assert {one["name"] for one in container["env"]} == {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"}
    scripts = {"rayjob.yaml": job["spec"]["entrypoint"], "slurm.sh": (DOCS / "slurm.sh").read_text()}
    known = {option for action in tune_parser()._actions for option in action.option_strings}
    for name, text in scripts.items():
        (command,) = re.findall(r"python tune\.py (.+?)(?:&|$)", text.replace("\\\n", " "), re.DOTALL)
        flags = set(re.findall(r"--[\w-]+", command))
        assert flags >= {"--study", "--address", "--storage", "--folder"}, name
        assert flags <= known, name
    assert subprocess.run(["bash", "-n", DOCS / "slurm.sh"], check=False).returncode == 0
