"""The walls around a worker of level process: what the host plans, what the worker builds around itself, and how both find out whether they hold."""
