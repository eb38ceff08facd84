"""The command line, a thin shell over the manager and the control socket."""
