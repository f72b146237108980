# pyright: basic
# boto3 makes its clients at run time and carries no types.
"""Lab 3, together: one agent with a user's token, a token of its own (M2M) and an API key."""

from __future__ import annotations

from lab import BUSY, RETURN_URL, WEATHER_KEY, Lab, agree, say, token_of
from world import step


def together(lab: Lab) -> None:
    """Go through it."""
    step(3, "Together: notes of a user, reports of the company, and the weather", "Three kinds of credential, one agent.")
    lab.control.create_api_key_credential_provider(name="weather", apiKey=WEATHER_KEY, tags={"owner": "team-sky"})
    agent = lab.data
    wat = agent.get_workload_access_token_for_user_id(workloadName=BUSY, userId="cognito+alice")["workloadAccessToken"]
    asked = token_of(agent, wat, "notes", "USER_FEDERATION", resourceOauth2ReturnUrl=RETURN_URL)
    agent.complete_resource_token_auth(userIdentifier={"userId": "cognito+alice"}, sessionUri=agree(asked["authorizationUrl"]))
    users = token_of(agent, wat, "notes", "USER_FEDERATION", resourceOauth2ReturnUrl=RETURN_URL)["accessToken"]
    say("notes, with the user's token", lab.notes_of(users))
    # The decorators of the stock SDK send the return URL with every flow.
    own = token_of(agent, wat, "reports", "M2M", resourceOauth2ReturnUrl=RETURN_URL)["accessToken"]
    say("reports, with the agent's own", lab.notes_of(own))
    key = agent.get_resource_api_key(workloadIdentityToken=wat, resourceCredentialProviderName="weather")["apiKey"]
    say("the weather, with the key", lab.weather_with(key))
    say("three credentials, and no two the same", len({users, own, key}) == 3)  # noqa: PLR2004 - as it says
