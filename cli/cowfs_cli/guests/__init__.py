"""The host's side of virtual machines: the channel to the guest's server, and answers to what programs inside ask."""
