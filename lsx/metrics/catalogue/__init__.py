"""The metrics that come with lsx, by group: importing this registers them."""

from lsx.metrics.catalogue import accuracy, critic, faithfulness, localization, robustness, sanity, separability

__all__ = ["accuracy", "critic", "faithfulness", "localization", "robustness", "sanity", "separability"]
