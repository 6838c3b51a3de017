"""What each peer serves: the champion's package, the way the peer's own documentation writes a service."""
