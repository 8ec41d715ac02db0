"""The one error a user should ever see."""


class SawyerError(Exception):
    """A mistake the user can mend: one sentence that says what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with code 2.
    """


def reason(error: BaseException) -> str:
    """Another library's error in at most 200 characters of one line, to stand inside a sentence of ours."""
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(" .:") if lines else type(error).__name__
