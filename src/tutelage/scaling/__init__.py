"""Scale analysis of feature learning: energies of patterns (predict), batched Langevin runs (measure).

May import nothing of the package but `errors`. Prediction needs no torch, measurement no sympy; both are
loaded only where used.
"""
