"""How the studio looks: the colours of a gallery, day and night."""

from __future__ import annotations

import pathlib

import gradio as gr

CSS = (pathlib.Path(__file__).parent / "studio.css").read_text(encoding="utf-8")

_GREEN = gr.themes.Color(
    *("#eef5f1", "#d6e6de", "#aecdbf", "#7fae9a", "#4f8d76", "#2f6f59", "#12483b"),
    *("#0f3d32", "#0c3329", "#0a2a22", "#071d18"),
    name="gallery_green",
)
_BRASS = gr.themes.Color(
    *("#fdf7ea", "#f9ebcd", "#f2d9a0", "#ebc97f", "#e3b866", "#cc9c42", "#a87d2e"),
    *("#856223", "#67491a", "#4d3713", "#33240b"),
    name="brass",
)
_STONE = gr.themes.Color(
    *("#f6f7f5", "#ebefec", "#dde4df", "#c9d2cd", "#a3b2ab", "#76877f", "#4d5b55"),
    *("#33403a", "#1a221f", "#121816", "#0c110f"),
    name="stone",
)


def theme() -> gr.themes.Base:
    """The theme, whose fonts are those of the device: nothing is fetched."""
    return gr.themes.Base(
        primary_hue=_GREEN,
        secondary_hue=_BRASS,
        neutral_hue=_STONE,
        radius_size="lg",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_900",
        body_text_color="#16201c",
        body_text_color_dark="#e9efec",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_background_fill="white",
        block_background_fill_dark="*neutral_800",
        block_border_color="*neutral_300",
        block_border_color_dark="*neutral_700",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        block_label_text_color="#16201c",
        block_label_text_color_dark="#e9efec",
        block_label_text_weight="650",
        block_title_text_color="#16201c",
        block_title_text_color_dark="#e9efec",
        block_title_text_weight="650",
        border_color_accent="*primary_600",
        border_color_accent_dark="*secondary_400",
        color_accent="*primary_600",
        input_background_fill="white",
        input_background_fill_dark="*neutral_900",
        input_border_width="1px",
        input_border_width_dark="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_700",
        slider_color="*primary_600",
        slider_color_dark="*secondary_400",
        loader_color="*primary_600",
        loader_color_dark="*secondary_400",
        button_border_width="1px",
        button_border_width_dark="1px",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*secondary_400",
        button_primary_background_fill_hover_dark="*secondary_300",
        button_primary_text_color="white",
        button_primary_text_color_dark="#1c1503",
        button_secondary_background_fill="white",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        checkbox_background_color_selected="*primary_600",
        checkbox_background_color_selected_dark="*secondary_400",
        checkbox_label_background_fill_selected="*primary_600",
        checkbox_label_background_fill_selected_dark="*secondary_400",
        checkbox_label_text_color_selected="white",
        checkbox_label_text_color_selected_dark="#1c1503",
    )
