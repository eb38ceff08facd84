"""``blackhole demo``: real plugins under load on real input, checked against a plain loop."""
