"""Looks into a network: shapes, places of the state, costs, numbers worked by hand."""
