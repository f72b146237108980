# pyright: basic
# boto3 makes its clients at run time and carries no types.
"""Lab 2, outbound: a provider that asks its users (3LO), and what belongs to whom."""

from __future__ import annotations

from lab import OUTBOUND, RETURN_URL, Lab, agree, refused, say, token_of
from world import shortened, step

FLOW = "USER_FEDERATION"


def outbound(lab: Lab) -> None:
    """Go through it."""
    step(
        2, "Outbound: a user lets the agent read their notes", "GetResourceOauth2Token, the consent, CompleteResourceTokenAuth"
    )
    agent = lab.data
    wat = agent.get_workload_access_token_for_user_id(workloadName=OUTBOUND, userId="cognito+alice")["workloadAccessToken"]
    asked = token_of(agent, wat, "notes", FLOW, resourceOauth2ReturnUrl=RETURN_URL)
    say("there is no token yet, and the session is", asked["sessionStatus"])
    session_id = agree(asked["authorizationUrl"])
    polled = token_of(agent, wat, "notes", FLOW, resourceOauth2ReturnUrl=RETURN_URL, sessionUri=asked["sessionUri"])
    say("before the application has said whose browser that was", f"a token: {'accessToken' in polled}")
    agent.complete_resource_token_auth(userIdentifier={"userId": "cognito+alice"}, sessionUri=session_id)
    polled = token_of(agent, wat, "notes", FLOW, resourceOauth2ReturnUrl=RETURN_URL, sessionUri=asked["sessionUri"])
    say("after", shortened(polled["accessToken"]))
    say("the vendor's API says", lab.notes_of(polled["accessToken"]))

    another = agent.get_workload_access_token_for_user_id(workloadName=OUTBOUND, userId="cognito+bob")["workloadAccessToken"]
    asked = token_of(agent, another, "notes", FLOW, resourceOauth2ReturnUrl=RETURN_URL)
    say("Bob has a token", "accessToken" in asked)
    session_id = agree(asked["authorizationUrl"])  # Bob's link, in Alice's browser
    wrong = {"userId": "cognito+alice"}
    say(
        "Bob's link, opened by Alice, and her application completes it as her",
        refused(lambda: agent.complete_resource_token_auth(userIdentifier=wrong, sessionUri=session_id)),
    )
