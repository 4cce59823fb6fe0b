"""Who acts: users, organizations, roles, plans and API keys, and the one place that narrows a query to a tenant."""
