"""The one error a user should ever see."""


class SawyerError(Exception):
    """A mistake the user can mend: one sentence that says what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with code 2.
    """
