"""Weights in four bits: codebooks, rounding block by block, packing, and a linear layer that holds the bytes. Chapter 11.

What it offers stands in `__init__.pyi`, for type checkers and for the interpreter alike; each is imported on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
