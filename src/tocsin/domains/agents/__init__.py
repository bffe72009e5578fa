"""Agents that loop, spend and get nowhere: found from what they do, and stopped in stages."""
