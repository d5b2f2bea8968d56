"""What sampling and training raise beyond ValueError."""


class CompilerError(RuntimeError):
    """The machine code of a `CompiledLoop` or a `RowKernel` could not be made: the stepper has to draw."""
