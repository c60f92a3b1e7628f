"""The search for the best settings: its space, its limits, its trials, and what it leaves."""
