"""The dashboards: what Grafana shows, written in Python, kept as Grafana's JSON in `infra/grafana/dashboards/`.

How it works: each dashboard is a module of its own in the words of `panels.py`; `files.py` turns them into JSON
with Grafana's own builders. `pictures.py` reads that JSON back and draws it from a live Prometheus, so that
what can be looked at without Grafana is what Grafana shows. Runs in an environment of its own (`./stack
dashboards`); `./stack` itself never imports it.

What belongs here: what is shown, and how it becomes JSON and pictures. How Grafana is configured is in
`infra/grafana/`, what is measured in Prometheus' rules and in the projects.
"""
