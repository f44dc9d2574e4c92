"""The ``cowfs`` command line."""
