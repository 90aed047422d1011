"""The cold start of one model, from the settings to a service that answers requests."""
