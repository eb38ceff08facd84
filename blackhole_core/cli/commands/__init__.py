"""The commands of the program ``blackhole``, one file for those that belong together."""
