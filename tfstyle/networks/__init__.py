"""Feed-forward networks, which stylize a picture in one pass.

``style_net`` is the network, made of ``layers``; ``blends``, ``apply`` (pictures of any
size) and ``network_files`` serve it. ``training`` minimises a
``training_loss`` on ``training_data`` and keeps what it has in a ``training_folder``.
``export`` and ``export_optimizer`` write models for other runtimes.
"""
