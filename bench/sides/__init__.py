"""Our sides that run as processes of their own."""
