"""Generators: images of given classes from given seeds. Trained by Tutelage (GAN, diffusion) or pre-trained (BigGAN-deep, DiT).

Knows neither `models` nor `data`. The protocol is `protocol.Generator`; pseudo data sets are written by `shards`.
"""
