"""What does a page show and offer? Its text, links, forms and buttons, read out of the HTML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import httpx2

SILENT_TAGS = frozenset({"script", "style", "template", "title"})
INLINE_TAGS = frozenset({"a", "abbr", "b", "code", "em", "i", "q", "small", "span", "strong", "u"})


@dataclass(slots=True)
class Button:
    """A submit button: what is written on it, what it adds to the form, and where it sends it if not to the form's action."""

    label: str = ""
    name: str = ""
    value: str = ""
    action: str = ""

    def says(self, *words: str) -> bool:
        """Say whether its label starts with one of the words, or its name is one."""
        return self.label.casefold().startswith(words) or self.name.casefold() in words


@dataclass(slots=True)
class Form:
    """A form as the page shows it: its controls by name, with their present values; hidden ones included."""

    page_url: str
    action: str
    method: str
    controls: set[str] = field(default_factory=set[str])
    hidden: set[str] = field(default_factory=set[str])
    values: dict[str, str] = field(default_factory=dict[str, str])
    username_field: str = ""
    password_field: str = ""
    buttons: list[Button] = field(default_factory=list[Button])
    sends_itself: bool = False
    """A script would send it at once: nothing to fill in, and its button stands in `<noscript>`."""

    @property
    def visible(self) -> list[str]:
        """The names of the controls that a person can fill in."""
        return sorted(self.controls - self.hidden)

    def find_button(self, *words: str) -> Button | None:
        """Find the button that says one of the words."""
        return next((button for button in self.buttons if button.says(*words)), None)

    def request(self, button: Button, fields: Mapping[str, str]) -> tuple[str, str, str]:
        """Answer method, address and body of the request that the button makes of this form and what was typed."""
        values = {**self.values, **fields, **({button.name: button.value} if button.name else {})}
        action = button.action or self.action
        if self.method == "POST":
            return "POST", action, urlencode(values)
        return "GET", urlsplit(action)._replace(query=urlencode(values)).geturl(), ""


@dataclass(frozen=True, slots=True)
class Hop:
    """One request of a navigation, and the status it got."""

    method: str
    url: str
    status: int
    request_headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Page:
    """Where a navigation ended. `status` is 0 where nothing was fetched: a stop address, or a scheme of another app."""

    url: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict[str, str])
    html: str = ""
    title: str = ""
    text: str = ""
    forms: tuple[Form, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    hops: tuple[Hop, ...] = ()
    referrer_policy: str = ""

    @classmethod
    def read(cls, url: str, response: httpx2.Response, hops: tuple[Hop, ...], referrer_policy: str) -> Page:
        """Read the answer that a navigation to `url` ended with."""
        parser = PageParser(url)
        if "html" in response.headers.get("content-type", ""):
            parser.feed(response.text)
            parser.close()
        return cls(
            url=url,
            status=response.status_code,
            headers=dict(response.headers),
            html=response.text,
            title=parser.title.strip(),
            text=" ".join("".join(parser.text).split()) or response.text,
            forms=tuple(parser.forms),
            links=tuple(parser.links),
            hops=hops,
            referrer_policy=parser.referrer_policy or referrer_policy,
        )

    @property
    def query(self) -> dict[str, str]:
        """The parameters in the page's address; a repeated one raises `ValueError`."""
        values = parse_qs(urlsplit(self.url).query, keep_blank_values=True)
        return {name: value for name, (value,) in values.items()}


class PageParser(HTMLParser):
    """Collects title, visible text, links and forms."""

    def __init__(self, url: str) -> None:
        super().__init__(convert_charrefs=True)
        self.title = ""
        self.text: list[str] = []
        self.forms: list[Form] = []
        self.links: list[tuple[str, str]] = []
        self.referrer_policy = ""
        self._url = url
        self._form: Form | None = None
        self._button: Button | None = None
        self._select = ""
        self._link: list[str] | None = None
        self._silent = ""
        self._noscript = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an opening tag begins."""
        given = {name: value or "" for name, value in attrs}
        self._break_line(tag)
        if tag in SILENT_TAGS:
            self._silent = tag
        elif tag == "noscript":
            self._noscript = True
        elif tag == "meta" and given.get("name", "").lower() == "referrer":
            self.referrer_policy = given.get("content", "")
        elif tag == "a" and "href" in given:
            self._link = [urljoin(self._url, given["href"]), ""]
        elif tag == "form":
            if given.get("enctype", "").startswith("multipart/"):
                raise NotImplementedError("This browser sends no files")
            action = urljoin(self._url, given.get("action") or self._url)
            self._form = Form(self._url, action, given.get("method", "get").upper())
            self.forms.append(self._form)
        elif self._form is not None:
            self._handle_control(self._form, tag, given)

    def _handle_control(self, form: Form, tag: str, given: dict[str, str]) -> None:
        name, value = given.get("name", ""), given.get("value", "")
        match tag, given.get("type", "submit" if tag == "button" else "text").lower():
            case (("button" | "input"), ("submit" | "image")):
                action = urljoin(self._url, given["formaction"]) if "formaction" in given else ""
                form.buttons.append(Button("" if tag == "button" else value, name, value, action))
                self._button = form.buttons[-1] if tag == "button" else None
                form.sends_itself = self._noscript and not form.visible
            case "input", ("button" | "reset" | "file"):
                pass
            case "input", kind if name:
                form.controls.add(name)
                if kind not in {"checkbox", "radio"} or "checked" in given:
                    form.values[name] = value or ("on" if kind == "checkbox" else "")
                if kind == "hidden":
                    form.hidden.add(name)
                elif kind == "password":
                    form.password_field = name
                elif kind in {"text", "email"}:
                    form.username_field = form.username_field or name
            case (("select" | "textarea"), _) if name:
                form.controls.add(name)
                self._select = name if tag == "select" else ""
            case "option", _ if self._select and (self._select not in form.values or "selected" in given):
                form.values[self._select] = value
            case _:
                pass

    def handle_endtag(self, tag: str) -> None:
        """Note what a closing tag ends."""
        self._break_line(tag)
        if tag == self._silent:
            self._silent = ""
        elif tag == "noscript":
            self._noscript = False
        elif tag == "form":
            self._form = None
        elif tag == "button":
            self._button = None
        elif tag == "select":
            self._select = ""
        elif tag == "a" and self._link is not None:
            self.links.append((self._link[0], " ".join(self._link[1].split())))
            self._link = None

    def _break_line(self, tag: str) -> None:
        if tag not in INLINE_TAGS:
            self.text.append("\n")

    def handle_data(self, data: str) -> None:
        """Give text to whatever is open: the title, a button, a link, the page."""
        if self._silent == "title":
            self.title += data
        if self._silent:
            return
        self.text.append(data)
        if self._button is not None:
            self._button.label = " ".join(f"{self._button.label} {data}".split())
        if self._link is not None:
            self._link[1] += data
