"""The studio: style transfer in the browser, on this machine.

``server`` serves the ``page``, which keeps ``sessions``, one for each tab. What a page
asks for is read and limited in ``requests`` and carried out in ``jobs``; ``watch``
turns progress into what the page shows.
"""
