"""The nine steps as components of Kubeflow Pipelines, and those that only a pipeline has: thin bodies, no logic."""
