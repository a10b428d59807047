"""Methods: one LightningModule a file, each naming its loss terms; summing, logging and optimising live in `base`.

May import alignment, losses, models and tasks; methods do not import each other.
"""
