"""cytoloop: a whole, trustworthy loop for microscopy segmentation."""

__version__ = "0.1.0"
