"""The table of trials and the manifest."""

import json
import re
from pathlib import Path

import pytest

from tests.study.shown.report.lab import BOTH, part, past, read, reason

RUN = "run{}"  # what the fake outbox calls a trial's run


@pytest.mark.parametrize(
    ("uri", "base"),
    [
        ("http://user:secret@host:5000/ml/", "http://host:5000/ml"),
        ("https://host", "https://host"),
        ("sqlite:///m.db", "http://127.0.0.1:5000"),
    ],
)
def test_rows_link_to_their_runs(tmp_path: Path, uri: str, base: str) -> None:
    made = read(past(tmp_path, *BOTH[:2], "boom", uri=uri))
    links = [link for link in made.links if not link.startswith("#")]
    assert links == [f"{base}/#/runs/run{number}" for number in range(3)]
    assert [row["id"] for row in made.rows if "id" in row] == ["trial-0", "trial-1", "trial-2"]
    assert ("mlflow ui --backend-store-uri sqlite:///m.db" in made.words("trials")) == (uri == "sqlite:///m.db")
    assert "secret" not in part("trials", past(tmp_path, uri=uri))


@pytest.mark.parametrize("uri", ["javascript:alert(1)//", "databricks", ""])
def test_what_is_no_server_is_no_link(tmp_path: Path, uri: str) -> None:
    made = read(past(tmp_path, *BOTH[:1], uri=uri))
    assert [link for link in made.links if not link.startswith("#")] == []
    assert "run0" in made.words("trials")


def test_runs_that_trials_do_not_know_are_found_in_the_outbox(tmp_path: Path) -> None:
    found = past(tmp_path, *BOTH[:1])
    trial = found.study.trials[0]
    assert trial.user_attrs["run_id"] == "run0"
    lines = ['{"spool": 1, "runs": {"0": "old", "1": "abc"}}', '{"run": 2, "id": "def"}', "half a li"]
    found.folder.outbox.write_text("\n".join(lines))
    html = part("trials", past(tmp_path, "running"))
    assert re.findall(r"#/runs/(\w+)", html) == ["run0", "run1"]  # the trials' own word counts
    found.folder.outbox.write_text('{"spool": 1, "runs": {"2": "abc"}}\n{"run": 2, "id": "def"}\n')
    assert "abc" not in part("trials", found)


def test_cells_sort_by_number_and_say_what_is_missing(tmp_path: Path) -> None:
    html = part("trials", past(tmp_path, *BOTH[:2], "pruned"))
    assert '<td class="number" data-value="0.6">0.6000</td>' in html
    assert html.count('<th scope="col" aria-sort="none"') == html.count('<button type="button">') == 11
    rows = re.findall(r"<tr id=.*?</tr>", html)
    assert "–" in rows[2] and "stopped by the scheduler" in rows[2] and 'class="state pruned"' in rows[2]
    assert 'class="baseline"' in rows[0] and 'class="chosen"' in rows[1]
    assert re.search(r'data-value="10.0">10<', rows[1])  # λ_e of the published trial
    assert 'class="number setting" data-value="10.0"' in rows[1]
    assert "stages" in html and "pretrain" in rows[0]


def test_the_manifest_is_the_chosen_trials(tmp_path: Path) -> None:
    found = past(tmp_path, *BOTH)
    assert reason("manifest", found) == "Trial 1 has no manifest in the study's folder."
    content = {
        "code": {"version": "1.2", "commit": "a" * 40, "dirty": True, "sha256": "b" * 64},
        "data": {"description": "images", "sha256": "c" * 64},
        "packages": {"python": "3.11", "torch": "2.14", "rich": "1"},
        "hardware": {"processor": "a fast one", "gpu": None},
        "seeds": [3, 4],
        "threads": 2,
        "device": "cpu",
    }
    (found.folder.trial(1) / "manifest.json").write_text(json.dumps(content))
    words = " ".join(re.sub("<[^>]+>", " ", part("manifest", found)).split())
    for said in (
        *("lsx 1.2, commit aaaaaaaaaaaa, with uncommitted changes", "SHA-256 bbbbbbbbbbbbbbbb…"),
        *("images SHA-256 cccccccccccccccc…", "a fast one, cpu, 2 threads", "seeds 3, 4", "python 3.11, torch 2.14"),
    ):
        assert said in words
    (found.folder.trial(1) / "manifest.json").write_text("no json <b>")
    assert "no json &lt;b&gt;" in part("manifest", found)


def test_without_a_chosen_trial_there_is_no_manifest(tmp_path: Path) -> None:
    assert reason("manifest", past(tmp_path, "boom")) == "No trial is chosen, so there is no manifest to show."
