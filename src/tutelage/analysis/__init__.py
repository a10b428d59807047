"""After training: how alike networks are, in layers and in errors, and how far they overfit.

May import alignment, models, tasks, runs and errors; torch and matplotlib come inside functions where they can.
"""
