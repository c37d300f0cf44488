"""An answer as HTML: the card of notebooks, and the reading report.

Texts of documents and models are data: Jinja2 escapes them, control characters are taken out.
Nothing refers to another file or to the network.
"""
