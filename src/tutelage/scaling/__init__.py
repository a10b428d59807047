"""Scale analysis of feature learning: energies of patterns (predict), batched Langevin runs (measure).

May import nothing of the package but `errors` and `runs`. Prediction needs no torch, measurement no sympy (but where a grid of P
is planned from a prediction); both are loaded only where used.
"""
