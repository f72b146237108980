"""`python -m mcp_identity`: the console script under another name."""

from mcp_identity.cli import main

if __name__ == "__main__":
    main()
