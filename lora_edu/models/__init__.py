"""Base models and their tokenizers, the device, and what the rest may ask of any module. Chapter 14.

What it offers stands in `__init__.pyi`, for type checkers and for the interpreter alike; each is imported on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
