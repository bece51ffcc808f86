"""Use a trained model from Python: from nicegan import Translator."""

from nicegan.translator import Translator

__all__ = ["Translator"]
