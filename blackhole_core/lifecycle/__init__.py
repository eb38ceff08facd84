"""The life of an instance: phases, restart policy, supervision, swap."""
