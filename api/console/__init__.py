"""
The console for people, at /admin: one file for each page, its templates in `api/templates/console/`.

`pages` says what a page is, `doors` who comes in, `layout` how a page is rendered, `application` puts it together:
a new page is one file, and its place in the list there. Whoever builds the API imports `application` alone.
"""
