"""Builds the rules, the runbooks and their Kubernetes copies from `deploy/mixin/settings.toml`.

`grafana/` reads the same settings for the thresholds of the dashboards. `make mixin` builds all.
"""
