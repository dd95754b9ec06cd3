"""Data as MLflow shows it among a run's inputs."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag

from lsx.study.environment.credentials import redacted

LONGEST_DIGEST = 36
CONTEXT = "mlflow.data.context"


def describe(provenance: Mapping[str, Any], parts: Sequence[str], sizes: bool = True) -> list[dict[str, str]]:
    """A dataset's parts as plain data, for :func:`entities`.

    Args:
        provenance: :attr:`lsx.data.Dataset.provenance`; without a name there is nothing to describe.
        parts: train, validation or test.
        sizes: whether the sizes in the provenance are those of the run.

    Returns:
        One entry a part. MLflow tells datasets apart by name and digest, so that the part is in the name; the digest is
        the beginning of the SHA-256 of the source.
    """
    if not provenance.get("dataset"):
        return []
    text = json.dumps(provenance, sort_keys=True, default=str)
    digest = str(provenance.get("sha256") or hashlib.sha256(text.encode()).hexdigest())[:LONGEST_DIGEST]
    source = redacted(str(provenance.get("description") or provenance["dataset"]))
    counts: Mapping[str, int] = provenance.get("sizes", {}) if sizes else {}
    return [
        {
            "name": f"{provenance['dataset']}-{part}",
            "digest": digest,
            "source": source,
            "context": part,
            "profile": json.dumps({"num_rows": counts[part]} if part in counts else {}),
        }
        for part in parts
    ]


def entities(described: Sequence[Mapping[str, str]]) -> list[DatasetInput]:
    """What MLflow's client takes."""
    return [
        DatasetInput(
            Dataset(
                name=one["name"],
                digest=one["digest"],
                source_type="code",  # of MLflow's kinds, the one that names no place that others could not open
                source=json.dumps({"tags": {"mlflow.source.name": one["source"]}}),
                profile=one["profile"],
            ),
            [InputTag(CONTEXT, one["context"])],
        )
        for one in described
    ]
