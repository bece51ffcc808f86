"""Things every part of the program needs: errors a user can act on."""


class UserError(Exception):
    """Bad input: its message is one line that names the file or option and the remedy.

    The programs print it without a traceback and exit with status 2.
    """
