"""What is run beside the package and never shipped with it."""
