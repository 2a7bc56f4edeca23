"""The training loop, what it may be told and what looks on. Chapters 05, 06 and 14.

What it offers stands in `__init__.pyi`, for type checkers and for the interpreter alike; each is imported on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
