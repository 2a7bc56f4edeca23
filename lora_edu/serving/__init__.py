"""Ways out of the course: an adapter or a merged model in the forms that other tools read, each checked by reading it back. Chapter 15.

What it offers stands in `__init__.pyi`, for type checkers and for the interpreter alike; each is imported on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
