"""How good a segmentation is. Arrays only: no disk, no config.

Two rules hold everywhere. A score of something that is absent from both truth and prediction is NaN,
is left out of every mean, and the number of pictures that were scored stands beside the mean. A mean
over pictures is called `image_mean`, a score of summed counts `pooled`.
"""
