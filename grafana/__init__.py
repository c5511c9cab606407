"""The Grafana dashboards, as a script: `python -m grafana` writes grafana/dashboards anew.

The JSON is committed, so that Grafana needs no Python; a test holds it to this script.
"""

import warnings

with warnings.catch_warnings():
    # The SDK would rather have the second form of dashboards; file provisioning of Grafana 12
    # takes the classic one.
    warnings.filterwarnings("ignore", "Prefer using dashboardv2", DeprecationWarning)
    import grafana_foundation_sdk.builders.dashboard
    import grafana_foundation_sdk.models.dashboardv2beta1  # noqa: F401 - for the warnings alone
