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
