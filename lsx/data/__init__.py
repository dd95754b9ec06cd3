"""Images, where they come from, and how they are split.

A dataset of one's own is a function from a configuration to a :class:`Dataset`,
entered with ``@register("name")`` or named ``package.module:function`` in the
configuration. :func:`assemble` makes one from any :class:`Pool`.
"""

from lsx.data.base import DATASETS, assemble, load, register
from lsx.data.chest import chest_pool
from lsx.data.confounders import Confounded, Confounder, add_hue, add_patch
from lsx.data.folders import folder_pool
from lsx.data.mnist import fashion_pool, mnist_pool
from lsx.data.npz import npz_pool
from lsx.data.pool import Pool
from lsx.data.shared import remembered
from lsx.data.types import Dataset, Split

__all__ = [
    "DATASETS",
    "Confounded",
    "Confounder",
    "Dataset",
    "Pool",
    "Split",
    "add_hue",
    "add_patch",
    "assemble",
    "chest_pool",
    "fashion_pool",
    "folder_pool",
    "load",
    "mnist_pool",
    "npz_pool",
    "register",
    "remembered",
]
