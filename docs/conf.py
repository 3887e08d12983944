"""The documentation site: `make docs`."""

project = "steersweep"
author = "The steersweep authors"
extensions = ["myst_parser"]
exclude_patterns = ["build"]
html_theme = "furo"
html_title = "steersweep"
html_show_sourcelink = False
html_copy_source = False
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
