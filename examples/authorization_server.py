# pyright: basic
# Django and django-oauth-toolkit carry no types; strict checking would only repeat that on every line.
"""Which authorization server can the examples talk to? A real one, of its own making, on this machine.

django-oauth-toolkit in one file: a login page, a consent page, PKCE, rotating refresh tokens with reuse protection,
revocation, introspection, discovery, open client registration, and one protected resource that checks the tokens.
It shares no code with mcp-identity, so what works against it works because both follow the standards.

    python examples/authorization_server.py --directory DIR [--port 0] [--client ID:SECRET:GRANT:REDIRECT_URI]

It listens on 127.0.0.1 only and prints one JSON line with its URLs when it is ready. People: alice / wonderland and
bob / builder. It is a demonstration: the passwords are public, and so nothing of value belongs behind it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import socketserver
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import django
from django.conf import settings
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler

HOST = "127.0.0.1"
PEOPLE = {"alice": "wonderland", "bob": "builder"}
SCOPES = {"read": "Read your notes", "write": "Change your notes", "profile": "See your user name"}
GRANTS = ("authorization-code", "client-credentials")

BASE_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{% block title %}{% endblock %} · Demonstration authorization server</title>
<style>
  :root { color-scheme: light dark; --line: gray; --accent: royalblue; }
  body { font: 1rem/1.6 system-ui, sans-serif; max-width: 28rem; margin: 8vh auto; padding: 0 1rem; }
  main { border: 1px solid var(--line); border-radius: .75rem; padding: 1.5rem 2rem; }
  h1 { font-size: 1.4rem; line-height: 1.3; margin-top: 0; }
  label { display: block; font-weight: 600; margin-top: 1rem; }
  input[type=text], input[type=password] { font: inherit; width: 100%; box-sizing: border-box; padding: .5rem; }
  button { font: inherit; padding: .5rem 1.25rem; border: 1px solid var(--line); border-radius: .5rem; cursor: pointer; }
  button.primary { background: var(--accent); border-color: var(--accent); color: white; }
  button.quiet { border: 0; background: none; padding: 0; text-decoration: underline; color: inherit; }
  :focus-visible { outline: 3px solid orange; outline-offset: 2px; }
  .actions { display: flex; gap: .75rem; margin-top: 1.5rem; }
  .error { border-left: .25rem solid firebrick; padding-left: .75rem; }
  footer { font-size: .85rem; margin-top: 1rem; opacity: .8; }
</style>
</head>
<body>
<main>{% block main %}{% endblock %}</main>
<footer>This is a demonstration authorization server. It guards nothing of value.</footer>
</body>
</html>
"""

LOGIN_PAGE = """{% extends "base.html" %}
{% block title %}Sign in{% endblock %}
{% block main %}
<h1>Sign in</h1>
{% if form.errors %}<p class="error" role="alert">This user name and password do not belong together.</p>{% endif %}
<form method="post">
  {% csrf_token %}
  <input type="hidden" name="next" value="{{ next }}">
  <label for="username">User name</label>
  <input id="username" name="username" type="text" autocomplete="username" required autofocus>
  <label for="password">Password</label>
  <input id="password" name="password" type="password" autocomplete="current-password" required>
  <div class="actions"><button class="primary" type="submit">Sign in</button></div>
</form>
<p>Try <b>alice</b> with <b>wonderland</b>, or <b>bob</b> with <b>builder</b>.</p>
{% endblock %}
"""

CONSENT_PAGE = """{% extends "base.html" %}
{% block title %}{% if error %}Error{% else %}Allow access?{% endif %}{% endblock %}
{% block main %}
{% if error %}
<h1>This request cannot be answered</h1>
<p class="error" role="alert"><b>{{ error.error }}</b>{% if error.description %}: {{ error.description }}{% endif %}</p>
{% else %}
<h1>Allow <b>{{ application.name }}</b> to use your account?</h1>
<p>It asks to:</p>
<ul>{% for description in scopes_descriptions %}<li>{{ description }}</li>{% endfor %}</ul>
<form method="post">
  {% csrf_token %}
  {% for field in form %}{% if field.is_hidden %}{{ field }}{% endif %}{% endfor %}
  <div class="actions">
    <button class="primary" type="submit" name="allow" value="yes">Allow</button>
    <button type="submit">Deny</button>
  </div>
</form>
<form method="post" action="{% url 'logout' %}">
  {% csrf_token %}
  <input type="hidden" name="next" value="{{ request.get_full_path }}">
  <p>Signed in as {{ request.user.username }}. <button class="quiet" type="submit">Not you?</button></p>
</form>
{% endif %}
{% endblock %}
"""

PAGES = {"base.html": BASE_PAGE, "registration/login.html": LOGIN_PAGE, "oauth2_provider/authorize.html": CONSENT_PAGE}


@dataclass(frozen=True, slots=True)
class Client:
    """One registered application; without a secret it is a public client."""

    client_id: str
    client_secret: str = ""
    grant: str = GRANTS[0]
    redirect_uris: tuple[str, ...] = ()
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> Client:
        """Read `ID:SECRET:GRANT:REDIRECT_URI`; the last part is empty for client-credentials."""
        client_id, secret, grant, redirect_uri = [*text.split(":", 3), "", "", ""][:4]
        if not client_id or grant not in GRANTS:
            raise argparse.ArgumentTypeError(f"expected ID:SECRET:GRANT:REDIRECT_URI with GRANT one of {', '.join(GRANTS)}")
        return cls(client_id, secret, grant, (redirect_uri,) if redirect_uri else ())

    @classmethod
    def read_all(cls, path: Path) -> list[Client]:
        """Read a JSON list of objects with the fields of this class."""
        return [
            cls(**{**entry, "redirect_uris": tuple(entry.get("redirect_uris", ()))}) for entry in json.loads(path.read_text())
        ]


class QuickHasher(PBKDF2PasswordHasher):
    """Few rounds: the demonstration's passwords are printed on its login page, and client secrets are checked often."""

    iterations = 1_000


class QuietHandler(WSGIRequestHandler):
    """Serves without an access log: standard output belongs to the one JSON line."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Say nothing."""


class Server(ThreadedWSGIServer):
    """A threaded WSGI server on a literal address, which therefore asks no name server for its own name."""

    daemon_threads = True

    def server_bind(self) -> None:
        """Bind without the reverse look-up of `http.server`, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]
        self.setup_environ()


def configure(directory: Path, issuer: str, *, access_token_seconds: int, rotation: bool) -> None:
    """Set Django up for this one process: strict by RFC 9700 wherever the toolkit offers it."""
    settings.configure(
        ALLOWED_HOSTS=[HOST],
        AUTH_PASSWORD_VALIDATORS=[],
        CSRF_COOKIE_NAME="demo_csrf",
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                # One request at a time: a refresh token is checked and spent in one transaction, whoever else presents it.
                "ATOMIC_REQUESTS": True,
                "NAME": directory / "authorization-server.sqlite3",
                "OPTIONS": {
                    "transaction_mode": "IMMEDIATE",
                    "timeout": 20,
                    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;",
                },
            },
        },
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "oauth2_provider"],
        LOGGING_CONFIG=None,
        LOGIN_URL="login",
        MIDDLEWARE=[
            "django.middleware.security.SecurityMiddleware",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.middleware.clickjacking.XFrameOptionsMiddleware",
        ],
        MIGRATION_MODULES=dict.fromkeys(("auth", "contenttypes", "sessions", "oauth2_provider")),  # tables straight from models
        OAUTH2_PROVIDER={
            "ACCESS_TOKEN_EXPIRE_SECONDS": access_token_seconds,
            "ALLOWED_REDIRECT_URI_SCHEMES": ["http", "https"],
            "COMPLIANT_BCP_RFC9700_ACCESS_TOKEN_TRANSPORT": True,
            "COMPLIANT_BCP_RFC9700_AUTHZ_RESPONSE_ISS": True,
            "COMPLIANT_BCP_RFC9700_IMPLICIT_GRANT": True,
            "COMPLIANT_BCP_RFC9700_PASSWORD_GRANT": True,
            "COMPLIANT_BCP_RFC9700_PKCE_METHOD": True,
            "COMPLIANT_BCP_RFC9700_TOKEN_STORAGE": True,
            "DCR_ENABLED": True,
            "DCR_REGISTRATION_PERMISSION_CLASSES": ("oauth2_provider.dcr.AllowAllDCRPermission",),
            "DEFAULT_SCOPES": ["read"],
            "OAUTH2_GRANT_TYPES_SUPPORTED": ["authorization_code", "client_credentials", "refresh_token"],
            "OAUTH2_RESPONSE_TYPES_SUPPORTED": ["code"],
            "OAUTH2_TOKEN_ENDPOINT_AUTH_METHODS_SUPPORTED": ["client_secret_basic", "client_secret_post", "none"],
            "OIDC_ISS_ENDPOINT": issuer,
            "PKCE_REQUIRED": True,
            "REFRESH_TOKEN_REUSE_PROTECTION": True,
            "ROTATE_REFRESH_TOKEN": rotation,
            "SCOPES": SCOPES,
        },
        PASSWORD_HASHERS=[f"{__name__}.QuickHasher"],
        ROOT_URLCONF=__name__,
        SECRET_KEY=secrets.token_urlsafe(48),
        SESSION_COOKIE_NAME="demo_session",
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "OPTIONS": {
                    "context_processors": ["django.template.context_processors.request"],
                    "loaders": [("django.template.loaders.locmem.Loader", PAGES)],
                },
            },
        ],
        USE_TZ=True,
    )
    django.setup()


def store(clients: list[Client]) -> None:
    """Create the tables, the people and the clients; what an earlier run left in the directory is kept."""
    from django.contrib.auth import get_user_model
    from django.core.management import call_command
    from oauth2_provider.models import Application

    call_command("migrate", run_syncdb=True, verbosity=0)
    users = get_user_model().objects
    for username, password in PEOPLE.items():
        if not users.filter(username=username).exists():
            users.create_user(username, password=password)
    for client in clients:
        application, _ = Application.objects.update_or_create(
            client_id=client.client_id,
            defaults={
                "name": client.name or client.client_id,
                "client_type": Application.CLIENT_CONFIDENTIAL if client.client_secret else Application.CLIENT_PUBLIC,
                "client_secret": client.client_secret,
                "authorization_grant_type": client.grant,
                "redirect_uris": " ".join(client.redirect_uris),
            },
        )
        application.full_clean()


def routes(issuer: str) -> list[Any]:
    """Lay out the URLs: discovery at the root, the protocol below `/o/`, the people's pages, the protected resource."""
    from django.contrib.auth.views import LoginView, LogoutView
    from django.http import HttpResponse, JsonResponse
    from django.urls import include, path
    from oauth2_provider import urls, views
    from oauth2_provider.oauth2_backends import get_oauthlib_core
    from oauth2_provider.www_authenticate import build_bearer_challenge, challenge_status

    core: Any = get_oauthlib_core()

    class Authorization(views.AuthorizationView):
        """Names the issuer in errors too, as RFC 9207 asks; the toolkit does so in successes only."""

        def redirect(self, redirect_to: str, application: Any) -> HttpResponse:
            if "iss" not in parse_qs(urlsplit(redirect_to).query):
                redirect_to += f"{'&' if '?' in redirect_to else '?'}{urlencode({'iss': issuer})}"
            return super().redirect(redirect_to, application)

    def me(request: Any) -> HttpResponse:
        """Answer who the bearer token speaks for, or refuse as RFC 6750 says."""
        valid, token = core.verify_request(request, scopes=[])
        if not valid:
            error = getattr(token, "oauth2_error", None)
            challenge = build_bearer_challenge(request, oauth2_error=error)
            return HttpResponse(status=challenge_status(error), headers={"WWW-Authenticate": challenge})
        username = token.user.get_username() if token.user else None
        return JsonResponse(
            {"username": username, "client": token.client.client_id, "scopes": sorted(token.access_token.scopes)}
        )

    protocol = [
        path("authorize/", Authorization.as_view(), name="authorize"),
        path("token/", views.TokenView.as_view(), name="token"),
        path("revoke_token/", views.RevokeTokenView.as_view(), name="revoke-token"),
        path("introspect/", views.IntrospectTokenView.as_view(), name="introspect"),
        *urls.dcr_urlpatterns,
    ]
    return [
        path("", include(([*urls.metadata_urlpatterns, path("o/", include(protocol))], "oauth2_provider"))),
        path("login/", LoginView.as_view(), name="login"),
        path("logout/", LogoutView.as_view(), name="logout"),
        path("api/me", me),
    ]


urlpatterns: list[Any] = []
"""Filled by `main`, once Django is configured; Django reads it from this module (`ROOT_URLCONF`)."""


def stop_when_input_ends() -> None:
    """End this process when standard input closes, so that it never outlives the program that started it."""

    def watch() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="A demonstration OAuth 2.0 authorization server on 127.0.0.1.")
    parser.add_argument("--directory", type=Path, required=True, help="where the SQLite file lives")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--access-token-seconds", type=int, default=300, help="lifetime of an access token")
    parser.add_argument("--no-rotation", action="store_true", help="let a refresh token be used again and again")
    parser.add_argument(
        "--client",
        type=Client.parse,
        action="append",
        default=[],
        help="ID:SECRET:GRANT:REDIRECT_URI; GRANT: authorization-code or client-credentials",
    )
    parser.add_argument("--clients", type=Path, help="a JSON list of clients")
    parser.add_argument("--stop-when-input-ends", action="store_true", help="exit when standard input closes")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Serve until interrupted."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.ERROR)
    options.directory.mkdir(parents=True, exist_ok=True)
    server = Server((HOST, options.port), QuietHandler)
    issuer = f"http://{HOST}:{server.server_port}"
    configure(options.directory, issuer, access_token_seconds=options.access_token_seconds, rotation=not options.no_rotation)
    store([*options.client, *(Client.read_all(options.clients) if options.clients else [])])
    urlpatterns.extend(routes(issuer))

    from django.core.wsgi import get_wsgi_application

    application: Any = get_wsgi_application()
    server.set_app(application)
    if options.stop_when_input_ends:
        stop_when_input_ends()
    ready = {
        "issuer": issuer,
        "base_url": issuer,
        "authorization_url": f"{issuer}/o/authorize/",
        "token_url": f"{issuer}/o/token/",
        "revocation_url": f"{issuer}/o/revoke_token/",
        "introspection_url": f"{issuer}/o/introspect/",
        "registration_url": f"{issuer}/o/register/",
        "me_url": f"{issuer}/api/me",
        "port": server.server_port,
        "pid": os.getpid(),
    }
    print(json.dumps(ready), flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
    finally:
        server.server_close()


if __name__ == "__main__":
    main()
