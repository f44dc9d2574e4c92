"""One workspace served in the foreground through pyfuse3, without a daemon: portable, and slower.

It is also the oracle that the ``kernel`` transport is compared with.
"""
