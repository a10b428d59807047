"""P-SSL: labelled target data, and pseudo images of a generator as the unlabelled data of a semi-supervised objective."""

from __future__ import annotations

from tutelage.methods.average import AveragedMethod


class PseudoSemiSupervised(AveragedMethod):
    """The task's objective on target data and consistency on pseudo images (Yamaguchi et al. 2022, arXiv 2204.12833).

    See `objectives.consistency`; the network that is evaluated and kept may be the average.
    """
