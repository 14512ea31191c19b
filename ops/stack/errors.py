"""What can go wrong, as one type: a message, and what to do about it.

    StackError                  exit code 1: a service or a command failed
      MachineNotReadyError           exit code 3: a package, port, folder or Python is missing or taken
      UsageError                exit code 2: the command line names something that does not exist

An interrupted command (Ctrl-C) ends with 130, as in a shell.

What belongs here: error types. They are printed, without a traceback, by `cli.py` alone.
"""


class StackError(Exception):
    """Something failed, and the user can act on it."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str) -> None:
        """Keep what happened and what to do.

        Args:
            message: What happened, in one sentence.
            hint: What to do now; may have several lines.
        """
        super().__init__(message)
        self.message = message
        self.hint = hint


class MachineNotReadyError(StackError):
    """The machine lacks something that the stack needs, or something else has it."""

    exit_code = 3


class UsageError(StackError):
    """The command line names something that does not exist."""

    exit_code = 2


class GivenUpError(Exception):
    """Work in a thread was given up because the user pressed Ctrl-C."""
