"""The adapter: its configuration, the layer, where it goes, injection, merging, saving, loading, resizing, combining. Chapters 03, 04, 07.

What it offers stands in `__init__.pyi`, for type checkers and for the interpreter alike; each is imported on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
