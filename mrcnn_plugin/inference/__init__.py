"""Uses a trained model: prediction, masks as RLE, tiles of large images, output formats."""
