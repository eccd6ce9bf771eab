"""The console: pages for the person who runs the machines.

`facts` and `history` are what a person reads of a transfer, `lists` which rows a page has, `pages` the views,
`looks` what of them moves, and `live` pushes that. Words are in `templates/console`, and the rest in
`static/console`.
"""
