"""`python -m grafana`: write every dashboard."""

from grafana.build import DASHBOARDS_FOLDER, write

write(DASHBOARDS_FOLDER)
