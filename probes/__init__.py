"""How we look: load a model, prompt it, observe it. Never decides what a head is."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
