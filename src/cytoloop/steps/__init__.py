"""The steps: one plain function in one module of the same name, run through `cytoloop.door`."""
