"""Databases at work in a workspace: a checkpoint under load is what a power loss would have left, in every fork."""
