"""Methods: one LightningModule a file, each a sum of objectives and what it does beyond adding them; all that is shared lives in `base`.

May import objectives, alignment, losses, models and tasks, and generators; methods do not import each other.
"""
