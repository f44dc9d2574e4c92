"""What commands share that serve another program on a Unix socket."""
