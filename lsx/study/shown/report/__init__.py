"""A study as one HTML page that needs nothing else: no network, no server, no other file."""

from lsx.study.shown.report.page import write as write
