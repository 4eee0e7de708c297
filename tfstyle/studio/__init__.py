"""The studio: style transfer in the browser, on this machine."""
