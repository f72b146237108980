"""What would a person with a web browser see and send? A small one without a screen, for demonstrations and tests.

It walks pages as a browser does: one redirect at a time, with a cookie jar that obeys host, path, Secure and SameSite, with
the `Origin`, `Referer` and `Sec-Fetch-*` headers of a real navigation, and with forms filled in and buttons pressed by what
is written on them. No script runs, but a page whose script would only send a
form is sent on. What a page does not offer, the person cannot press: that raises `LookupError`.
"""

from __future__ import annotations

from .cookies import Cookie, CookieJar
from .navigation import Browser, Decision
from .pages import Button, Form, Hop, Page

__all__ = ["Browser", "Button", "Cookie", "CookieJar", "Decision", "Form", "Hop", "Page"]
