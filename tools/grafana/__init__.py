"""The Grafana dashboard, made from a table of panels: python -m tools.grafana

tests/test_dashboard.py asks for the file and the table to agree, and for every metric and label that is named here to
be in /metrics of a running worker.
"""
