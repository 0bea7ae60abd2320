"""From labels, with an encoder, given weights or neither, to classifiers and their scores."""
