"""How a program ends early: by a user's mistake, or by a signal."""


class UserError(ValueError):
    """Something the user can mend: a flag, a file, an image, a checkpoint.

    The message is one line that says what is wrong and what to do. The programs
    in `bin/` print it without a traceback and exit with code 2.
    """


class NoLabels(UserError):
    """The images have no labels, or one that all of them share, and the work needs some."""


def user_error(error: BaseException) -> UserError | None:
    """Returns the `UserError` that this is, or of which a data pipeline left the text only."""
    if isinstance(error, UserError):
        return error
    lines = str(error).partition("UserError: ")[2].splitlines()
    return UserError(lines[0]) if lines else None


class Stopped(KeyboardInterrupt):
    """A signal ended the run and all is saved, or a worker was lost: repeat the command to go on.

    The programs in `bin/` exit with code `CODE`, so that a script or a cluster's scheduler can
    tell it from a mistake and start the run again.
    """

    CODE = 75  # EX_TEMPFAIL of sysexits.h: "try again"
