"""Data: images, sequences, text, series and synthetic sets; splits, augmentation, corruption, streams.

May import `tutelage.errors` and `tutelage.tasks` alone; knows neither models nor methods.
"""
