"""The errors of the compiler: whose fault it is decides the class.

``UserError`` and its children are for the user to fix: one clear sentence that names the node, key or file, the fact
and the remedy; the command line prints it and exits 1. ``PassError`` is a fault of this program (exit 70).
"""


class UserError(Exception):
    """Something the user can fix. The message names the place, the fact and the remedy."""


class CompileError(UserError):
    """A model that cannot be compiled as asked; names the ONNX node.

    Args:
        message: fact and remedy, one sentence or two.
        node: name of the ONNX node at fault, where there is one.
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
    """A build directory that is missing, damaged, of another version, or in the way."""


class PassError(Exception):
    """A fault of a compiler pass: says in which pass, after which others; the cause is chained."""

    def __init__(self, pass_name: str, after: tuple[str, ...], cause: BaseException | str) -> None:
        done = ", ".join(after) if after else "no other pass"
        super().__init__(f"pass '{pass_name}' failed after {done}: {cause}")
        self.pass_name = pass_name
