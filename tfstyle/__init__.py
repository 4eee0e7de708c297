"""Neural style transfer for TensorFlow and Keras.

Importing this package imports nothing else: each name brings what it needs when it is
first used, and TensorFlow comes with the first run. The public names, with their types,
are listed in ``__init__.pyi``.
"""

import lazy_loader

from tfstyle.backend import check_backend
from tfstyle.version import __version__ as __version__

_attached, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    check_backend()
    return _attached(name)
