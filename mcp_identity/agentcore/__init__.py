"""The edge that clients of Amazon Bedrock AgentCore Identity speak to: the same operations, errors and flows, on our broker.

A client is pointed here by its endpoint alone, and signs with an access key of ours. Everything that is asked becomes a verb of
the broker, as at the other edges; there is no second implementation of anything behind here. Where what is asked has no meaning
here (payment, a portal of its own, private networks of a cloud), the modelled error says so.
"""
