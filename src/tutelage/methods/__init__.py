"""Methods: one LightningModule a file, each naming its loss terms; summing, logging and optimising live in `base`.

May import alignment, losses, models and tasks, and for pseudo images generators and their shards in data; methods do not import
each other.
"""
