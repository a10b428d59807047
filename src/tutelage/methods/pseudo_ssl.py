"""Semi-supervised learning: labelled data, and unlabelled real images or a generator's beside them."""

from __future__ import annotations

from tutelage.methods.base import Method


class PseudoSemiSupervised(Method):
    """The task's objective on labelled images and consistency on unlabelled ones, on pseudo images P-SSL (Yamaguchi et al. 2022, arXiv
    2204.12833). See `objectives.consistency`; the network that is evaluated and kept may be the average.
    """
