"""The cold start of one model, from settings to a service that answers."""
