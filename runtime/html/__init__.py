"""Pages for people: report.html of a bundle, and two bundles side by side. One file each, no network, no script needed.

`parts` are the pieces a page is made of, `views` fill them from the JSON of a bundle, `page` prints them.
"""
