"""Shows examples in docstrings as code; ``mkdocs.yml`` names it as an extension."""

from __future__ import annotations

from typing import Any

import griffe


class ShowExamples(griffe.Extension):
    """Calls ``Example:`` by the name that has code in it: ``Examples:``."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Changes the docstring of an object that was read."""
        if obj.docstring:
            value = obj.docstring.value
            obj.docstring.value = value.replace("\nExample:\n", "\nExamples:\n")
