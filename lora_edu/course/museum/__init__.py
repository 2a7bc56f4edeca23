"""The bug museum: exhibits that are broken in one place, and a ledger of what popular pages say. Chapter 16."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
