"""The store on PostgreSQL, for several replicas: see ``gateway.store``."""
