"""Random work in several workspaces and forks through a real daemon, compared with plain copies."""
