"""Disk workspaces: making their filesystems, and what machines need to boot from them."""
