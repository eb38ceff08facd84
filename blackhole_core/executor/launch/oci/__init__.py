"""Level container: OCI bundles made from the host's interpreter, and the programs that run them."""
