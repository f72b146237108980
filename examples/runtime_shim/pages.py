"""What does a person see of the application? One page with its question, its link and its answer; and what went wrong.

Everything that comes from elsewhere is escaped. The page works without scripts; with them, the middle of it is replaced when
something changes, in a region that screen readers follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Literal

State = Literal["idle", "working", "consent", "answered", "failed"]

STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --text: #1c2330; --line: #767676; --accent: #1f5fbf; --on: #ffffff;
  --bad: #a3260f; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14181f; --text: #e8ecf2; --accent: #8ab8ff; --on: #0b1a30; --bad: #ff9d7d; }
}
* { box-sizing: border-box; }
body { background: var(--page); color: var(--text); font: 1rem/1.6 system-ui, sans-serif; max-width: 36rem;
  margin: 8vh auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.3; } h2 { font-size: 1.1rem; line-height: 1.4; }
label { display: block; font-weight: 600; }
input[type=text] { font: inherit; width: 100%; padding: .6rem; border: 1px solid var(--line); border-radius: .4rem; }
button, a.button { display: inline-block; font: inherit; font-weight: 600; margin-top: 1rem; padding: .6rem 1.25rem; border: 0;
  border-radius: .4rem; background: var(--accent); color: var(--on); text-decoration: none; cursor: pointer; }
button.plain { background: none; color: var(--accent); padding: 0; font-weight: 400; text-decoration: underline; }
section { margin-top: 1.5rem; padding: 1rem 1.25rem; border: 1px solid var(--line); border-radius: .6rem; }
section > :first-child { margin-top: 0; } section > :last-child { margin-bottom: 0; }
.bad { color: var(--bad); } a { color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 3px; }
"""

SCRIPT = """
const region = document.getElementById("conversation");
async function follow() {
  for (;;) {
    const answer = await fetch("/conversation?since=" + region.dataset.version);
    if (answer.status === 204) continue;
    if (!answer.ok) return;
    region.dataset.version = answer.headers.get("x-version");
    region.innerHTML = await answer.text();
  }
}
if (region) follow();
"""

TROUBLES = {
    "nobody": ("Sign in first", "The link that brought you here belongs to a question that somebody signed in asked."),
    "stranger": (
        "This link is not yours",
        "It was made for a question that was not asked in this browser. Nothing was connected.",
    ),
    "denied": ("Not connected", "You did not allow it, so the agent cannot answer. Ask again if you change your mind."),
    "failed": ("Not connected", "This did not work. Ask again for a new link."),
    "form": ("Ask again", "The form was not the one of this page."),
    "sign-in": ("Sign in again", "That sign-in took too long, or began in another browser."),
}
"""What went wrong, in words that tell a stranger nothing."""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · Example Company</title>
<link rel="stylesheet" href="/style.css">
<script src="/follow.js" defer></script>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""


@dataclass(frozen=True, slots=True)
class View:
    """What the page shows of a conversation.

    Attributes:
        state: How far it is.
        version: Grows with each change.
        question: The user's.
        link: To the consent.
        text: The answer, or what went wrong.
    """

    state: State = "idle"
    version: int = 0
    question: str = ""
    link: str = ""
    text: str = ""


def welcome() -> str:
    """The page of somebody who is not signed in."""
    return _page("Ask your agent", '<p>It acts for you, and for you alone.</p><a class="button" href="/sign-in">Sign in</a>')


def home(name: str, form_token: str, view: View) -> str:
    """The page of a user."""
    token = f'<input type="hidden" name="form_token" value="{escape(form_token)}">'
    return _page(
        "Ask your agent",
        f'<p>Signed in as <strong id="user">{escape(name)}</strong></p>\n'
        f'<form method="post" action="/ask">{token}\n'
        '<label for="question">Question</label>\n'
        '<input id="question" name="question" type="text" maxlength="500" required value="Whose notes can you read?">\n'
        '<button type="submit" id="ask">Ask</button></form>\n'
        f'<div id="conversation" aria-live="polite" data-version="{view.version}">{conversation(view)}</div>\n'
        f'<form method="post" action="/sign-out">{token}<button class="plain" type="submit">Sign out</button></form>',
    )


def conversation(view: View) -> str:
    """The part of the page that changes."""
    if view.state == "idle":
        return ""
    again = '<noscript><p><a href="/">Look again</a></p></noscript>'
    said = {
        "working": f"<p>The agent is at work.</p>{again}",
        "consent": "<p>The agent needs your permission. The next page says for what; you come back here afterwards.</p>"
        f'<a class="button" id="consent" href="{escape(view.link)}">Review the permission</a>{again}',
        "answered": f'<p id="answer">{escape(view.text)}</p>',
        "failed": f'<p id="failure" class="bad">{escape(view.text)}</p>',
    }[view.state]
    return f"<section><h2>{escape(view.question)}</h2>{said}</section>"


def trouble(kind: str) -> str:
    """A page that says what went wrong."""
    title, text = TROUBLES[kind]
    return _page(title, f'<p class="bad" role="alert">{text}</p><p><a href="/">Back</a></p>')


def _page(title: str, body: str) -> str:
    return _PAGE.format(title=escape(title), body=body)
