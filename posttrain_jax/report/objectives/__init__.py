"""The searchable page of every objective and recipe, and its tables.

catalog.py  what there is: functions of the rooms, recipes, tasks
docs.py     docstrings and addresses
needs.py    what a method needs beside the policy
page.py     the page (page.css, page.js)
tables.py   the same in Markdown
"""
