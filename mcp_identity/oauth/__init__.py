"""How is it spoken: OAuth 2.0 and OpenID Connect as pure pairs of request and answer. No I/O, no clock, no logging."""
