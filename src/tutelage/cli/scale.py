"""`tutelage scale`: predict how much data a network needs to learn a target, measure it, and hold one against the other."""

from __future__ import annotations

from collections.abc import Sequence

from tutelage.errors import UserError, choices
from tutelage.scaling.scale_request import read

HELP = """usage: tutelage scale predict <case | layer ...> [key=value ...]
       tutelage scale measure <case ... | layer ...> [-m] [--dry] [key=value ...]
       tutelage scale report  <case ... | folder> [key=value ...]

predict: the energy of every pattern of feature learning, the one that learns with the least data P*, how P* grows with each size, where
another pattern takes over, and a figure. Reads rules only: seconds, no torch.
measure: the case's networks, sampled by Langevin dynamics (or trained) at several sizes and P; then P*, exponents, collapse and verdicts.
Every point is a run of its own in runs/scale/<case>/<identity>: the same command reuses, continues and finishes. --dry shows the points.
report: the same tables from what is stored, or from the results.json of a folder.

  <case>                    `tutelage list cases`; a YAML in conf/scale of your folder is one, too
  <layer> ...               dense:N1 dense:N2 | convolution:C,S,n (channels, patch dimension, patches) | attention:L (context); a letter is
                            a size, a whole number itself
  N1=1.5 N2=2               predict, and layers: the sizes as powers of d
  degree=3 activation=erf   the target He_degree of a hidden direction; linear, erf, relu or generic
  patterns=[GP-Sp,Sp-Mag]   predict: compare these only
  x=N1 y=N2                 predict: the figure's axes
  inputs=[8,16,32] draws=12 steps=20000 temperature=0.1 ...    measure: any setting of the case
  -m inputs=8,16 seed=0,1   measure: a sweep; hydra/launcher=local runs its jobs beside each other
  hardware=gpu  hardware.threads=1  runs_dir=runs  rerun=true
  out=<folder>              where tables and figures go

  tutelage scale predict three_layer N1=1.4 N2=2
  tutelage scale measure dense:N1 dense:N2 N1=1 N2=1 inputs=[8,12,16]
"""
VERBS = ("predict", "measure", "report")


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    words = list(arguments)
    if not words or any(word in ("-h", "--help") for word in words):
        print(HELP)
        return 0 if words else 2
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        raise UserError(f"scale cannot '{verb}'; {choices(verb, VERBS)}")
    if verb == "predict":
        from tutelage.scaling.predict_command import run
    else:
        from tutelage.scaling.measure_command import run
    return run(read(verb, rest))
