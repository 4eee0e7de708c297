"""The command line: one module per command, each a thin shell over the library.

``main`` finds the command. ``flags`` makes flags of options, ``arguments`` has those
that commands share, ``outputs`` checks the files to write, and ``run`` carries out what
optimises a picture. ``quiet`` hides other libraries' messages; ``signals`` is about
Ctrl-C.
"""
