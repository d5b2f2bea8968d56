"""What sampling and training raise beyond ValueError."""


class CompilerError(RuntimeError):
    """The machine code of a `CompiledLoop` could not be made: its stepper has to draw."""
