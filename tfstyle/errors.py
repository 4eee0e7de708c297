"""The errors that tfstyle raises for problems that its user can mend."""

from __future__ import annotations


class TfstyleError(Exception):
    """A problem told in one line: what it is about, what is wrong, the way out.

    Attributes:
      exit_code: What the command line exits with: 1, a failure.
    """

    exit_code = 1


class UsageError(TfstyleError, ValueError):
    """A request that cannot be carried out as it stands, such as an unknown layer.

    Attributes:
      exit_code: What the command line exits with: 2, wrong usage.
    """

    exit_code = 2


class ImageError(TfstyleError):
    """A file that cannot be read or written as a picture."""


class VideoError(TfstyleError):
    """A file that cannot be read or written as a film."""


def user_error(error: BaseException) -> TfstyleError | None:
    """What a user should be told of an error.

    Args:
      error: Any error.

    Returns:
      The error itself if it is meant for users; one that tells that memory is full,
      where ``is_full_memory`` says so; or None.
    """
    if isinstance(error, TfstyleError):
        return error
    if is_full_memory(error):
        return TfstyleError(
            "there is not enough memory; choose a smaller size, or end other programs"
        )
    return None


def is_full_memory(error: BaseException) -> bool:
    """Whether Python, NumPy or TensorFlow, not imported here, found no memory."""
    kind, text = type(error).__name__, str(error)
    if kind == "ResourceExhaustedError":
        return "No space left" not in text  # of a disk
    if kind == "AbortedError":
        return "exception:Status: 1," in text  # oneDNN's number for it
    return isinstance(error, MemoryError)
