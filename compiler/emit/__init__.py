"""From a plan to the text of a package; the only place that uses Jinja."""
