"""The Grafana dashboards as a script: `python -m grafana` writes grafana/dashboards again.

The JSON is committed, so that Grafana needs no Python. A test checks that it is current.
"""

import warnings

with warnings.catch_warnings():
    # The SDK prefers the second form of dashboards; file provisioning of Grafana 12 needs the
    # classic one.
    warnings.filterwarnings("ignore", "Prefer using dashboardv2", DeprecationWarning)
    import grafana_foundation_sdk.builders.dashboard
    import grafana_foundation_sdk.models.dashboardv2beta1  # noqa: F401 - only to suppress its warning
