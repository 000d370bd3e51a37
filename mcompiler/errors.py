"""The errors of the compiler, by who can correct them.

``UserError`` and its children are for the user to correct: the message names the node, key or file, the fact and the
remedy; the command line prints it and exits 1. ``PassError`` is a fault of this program (exit 70).
"""

from __future__ import annotations


class UserError(Exception):
    """An error that the user can correct. The message names the place, the fact and the remedy."""


class CompileError(UserError):
    """A model that cannot be compiled as asked; names the ONNX node.

    Args:
        message: fact and remedy, one sentence or two.
        node: name of the ONNX node at fault; None where no single node is.
    """

    def __init__(self, message: str, node: str | None = None) -> None:
        super().__init__(f"node '{node}': {message}" if node is not None else message)
        self.node = node


class ModelError(UserError):
    """A model file that cannot be read, is damaged, or that onnxruntime does not run."""


class TargetError(UserError):
    """A target description that is wrong; names file and keys. May hold several faults, one a line."""


class DataError(UserError):
    """Calibration or test data that do not fit the model."""


class BuildError(UserError):
    """A build directory that is missing, damaged, of another version, or would be overwritten."""


class PassError(Exception):
    """A fault of a compiler pass: names the pass and those that ran before it; the cause is chained.

    Args:
        pass_name: name of the pass.
        after: names of the passes that ran before it.
        cause: the error that it raised, or the fault in words.
    """

    def __init__(self, pass_name: str, after: tuple[str, ...], cause: BaseException | str) -> None:
        done = ", ".join(after) if after else "no other pass"
        super().__init__(f"pass '{pass_name}' failed after {done}: {cause}")
        self.pass_name = pass_name


class UndeclaredKeyError(Exception):
    """A pass reads a key of the target that its ``reads`` does not declare (a fault of the pass).

    Args:
        section: class name of the section.
        key: name of the key in that section.
    """

    def __init__(self, section: str, key: str) -> None:
        super().__init__(f"it reads key '{key}' of the target's {section}, which its `reads` does not declare")
        self.section, self.key = section, key

    def __reduce__(self) -> tuple[type[UndeclaredKeyError], tuple[str, str]]:
        return type(self), (self.section, self.key)
