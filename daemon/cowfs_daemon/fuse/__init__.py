"""The kernel transport: our own implementation of the /dev/fuse protocol, standard library only."""
