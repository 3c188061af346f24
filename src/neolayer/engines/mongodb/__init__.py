"""MongoDB, or a server that speaks its protocol. Its driver is the extra `neolayer[mongodb]`."""
