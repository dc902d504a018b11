"""The session manager: sessions, their replicas, the nodes they run on, and the routes to them."""
