"""After training: how alike networks are, in layers and in errors, and how far they overfit.

May import everything below the engine (sample quality reads generators); torch and matplotlib come inside functions where they can.
"""
