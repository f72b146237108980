"""Does an agent get at run time what is its own, by the operations of the service, and nothing else?"""

from __future__ import annotations

from tests.agentcore.kit import World


async def test_a_workload_gets_a_token_for_itself_and_with_it_what_the_client_may(world: World) -> None:
    wat = await world.wat(None)
    assert wat.startswith("mid_wat_")
    reply = await world.token(wat, flow="M2M", resourceOauth2ReturnUrl="https://nowhere.example.com/x")
    assert reply.status == 200, reply.json
    assert set(reply.json) == {"accessToken"}
    assert reply.json["accessToken"] in world.vendor.minted


async def test_connect(world: World) -> None:
    assert await world.connected() in world.vendor.minted
