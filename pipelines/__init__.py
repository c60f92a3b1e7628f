"""The graphs of the two runners: no logic of the steps."""
