"""Scale analysis of feature learning: energies of patterns (predict), batched Langevin runs (measure).

Prediction needs no torch; points are runs like any other, by way of `jobs`.
"""

from importlib.util import find_spec

from tutelage.errors import UserError

if find_spec("sympy") is None:
    raise UserError("scale analysis needs the package sympy: pip install 'tutelage[scale]'")
