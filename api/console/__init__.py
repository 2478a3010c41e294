"""
The console for operators and admins, at /admin. One module for each page, its templates in `api/templates/console/`.

`pages` defines pages, forms and routes, `security` the sessions and cookies, and `layout` the rendering.
`application` installs them, and is the only module that the API imports. It lists the modules of the pages.
"""
