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
    SizeOptions,
    StartOptions,
    StopOptions,
    StrokeOptions,
    StyleOptions,
)
from tfstyle.options.presets import preset_texts
from tfstyle.options.text import from_text, to_text


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

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the options that can be chosen."""
        return tuple(field.name for field in self.fields)

    def options(self, given: Mapping[str, Any]) -> Options:
        """The options of a run from what a caller has given.

        Raises:
          UsageError: If a name does not exist here, or a value cannot be used.
        """
        check_names(given, self.names, self.name)
        return Options(**{**self.defaults, **given, **self.fixed})

    def parse(self, texts: Mapping[str, str]) -> dict[str, Any]:
        """Values from texts; a text ``preset`` stands for the preset's options.

        Args:
          texts: Texts by the names of options. Those of a preset that this kind of run
            does not have are left out: a texture has no use for content layers.

        Returns:
          Values for ``options``.

        Raises:
          UsageError: If a name does not exist here, or a text is not of its type.
        """
        own = {name: text for name, text in texts.items() if name != "preset"}
        check_names(own, self.names, self.name)
        if preset := texts.get("preset"):
            found = preset_texts(preset)
            own = {name: found[name] for name in found if name in self.names} | own
        fields = {field.name: field for field in self.fields}
        return {name: from_text(fields[name], text) for name, text in own.items()}

    def texts(self, options: Options) -> dict[str, str]:
        """The options that differ from this kind of run's defaults, as texts.

        Returns:
          What ``parse`` turns back into values.
        """
        values = {field.name: getattr(options, field.name) for field in self.fields}
        return {
            field.name: to_text(values[field.name])
            for field in self.fields
            if to_text(values[field.name]) != to_text(field.default_of(options))
        }


STYLIZE = Recipe("stylize")
INVERT = Recipe(
    "invert",
    without=(StyleOptions, StrokeOptions, ColorOptions),
    defaults={"init": "noise", "content_weight": 1.0, "tv_weight": 1.0},
    fixed={"style_weight": 0.0, "style_loss": "gram"},
)
TEXTURE = Recipe(
    "texture",
    without=(ContentOptions, ColorOptions),
    defaults={"init": "noise", "style_loss": "gram", "tv_weight": 0.0},
    fixed={"content_weight": 0.0},
)
FRAMES = Recipe("video", without=(SizeOptions, StartOptions, StopOptions))
"""Pictures that come one by one, in their own sizes: the frames of a film."""
RECIPES = {recipe.name: recipe for recipe in (STYLIZE, INVERT, TEXTURE)}
