"""The web process: where providers call, and where a load balancer asks whether it may send them."""
