"""The parts of the check. Each is a function of a job that adds checks and figures to an outcome."""
