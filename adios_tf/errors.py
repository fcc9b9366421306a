"""The one exception that stands for a user's mistake."""


class UserError(ValueError):
    """Something the user can mend: a flag, a file, an image, a checkpoint.

    The message is one line that says what is wrong and what to do. The programs
    in `bin/` print it without a traceback and exit with code 2.
    """
