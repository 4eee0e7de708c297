"""Folders of any size, on one machine or many, by Ray Data."""

from tfstyle.batch.run import Counts, stylize_folder
from tfstyle.batch.stylize import Stylize

__all__ = ["Counts", "Stylize", "stylize_folder"]
