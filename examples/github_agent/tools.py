"""What can the developer agent do at GitHub? List repositories, issues and pull requests, with the token that it is given.

Plain functions, which any agent framework takes as tools. This agent needs no model to choose among them: it goes by the
words of the question, so that it runs anywhere and always the same way.
"""

from __future__ import annotations

import os
from typing import Any

import httpx2


class AuthenticationRequired(Exception):
    """There is no token, or GitHub does not take it any more."""


async def answer(question: str, token: str) -> str:
    """Answer a question about the user's repositories.

    Raises:
        AuthenticationRequired: If the user has to connect GitHub first.
    """
    if not token:
        raise AuthenticationRequired
    headers = {
        "Authorization": f"Bearer {token}",
        "Accept": "application/vnd.github+json",
        "X-GitHub-Api-Version": "2022-11-28",
        "User-Agent": "developer-agent",
    }
    async with httpx2.AsyncClient(base_url=os.environ["GITHUB_API"], headers=headers, timeout=30) as github:
        words = question.casefold()
        if "issue" in words:
            return await list_issues(github)
        if "pull" in words:
            return await list_pulls(github)
        return await list_repositories(github)


async def list_repositories(github: httpx2.AsyncClient) -> str:
    """The user's repositories."""
    found = [f"{each['full_name']}{' (private)' if each['private'] else ''}" for each in await _get(github, "/user/repos")]
    return f"Repositories: {', '.join(found)}"


async def list_issues(github: httpx2.AsyncClient) -> str:
    """The open issues of all of them."""
    found = [
        f"{each['full_name']}: {issue['title']}"
        for each in await _get(github, "/user/repos")
        for issue in await _get(github, f"/repos/{each['full_name']}/issues")
        if "pull_request" not in issue  # GitHub lists them among the issues
    ]
    return f"Issues: {'; '.join(found) or 'none'}"


async def list_pulls(github: httpx2.AsyncClient) -> str:
    """The open pull requests of all of them."""
    found = [
        f"{each['full_name']}: {pull['title']}"
        for each in await _get(github, "/user/repos")
        for pull in await _get(github, f"/repos/{each['full_name']}/pulls")
    ]
    return f"Pull requests: {'; '.join(found) or 'none'}"


async def _get(github: httpx2.AsyncClient, path: str) -> list[dict[str, Any]]:
    response = await github.get(path)
    if response.status_code == 401:  # noqa: PLR2004 - the status that says so
        raise AuthenticationRequired
    return response.raise_for_status().json()
