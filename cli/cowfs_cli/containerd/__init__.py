"""containerd's proxy snapshotter protocol, on top of the client."""
