"""Networks: FCN, ConvNets, recurrent, Transformer, any of timm or torchvision; frozen ones; weights files.

Imports nothing else of Tutelage but errors.
"""
