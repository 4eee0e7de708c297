"""The errors that tfstyle raises for problems that its user can fix."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tfstyle.stylizer.result import Result


class TfstyleError(Exception):
    """A problem in one line: what it is about, what is wrong, the way out.

    Attributes:
      exit_code: Exit code of the command line: 1, a failure.
    """

    exit_code = 1


class UsageError(TfstyleError, ValueError):
    """A request that cannot be carried out as it stands, such as an unknown layer.

    Attributes:
      exit_code: Exit code of the command line: 2, wrong usage.
    """

    exit_code = 2


class MissingExtraError(UsageError, ImportError):
    """A library of an extra, such as ``tfstyle[video]``, is not installed."""


class ImageError(TfstyleError):
    """A file that cannot be read or written as a picture."""


class VideoError(TfstyleError):
    """A file that cannot be read or written as a film."""


class NonFiniteLossError(TfstyleError):
    """The loss became NaN or infinite.

    Attributes:
      step: The step, from 1, at which it did.
      term: The first term that is not finite, or ``the gradient``.
      result: The run up to its last good picture; None where there is no picture.
    """

    def __init__(self, step: int, term: str, result: Result | None = None):
        self.step, self.term, self.result = step, term, result
        super().__init__(
            f"the loss became NaN or infinite at step {step} in {term}; "
            "lower the learning rate or the weights"
        )


def user_error(error: BaseException) -> TfstyleError | None:
    """What to tell a user about an error.

    Returns:
      The error itself if it is a ``TfstyleError``; an error about full memory if
      ``is_full_memory``; otherwise None.
    """
    if isinstance(error, TfstyleError):
        return error
    if is_full_memory(error):
        return TfstyleError(
            "there is not enough memory; choose a smaller size, or end other programs"
        )
    return None


def is_full_memory(error: BaseException) -> bool:
    """Whether Python, NumPy or TensorFlow ran out of memory.

    Args:
      error: Any error. TensorFlow's are told by name, so that it is not imported.
    """
    kind, text = type(error).__name__, str(error)
    if kind == "ResourceExhaustedError":
        return "No space left" not in text  # that is a full disk
    if kind == "AbortedError":
        return "exception:Status: 1," in text  # oneDNN's code for it
    return isinstance(error, MemoryError)


def did_you_mean(
    name: object,
    known: Collection[str],
    otherwise: str = "",
    *,
    most: int = 2,
    cutoff: float = 0.6,
) -> str:
    """A question that offers the names nearest to one that does not exist.

    Args:
      name: What was given.
      known: The names that exist.
      otherwise: What to say where none is near.
      most: The most names to offer.
      cutoff: How near they must be, from 0 to 1.
    """
    nearest = difflib.get_close_matches(str(name), known, most, cutoff)
    return f"did you mean {' or '.join(nearest)}?" if nearest else otherwise


def one_line(error: BaseException) -> str:
    """What an error of another library says, on one printable line.

    Returns:
      At most 200 characters of its text; its type where it has none.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())[:200] or type(error).__name__
    return text if text.isprintable() else ascii(text)
