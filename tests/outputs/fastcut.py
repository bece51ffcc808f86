"""What eval/* of fastcut.npz are: CUT's."""

from outputs.cut import AS_RECORDED, evaluate

__all__ = ["AS_RECORDED", "evaluate"]
