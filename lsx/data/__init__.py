"""Images, where they come from, and how they are split.

A dataset of one's own is a function from a configuration to a :class:`Dataset`,
entered with ``@register("name")`` or named ``package.module:function`` in the
configuration. :func:`assemble` makes one from any :class:`Pool`.
"""

from lsx.data.base import DATASETS, Confounded, Confounder, Pool, assemble, load, register
from lsx.data.decoy import add_decoys
from lsx.data.mnist import mnist_pool
from lsx.data.types import Dataset, Split

__all__ = [
    "DATASETS",
    "Confounded",
    "Confounder",
    "Dataset",
    "Pool",
    "Split",
    "add_decoys",
    "assemble",
    "load",
    "mnist_pool",
    "register",
]
