# pyright: basic
# boto3 makes its clients at run time and carries no types.
"""What goes wrong, what is said then, and what helps? Each line of the table is made to happen, and mended."""

from __future__ import annotations

from typing import Any

from lab import CARELESS, SOMEBODY_ELSES, WEATHER_KEY, Lab, refused, say, token_of
from stock import CONTROL
from world import step


def troubleshooting(lab: Lab) -> None:
    """Go through it."""
    step(4, "Troubleshooting: each mistake names its cause")
    agent = lab.data
    wat = agent.get_workload_access_token(workloadName=CARELESS)["workloadAccessToken"]
    not_found(lab, agent, wat)
    invalid_key(lab, agent, wat)
    no_new_token(lab, agent, wat)
    access_denied(lab, agent, wat)


def not_found(lab: Lab, agent: Any, wat: str) -> None:
    """Credential not found: the list has the names."""
    say("credential not found", refused(lambda: _key(agent, wat, "wether")))
    listed = lab.control.list_api_key_credential_providers()["credentialProviders"]
    say("the list has", ", ".join(each["name"] for each in listed))


def invalid_key(lab: Lab, agent: Any, wat: str) -> None:
    """Invalid API key: the provider is updated, and the next call has the new one."""
    lab.control.update_api_key_credential_provider(name="weather", apiKey="weather-key-of-yesterday")
    say("invalid API key", lab.weather_with(_key(agent, wat, "weather")))
    lab.control.update_api_key_credential_provider(name="weather", apiKey=WEATHER_KEY)
    say("after the update", lab.weather_with(_key(agent, wat, "weather")))


def no_new_token(lab: Lab, agent: Any, wat: str) -> None:
    """An OAuth token has ended and there is no new one: the provider's configuration is wrong."""
    lab.add_oauth_provider("invoices", "reports-app", "a secret that was replaced at the vendor")
    say("no new OAuth token", refused(lambda: token_of(agent, wat, "invoices", "M2M")))
    lab.control.delete_oauth2_credential_provider(name="invoices")
    lab.add_oauth_provider("invoices", "reports-app")
    say("with the vendor's newest secret", lab.notes_of(token_of(agent, wat, "invoices", "M2M")["accessToken"]))


def access_denied(lab: Lab, agent: Any, wat: str) -> None:
    """Access denied: what may this agent do, and what may this key?"""
    lab.world.cli("workloads", "update", CARELESS, "--allow-provider", "reports")
    wat = agent.get_workload_access_token(workloadName=CARELESS)["workloadAccessToken"]  # what was issued before has ended
    say("access denied", refused(lambda: _key(agent, wat, "weather")))
    lab.world.cli("workloads", "update", CARELESS, "--allow-provider", "reports", "--allow-provider", "weather")
    wat = agent.get_workload_access_token(workloadName=CARELESS)["workloadAccessToken"]
    say("after it was allowed", lab.weather_with(_key(agent, wat, "weather")))
    say("another agent's", refused(lambda: agent.get_workload_access_token(workloadName=SOMEBODY_ELSES)))
    control = lab.key.client(CONTROL)
    say("an operator's", refused(lambda: control.delete_oauth2_credential_provider(name="notes")))


def _key(agent: Any, wat: str, provider: str) -> str:
    return agent.get_resource_api_key(workloadIdentityToken=wat, resourceCredentialProviderName=provider)["apiKey"]
