"""What each kind of run lets one choose, and where its defaults differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tfstyle.options.fields import OptionField, check_names, fields_of
from tfstyle.options.options import (
    ColorOptions,
    ContentOptions,
    Options,
    StrokeOptions,
    StyleOptions,
)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A kind of run: style transfer, feature inversion or texture synthesis.

    Attributes:
      name: Its command.
      without: Groups of options that it has no use for.
      defaults: Defaults that differ from those of ``Options``.
      fixed: Options that cannot be chosen, with their values.
    """

    name: str
    without: tuple[type, ...] = ()
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def fields(self) -> tuple[OptionField, ...]:
        """The options that can be chosen, with this kind of run's defaults."""
        left_out = {field.name for group in self.without for field in fields_of(group)}
        return tuple(
            dataclasses.replace(
                field, default=self.defaults.get(field.name, field.default)
            )
            for field in fields_of(Options)
            if field.name not in left_out
        )

    def options(self, given: Mapping[str, Any]) -> Options:
        """The options of a run from what a caller has given.

        Args:
          given: Values by name.

        Returns:
          All options.

        Raises:
          UsageError: If a name does not exist here, or a value cannot be used.
        """
        known = {field.name for field in self.fields}
        check_names(given, known, self.name)
        return Options(**{**self.defaults, **given, **self.fixed})


STYLIZE = Recipe("stylize")
INVERT = Recipe(
    "invert",
    without=(StyleOptions, StrokeOptions, ColorOptions),
    defaults={"init": "noise", "content_weight": 1.0, "tv_weight": 1.0},
    fixed={"style_weight": 0.0},
)
TEXTURE = Recipe(
    "texture",
    without=(ContentOptions, ColorOptions),
    defaults={"init": "noise", "tv_weight": 0.0},
    fixed={"content_weight": 0.0},
)
RECIPES = {recipe.name: recipe for recipe in (STYLIZE, INVERT, TEXTURE)}
